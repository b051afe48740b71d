"""The embedded corpus, whose best possible accuracy is known for every subset of modalities.

python -m imat_jax.build --source=synthetic --output=data/tiny
python -m imat_jax.train --config=configs/tiny.py --workdir=runs/tiny
python -m imat_jax.train --config=configs/tiny.py:modalities=text --workdir=runs/tiny-text

Expected: docs/results.md, from EXPECTED below.
"""

from __future__ import annotations

from configs import common

# Of one seed: two standard errors of an accuracy on 2000 utterances to either side.
EXPECTED = {
    "build": ["--source=synthetic"],
    "protocol": "synthetic-4way",
    "splits": {"train": 4000, "valid": 1000, "test": 2000},
    "sources": {},
    "seeds": [0],
    "minutes": 3,
    "runs": {
        "modalities=text+audio+vision": {"acc": {"mean": 0.940, "low": 0.929, "high": 0.951}},
        "modalities=audio": {"acc": {"mean": 0.470, "low": 0.448, "high": 0.492}},
        "modalities=text": {"acc": {"mean": 0.394, "low": 0.372, "high": 0.416}},
        "modalities=vision": {"acc": {"mean": 0.334, "low": 0.313, "high": 0.355}},
    },
    "notes": "Best possible on this test split: 0.940, audio 0.4755, text 0.395, vision 0.331.",
    "environment": common.MEASURED_WITH,
}


def get_config(arg: str = ""):
    arg = common.parse(arg, modalities="text+audio+vision")
    c = common.get_config()
    c.dataset = "data/tiny"
    c.modalities = arg.modalities
    c.epochs = 8
    c.data.buckets = 2
    return c
