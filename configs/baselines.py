"""Baselines under the protocol and the budget of IMAT: same corpus, features, epochs, batches.

python -m imat_jax.train --config=configs/baselines.py:model=tfn,corpus=tiny --workdir=runs/tfn
python -m imat_jax.train --config=configs/baselines.py:model=late,corpus=mosi,modalities=text …

Starts from the corpus's own config, whose settings were chosen for IMAT, and switches the model;
what a model needs otherwise is below. `selfmm` is for the two mosi corpora. One modality alone:
`early` (its mean and deviation) or `late` (IMAT's encoder of it).
"""

from __future__ import annotations

from configs import common, mosi, ravdess, tiny

# {corpus: its config, and the arguments that pick the corpus there}
CORPORA = {
    "tiny": (tiny, ""),
    "ravdess": (ravdess, ""),
    "mosi": (mosi, "corpus=mosi"),
    "mosi400": (mosi, "corpus=mosi400"),
}


def get_config(arg: str = ""):
    arg = common.parse(arg, model="late", corpus="tiny", modalities="")
    if arg.corpus not in CORPORA:
        raise ValueError(f"corpus is one of {', '.join(CORPORA)}, not {arg.corpus!r}")
    module, which = CORPORA[arg.corpus]
    c = module.get_config(which)
    c.modalities = arg.modalities or c.modalities
    c.model.name = arg.model
    return c
