"""The encoders that need no download: MiniLM words, speech embedding, points of the face.

python -m imat_jax.extract --input=FOLDER_OR_TABLE --output=data/demo
python -m imat_jax.train --config=configs/offline.py --workdir=runs/demo

`make demo` does both, on clips that it makes up itself: what is learned there is how four synthetic
emotions were made, and says nothing of people.
"""

from __future__ import annotations

from configs import common


def get_config(arg: str = ""):
    arg = common.parse(arg, modalities="")
    c = common.get_config()
    c.dataset = "data/demo"
    c.modalities = arg.modalities
    c.batch_size = 8
    c.epochs = 15
    c.data.buckets = 2
    c.model.width = 32
    c.model.encoder_layers = 0
    c.model.cls_token = "statistics"
    c.model.modality_dropout = 0.2
    c.optim.weight_decay = 0.1
    return c
