"""Encoders `mfcc`, `logmel` and `egemaps`: descriptors of speech without learned weights."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence

import numpy as np

from imat_jax.data.corpus import DataError, Modality
from imat_jax.encoders.encoder import SAMPLE_RATE, Encoder

RATE = 100.0  # frames a second, of all three
MEL_BINS = 80
CEPSTRA = 20
CEPSTRAL_BINS = 40


def logmel() -> Encoder:
    """Waveforms [L] at 16 kHz -> 80 log mel energies at 100 Hz, [T, 80], as Kaldi computes them.

    Windows of 25 ms whose middle is that of their 10 ms; T = round(L / 160), halves up. No dither.

    Raises:
      DataError: kaldi-native-fbank is not installed.
    """
    kaldi = _kaldi()
    options = kaldi.FbankOptions()
    options.mel_opts.num_bins = MEL_BINS
    return _kaldi_encoder("logmel", MEL_BINS, options, kaldi.OnlineFbank)


def mfcc() -> Encoder:
    """Waveforms [L] at 16 kHz -> 20 mel-frequency cepstra at 100 Hz, [T, 20], of 40 mel bins.

    Frames as those of `logmel`. The first coefficient is c0, not the energy, so that loudness moves
    it alone. No deltas: they are linear in the frames.

    Raises:
      DataError: kaldi-native-fbank is not installed.
    """
    kaldi = _kaldi()
    options = kaldi.MfccOptions()
    options.mel_opts.num_bins = CEPSTRAL_BINS
    options.num_ceps = CEPSTRA
    options.use_energy = False
    return _kaldi_encoder("mfcc", CEPSTRA, options, kaldi.OnlineMfcc)


def egemaps() -> Encoder:
    """Waveforms [L] at 16 kHz -> the 25 low-level descriptors of eGeMAPSv02 at 100 Hz, [T, 25].

    Eyben et al. 2016. They are loudness, spectral shape, pitch, jitter, shimmer and formants; 0
    stands for "unvoiced" in those of voice. T is about L / 160 - 4, for windows of 60 ms; a clip of
    less than 60 ms has no frame. openSMILE's licence is for research and education only.

    Raises:
      DataError: opensmile is not installed.
    """
    try:
        import opensmile
    except ImportError as error:
        raise DataError(
            "opensmile is not installed: pip install 'imat_jax[egemaps]' (its licence allows "
            "research and education only)"
        ) from error
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.LowLevelDescriptors,
    )
    dim = smile.num_features
    shortest = SAMPLE_RATE * 60 // 1000  # openSMILE fills in NaN for what is shorter

    def describe(wave: np.ndarray) -> np.ndarray:
        if len(wave) < shortest:
            return np.zeros((0, dim), np.float32)
        return smile.process_signal(wave, SAMPLE_RATE).to_numpy(np.float32)

    return _encoder("egemaps", dim, "opensmile", describe)


def _kaldi():
    try:
        import kaldi_native_fbank
    except ImportError as error:
        raise DataError(
            "kaldi-native-fbank is not installed: pip install 'imat_jax[media]'"
        ) from error
    return kaldi_native_fbank


def _kaldi_encoder(name: str, dim: int, options, computer: Callable) -> Encoder:
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False  # frames in the middle of their 10 ms

    def describe(wave: np.ndarray) -> np.ndarray:
        if len(wave) < SAMPLE_RATE // RATE / 2:
            return np.zeros((0, dim), np.float32)
        online = computer(options)
        online.accept_waveform(SAMPLE_RATE, wave * np.float32(2**15))  # int16's range
        online.input_finished()
        return np.stack([online.get_frame(t) for t in range(online.num_frames_ready)])

    return _encoder(name, dim, "kaldi-native-fbank", describe)


def _encoder(name: str, dim: int, package: str, describe: Callable) -> Encoder:
    version = f"none ({package} {importlib.metadata.version(package)})"

    def encode(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [describe(wave) for wave in inputs]

    return Encoder(Modality(dim, name, version, "none", RATE), encode)
