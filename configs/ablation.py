"""What each part of IMAT is worth: one change at a time, all else as in the corpus's config.

python -m imat_jax.sweep --config=configs/ablation.py:corpus=tiny --workdir=sweeps/tiny --seeds=5
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from configs import common
from configs.baselines import CORPORA

# One row of the table each; the first is the reference.
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"model.directions": "none"},
    {"model.ima_layers": 2},
    {"model.fusion": "hadamard"},
    {"model.fusion": "gated"},
    {"model.width": 0, "model.heads": 1},  # widths of features divide into no number of heads
    # Without layers a learned CLS reads no frame: to be held against the row of statistics alone.
    {"model.encoder_layers": 0, "model.cls_token": "statistics"},
    {"model.encoder_layers": 1},
    {"model.cls_token": "learned"},
    {"model.cls_token": "statistics"},
    {"model.cls_token": "first"},
    {"model.positions": "none"},
    {"model.positions": "learned"},
    {"model.norm": "pre"},
)


def get_config(arg: str = ""):
    arg = common.parse(arg, corpus="tiny")
    if arg.corpus not in CORPORA:
        raise ValueError(f"corpus is one of {', '.join(CORPORA)}, not {arg.corpus!r}")
    module, which = CORPORA[arg.corpus]
    return module.get_config(which)


def sweep(config) -> Iterator[dict[str, Any]]:
    yield from CHANGES
    modalities = config.modalities.split("+")
    if "text" in modalities:
        yield {"model.text_encoder": False, "model.cls_token": "statistics"}
    for query in modalities:
        into = [f"{query}<-{key}" for key in modalities if key != query]
        if into:
            yield {"model.directions": ",".join(into)}
