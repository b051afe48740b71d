"""Encoder `speech-embedding`: Google's small speech embedding, on the CPU.

Lin et al., "Training keyword spotters with limited and synthesized speech data" (2020), in the form
in which openWakeWord distributes it: a log-mel spectrogram, and a convolutional network of 330,000
parameters over windows of 76 mel frames that start every 8 frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imat_jax.data.corpus import Modality
from imat_jax.encoders.encoder import SAMPLE_RATE, Encoder
from imat_jax.encoders.litert import Network

MELS = 32
WINDOW = 76  # mel frames, each of 512 samples, one every 160
SAMPLES = 512 + 160 * (WINDOW - 1)  # of a window: 0.78 s
STEP = 8 * 160  # samples from window to window: 80 ms
DIM = 96


def encoder() -> Encoder:
    """Waveforms [L] at 16 kHz in [-1, 1] -> embeddings [T, 96] at 12.5 Hz.

    T = 1 + (L - 12512) // 1280: frame t sees the 0.78 s that begin at t / 12.5 s. A shorter clip is
    filled up with silence behind and has one frame; an empty one has none.

    A frame depends on its window alone. openWakeWord takes the spectrogram of the whole clip, which
    is the same but where the clip's loudest and softest frame are more than 80 dB apart: the
    spectrogram is floored there.

    Raises:
      DataError: LiteRT or the package of the weights is not installed.
    """
    mel = Network("pyopen_wakeword", "models/melspectrogram.tflite", (1, SAMPLES))
    embedding = Network("pyopen_wakeword", "models/embedding_model.tflite", (1, WINDOW, MELS, 1))
    modality = Modality(
        DIM,
        "speech-embedding",
        f"{mel.checkpoint}, {embedding.checkpoint}",
        "output",
        SAMPLE_RATE / STEP,
    )

    def embed(window: np.ndarray) -> np.ndarray:
        (decibels,) = mel(window[None] * np.float32(2**15))  # int16's range
        (features,) = embedding(decibels.reshape(1, WINDOW, MELS, 1) / np.float32(10) + 2)
        return features.reshape(DIM)

    def encode(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            np.array([embed(window) for window in _windows(wave)], np.float32).reshape(-1, DIM)
            for wave in inputs
        ]

    return Encoder(modality, encode, stride=(SAMPLES, STEP))


def _windows(wave: np.ndarray) -> np.ndarray:
    """[L] -> [T, SAMPLES], a view of the wave."""
    if 0 < len(wave) < SAMPLES:
        wave = np.pad(wave, (0, SAMPLES - len(wave)))
    if not len(wave):
        return np.zeros((0, SAMPLES), np.float32)
    return np.lib.stride_tricks.sliding_window_view(wave.astype(np.float32), SAMPLES)[::STEP]
