"""Encoder `hf`: wav2vec 2.0, HuBERT, WavLM and data2vec-audio from a Hugging Face directory.

Run by transformers with PyTorch, the extra `[features]`; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from imat_jax.data.corpus import DataError, Modality
from imat_jax.encoders.encoder import SAMPLE_RATE, Encoder

MODELS = ("wav2vec2", "hubert", "wavlm", "data2vec-audio")
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
UNUSED = "masked_spec_embed"  # of masked training


def encoder(directory: str | pathlib.Path, layer: int = -1, device: str = "cpu") -> Encoder:
    """Waveforms [L] at 16 kHz in [-1, 1] -> hidden states [T, D], at 50 Hz for published models.

    One clip at a time: padding changes the result of models whose convolutions have group
    normalisation, and of all others the last bits. Loudness is normalised where the directory's
    preprocessor says so. A clip shorter than the receptive field (25 ms) has no frame.

    Args:
      directory: as `save_pretrained` writes it: config.json, preprocessor_config.json and
        model.safetensors or pytorch_model.bin, in one piece.
      layer: 0 is what enters the first transformer layer, N what leaves the last; negative ones
        count from the end. N and -1 include the network's last normalisation.
      device: of PyTorch, such as "cuda".

    Raises:
      DataError: PyTorch is not installed; a file is missing; the model is of another kind, samples
        at another rate or lacks weights; it has no such layer.
    """
    directory = pathlib.Path(directory)
    config = _read(directory / CONFIG)
    kind = config.get("model_type")
    if kind not in MODELS or config.get("add_adapter"):
        kind = f"{kind} with an adapter" if kind in MODELS else kind
        raise DataError(
            f"{directory / CONFIG}: model_type is {kind}; {', '.join(MODELS)} without adapter are "
            "read"
        )
    rate = _read(directory / PREPROCESSOR).get("sampling_rate")
    if rate != SAMPLE_RATE:
        raise DataError(f"{directory / PREPROCESSOR}: sampling_rate is {rate}, not {SAMPLE_RATE}")
    weights = next((directory / w for w in WEIGHTS if (directory / w).is_file()), None)
    if weights is None:
        raise DataError(f"{directory}: none of {', '.join(WEIGHTS)} is there")
    torch, model, extractor = _load(directory, weights)
    model = model.to(device).eval()
    layers = model.config.num_hidden_layers
    if not -layers - 1 <= layer <= layers:
        raise DataError(f"{directory}: there is no layer {layer}; there are 0 to {layers}")
    index = layer % (layers + 1)
    dim = model.config.hidden_size

    def encode_one(wave: np.ndarray) -> np.ndarray:
        if not _frames(len(wave), model.config):
            return np.zeros((0, dim), np.float32)
        inputs = extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        with torch.inference_mode():
            output = model(inputs.to(device), output_hidden_states=True)
        # From transformers 5 on, the last of the hidden states may lack the last normalisation.
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        return states[index][0].float().cpu().numpy()

    def encode(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [encode_one(np.asarray(wave, np.float32)) for wave in inputs]

    with weights.open("rb") as file:
        checkpoint = f"{weights.name} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    hop = math.prod(model.config.conv_stride)
    modality = Modality(dim, kind, checkpoint, f"{index} of {layers}", SAMPLE_RATE / hop)
    return Encoder(modality, encode)


def _load(directory: pathlib.Path, weights: pathlib.Path) -> tuple[Any, Any, Any]:
    """torch, and the model and the preprocessor of the directory."""
    try:
        import torch
        from transformers import AutoFeatureExtractor, AutoModel
    except ImportError as error:
        raise DataError(
            f"{directory} is run by PyTorch, which is not installed: "
            "pip install 'imat_jax[features]'"
        ) from error
    try:
        extractor = AutoFeatureExtractor.from_pretrained(directory, local_files_only=True)
        model, report = AutoModel.from_pretrained(
            directory, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # a broken file can break anywhere
        raise DataError(f"{directory}: transformers cannot load it: {error}") from error
    # transformers would fill these with random numbers and go on.
    missing = [name for name in report["missing_keys"] if not name.endswith(UNUSED)]
    if missing:
        raise DataError(
            f"{weights}: {len(missing)} weights of the model are missing, such as "
            f"{', '.join(sorted(missing)[:3])}"
        )
    return torch, model, extractor


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(
            f"{path}: no such file; a directory of save_pretrained is needed"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error


def _frames(samples: int, config: Any) -> int:
    """What the convolutions make of as many samples."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
    return samples
