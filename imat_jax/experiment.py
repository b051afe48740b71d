"""What a config stands for: dataset, task, mesh, model. Shared by the programs that run one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx

from imat_jax import compiled, models, sharding, tasks, tuning
from imat_jax import config as configs
from imat_jax.cli import UsageError
from imat_jax.data import loader, published
from imat_jax.data.dataset import Dataset
from imat_jax.data.plan import Shape


@dataclasses.dataclass(frozen=True)
class Network:
    """A config's task and model, on a mesh; made by `network`, holds no parameters.

    Attributes:
      dims: {modality: feature width} of the modalities used, in canonical order.
      graphdef: the model without its parameters, for `nnx.merge`.
      abstract: shapes, dtypes and placement of the parameters.
      attention: the backend of self-attention (`models/backends.py`).
      statistics: training-split moments to standardise what is read with, or None.
      text: the text encoder that is trained too, or None.
    """

    config: ml_collections.ConfigDict
    task: tasks.Task
    mesh: jax.sharding.Mesh
    dims: Mapping[str, int]
    graphdef: Any
    abstract: nnx.State
    attention: str
    statistics: Mapping[str, Mapping] | None
    text: tuning.Text | None

    def params(self, key: jax.Array) -> nnx.State:
        """Fresh parameters; `tuning.pretrained` fills those of the text encoder."""
        model = _model(self.config, self.dims, self.task, self.mesh, self.text, key)
        return nnx.state(model, nnx.Param)

    def apply(self, params: nnx.State, batch: Mapping, **kw: Any) -> tuple[jax.Array, dict]:
        """The model on a batch, (outputs [B, K], extras), on this mesh; to be called under jit."""
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            return nnx.merge(self.graphdef, params)(batch, **kw)


@dataclasses.dataclass(frozen=True)
class Experiment(Network):
    """A network and the dataset that it learns from; made by `make`.

    Attributes:
      buckets: padded shapes of the batches.
      selection: the validation metric that selects the checkpoint.
    """

    dataset: Dataset
    buckets: list[Shape]
    selection: str

    def split(self, name: str, **kw) -> loader.Split:
        """One split as batches; `seed` and `steps` for training, neither for one pass in order."""
        return loader.Split(
            self.dataset,
            name,
            modalities=tuple(self.dims),
            batch_size=self.config.batch_size,
            buckets=self.buckets,
            rows=sharding.my_rows(self.mesh, self.config.batch_size),
            place=published.place if self.config.data.mode == "published" else None,
            context=(self.config.model.context, self.config.model.bidirectional),
            **kw,
        )


def make_task(
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any],
    train_label: np.ndarray | None = None,
) -> tasks.Task:
    """The task of a dataset with that metadata, with the losses of `config`.

    Args:
      train_label: as in `network`.

    Raises:
      UsageError: a value that cannot be, or that the task has no use for.
    """
    name, classes, weights = metadata["task"], metadata["class_names"], None
    threshold = config.task.threshold
    try:
        if config.task.class_weights not in ("", "balanced"):
            raise ValueError(
                f'task.class_weights is "" or "balanced", not {config.task.class_weights!r}'
            )
        if config.task.class_weights and train_label is not None:
            weights = tasks.balanced(name, train_label, len(classes))
        return tasks.make(
            name,
            classes,
            loss=config.task.loss or None,
            label_smoothing=config.task.label_smoothing,
            focal=config.task.focal,
            class_weights=weights,
            threshold=None if threshold < 0 else threshold,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"config: {error}") from error


def network(
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
    train_label: np.ndarray | None = None,
) -> Network:
    """The network of `config` for a dataset with that metadata.

    Args:
      train_label: labels of the training split, where the loss is to weigh classes by them.

    Raises:
      UsageError: the config does not fit itself or the dataset.
    """
    compiled.keep()
    dims = configs.modalities(config, {m: v["dim"] for m, v in metadata["modalities"].items()})
    text = tuning.find(config, metadata, tuple(dims))
    task = make_task(config, metadata, train_label)
    try:
        if config.model.name == "selfmm" and metadata["task"] != "sentiment":
            raise ValueError(f"selfmm is for the task sentiment, not {metadata['task']}")
        key = jax.random.key(0)
        model = nnx.eval_shape(lambda: _model(config, dims, task, mesh, text, key))
    except (TypeError, ValueError) as error:
        raise UsageError(f"config: {error}") from error
    statistics = metadata["statistics"] if config.data.standardize else None
    if statistics and text:  # the model standardises what its text encoder gives
        statistics = {m: v for m, v in statistics.items() if m != "text"}
    graphdef, shapes = nnx.split(model, nnx.Param)
    abstract = sharding.placed(shapes, mesh, config.mesh.fsdp_min)
    attention = (model.fusion if text else model).attention
    return Network(
        config, task, mesh, dims, graphdef, abstract, attention, statistics, text
    )  # fmt: skip


def make(config: ml_collections.ConfigDict, only: Sequence[str] | None = None) -> Experiment:
    """The experiment of `config`.

    Args:
      only: the splits that may be read; None: all.

    Raises:
      UsageError, DataError: the config does not fit itself or the dataset.
    """
    dataset = Dataset.open(config.dataset, only)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config.batch_size, config.accumulate, mesh)
    _check_context(config)
    weighed = config.task.class_weights and "train" in dataset.splits
    label = dataset.index("train")["label"] if weighed else None
    net = network(config, dataset.metadata, mesh, label)
    if net.text:
        dataset = tuning.tokenized(dataset, net.text)
    if config.data.mode == "published":
        buckets = [tuple(published.LIMITS[m] for m in net.dims)]
    elif config.data.mode == "corrected":
        limits = config.data.max_frames
        buckets = loader.buckets_for(dataset, tuple(net.dims), limits, config.data.buckets)
    else:
        raise UsageError(f'data.mode is "corrected" or "published", not {config.data.mode!r}')
    return Experiment(
        **vars(net),
        dataset=dataset,
        buckets=buckets,
        selection=config.selection or net.task.headline,
    )


def _check_context(config: ml_collections.ConfigDict) -> None:
    n, margin = config.model.context, config.model.context * (1 + config.model.bidirectional)
    if not 0 <= margin < config.batch_size:
        raise UsageError(
            f"model.context={n} takes {margin} rows of each batch; it is not negative, and "
            f"batch_size={config.batch_size} is larger"
        )
    if n and config.model.name not in ("imat", "sseft"):
        raise UsageError(f"model.context is for imat and sseft, not {config.model.name}")
    if n and (config.data.mixup or config.accumulate > 1):
        raise UsageError(
            "model.context needs the utterances of a batch whole and in order: not with data.mixup "
            "or accumulate"
        )


def _model(config, dims: Mapping[str, int], task, mesh, text: tuning.Text | None, key: jax.Array):
    limits = published.LIMITS if config.data.mode == "published" else config.data.max_frames
    model = models.make(
        config.model, dims, task.outputs, nnx.Rngs(params=key), dtype=config.dtype,
        max_frames=dict(limits), device=mesh.devices.flat[0],
    )  # fmt: skip
    if text is None:
        return model
    return tuning.Tuned(model, text, dtype=config.dtype, remat=config.model.remat)
