"""CMU-MOSI sentiment in [-3, 3].

python -m imat_jax.build --input=mosi_text_audio.npz --protocol=mosi-sentiment --output=data/mosi
python -m imat_jax.train --config=configs/mosi.py --workdir=runs/mosi

Expected: docs/results.md, from EXPECTED below. `mosi400` has the same settings, which were not
chosen for it:

python -m imat_jax.build --source=npz --input=mosi400.npz --output=data/mosi400
python -m imat_jax.train --config=configs/mosi.py:corpus=mosi400 --workdir=runs/mosi400
"""

from __future__ import annotations

from configs import common

# Where the mean of another five seeds lies 19 times of 20, by the deviation of these (mae 0.016,
# acc2_has0 0.005): mean ± t(0.975, 4) deviation sqrt(1/5 + 1/5).
EXPECTED = {
    "build": ["--input=mosi_text_audio.npz", "--protocol=mosi-sentiment"],
    "protocol": "mosi-sentiment",
    "splits": {"train": 1284, "valid": 229, "test": 686},
    "sources": {
        "mosi_text_audio.npz": "cb5d091ade9ae6aa67b77796ec8990bac56cb34189548785dfa8cac4e8f57c9c",
    },
    "seeds": [0, 1, 2, 3, 4],
    "minutes": 5,
    "runs": {
        "modalities=text+audio": {
            "mae": {"mean": 0.833, "low": 0.805, "high": 0.861},
            "acc2_has0": {"mean": 0.814, "low": 0.805, "high": 0.823},
        },
    },
    "notes": "Ridge regression: mae 0.985, acc2_has0 0.774.",
    "environment": common.MEASURED_WITH,
}
# {corpus: modalities}
CORPORA = {"mosi": "text+audio", "mosi400": "text+audio+vision"}


def get_config(arg: str = ""):
    arg = common.parse(arg, corpus="mosi", modalities="")
    if arg.corpus not in CORPORA:
        raise ValueError(f"corpus is one of {', '.join(CORPORA)}, not {arg.corpus!r}")
    c = common.get_config()
    c.dataset = f"data/{arg.corpus}"
    c.modalities = arg.modalities or CORPORA[arg.corpus]
    c.epochs = 16
    c.data.buckets = 2
    # Chosen by 5-fold cross-validation over the training and validation videos of `mosi`.
    c.model.cls_token = "statistics"
    c.model.input_dropout.update(text=0.4, audio=0.4, vision=0.4)
    c.model.head_dropout = 0.1
    c.optim.weight_decay = 3.0
    return c


def search(trial):
    """The space of `imat sweep --config=configs/mosi.py --trials=50`, in Optuna's terms."""
    share = trial.suggest_float("input_dropout", 0.0, 0.6)
    return {f"model.input_dropout.{m}": share for m in ("text", "audio", "vision")} | {
        "optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-2, log=True),
        "optim.weight_decay": trial.suggest_float("optim.weight_decay", 0.01, 10.0, log=True),
        "model.encoder_layers": trial.suggest_int("model.encoder_layers", 0, 2),
    }
