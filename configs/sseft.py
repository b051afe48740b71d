"""The published system, SSE-FT: RoBERTa 1024, wav2vec 512, FAb-Net 256 features, 42.7 M parameters.

    python -m imat_jax.train --config=configs/sseft.py:dataset=data/mosei --workdir=runs/sseft
    python -m imat_jax.train --config=configs/sseft.py:dataset=data/mosei,mode=published …

Hyper-parameters are those of the repository's second MOSEI run (2 encoder layers, 1 IMA layer, 2
heads, batch 8, Adam 3e-4 with linear decay), which it logs at Acc-7 55.7 on test. Ours has not been
run on MOSEI: its features are not public. `features=any` takes a dataset of other widths.
"""

from __future__ import annotations

from configs import common

WIDTHS = {"text": 1024, "audio": 512, "vision": 256}


def get_config(arg: str = ""):
    arg = common.parse(
        arg,
        dataset="data/mosei",
        modalities="text+audio+vision",
        mode="corrected",
        features="published",
    )
    if arg.features not in ("published", "any"):
        raise ValueError(f'features is "published" or "any", not {arg.features!r}')
    c = common.get_config()
    c.dataset = arg.dataset
    c.modalities = arg.modalities
    c.epochs = 32
    c.batch_size = 8
    c.data.standardize = False
    c.data.mode = arg.mode
    c.data.max_frames.update({"text": 512, "audio": 935, "vision": 300})
    c.model.name = "sseft"
    if arg.features == "published":
        c.model.features.update(WIDTHS)
    c.model.width = 0
    c.model.encoder_layers = 2
    c.model.ima_layers = 1
    c.model.heads = 2
    c.model.ffn = 1024
    c.model.head_width = 0
    c.optim.lr = 3e-4
    c.optim.schedule = "linear"
    c.optim.warmup = 0.0015
    c.optim.weight_decay = 0.1
    c.optim.decay = "all"
    c.optim.clip = 0.0
    return c
