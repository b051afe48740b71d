"""Transcripts of speech where none were written, by a local Whisper or CTC model in PyTorch."""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

import numpy as np

from imat_jax.data.corpus import DataError
from imat_jax.encoders.encoder import SAMPLE_RATE
from imat_jax.encoders.transcripts import Cue, Transcript


def transcribe(wave: np.ndarray, model_dir: str | os.PathLike) -> Transcript:
    """What is said in a waveform [L], float32 at 16 kHz; phrases of Whisper, words of CTC models.

    model_dir: a folder that transformers' `save_pretrained` wrote, of model, tokenizer and feature
    extractor. It is loaded once; nothing is downloaded.

    Raises:
      DataError: PyTorch is not installed, or the folder does not hold such a model.
    """
    recognise = recogniser(os.fspath(model_dir))
    if not len(wave):
        return Transcript("")
    kind = "word" if recognise.type.startswith("ctc") else True
    said = recognise({"raw": wave, "sampling_rate": SAMPLE_RATE}, return_timestamps=kind)
    cues = []
    for chunk in said["chunks"]:
        start, end = chunk["timestamp"]
        end = len(wave) / SAMPLE_RATE if end is None else end  # Whisper, of a phrase cut short
        cues.append(Cue(float(start), float(end), " ".join(chunk["text"].split())))
    return Transcript.of(cues)


@functools.lru_cache(maxsize=1)
def recogniser(model_dir: str) -> Any:
    try:
        import torch
        import transformers
    except ImportError as error:
        message = f"{model_dir}: recognising speech needs PyTorch: pip install 'imat_jax[features]'"
        raise DataError(message) from error
    if not (pathlib.Path(model_dir) / "config.json").is_file():
        raise DataError(f"{model_dir}: not a folder of a model: it has no config.json")
    try:
        # A folder is read as it is; nothing is looked up by its name.
        return transformers.pipeline(
            "automatic-speech-recognition", model=model_dir, device="cpu", dtype=torch.float32
        )
    except Exception as error:  # transformers raises many kinds
        problem = f"not a model that recognises speech: {str(error).splitlines()[0]}"
        raise DataError(f"{model_dir}: {problem}") from error
