"""The embedded corpus: python -m imat_jax.train --config=configs/tiny.py --workdir=runs/tiny"""

from __future__ import annotations

from configs import common


def get_config(arg: str = ""):
    arg = common.parse(arg, modalities="text+audio+vision")
    c = common.get_config()
    c.dataset = "data/tiny"
    c.modalities = arg.modalities
    return c
