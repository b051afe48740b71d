"""Training the text encoder too: batches hold token ids, and its network is part of the model.

With `tune.text`, text features are not those of the dataset but computed in the step, by the
network whose frozen features the dataset holds. It starts from the same checkpoint: before the
first update, the outputs are those of a run on the stored features.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from imat_jax import encoders
from imat_jax.cli import UsageError
from imat_jax.data.corpus import DataError, Modality
from imat_jax.data.dataset import Dataset
from imat_jax.data.statistics import standardize
from imat_jax.encoders import bert
from imat_jax.models.encoder import REMAT


@dataclasses.dataclass(frozen=True)
class Text:
    """The text encoder of a run that trains it.

    Attributes:
      directory: of its checkpoint.
      config: of its network.
      limit: tokens of an utterance that are used, at most.
      statistics: {"text": moments} of the features that the checkpoint gave, to standardise with;
        {}: none.
    """

    directory: pathlib.Path
    config: bert.Config
    limit: int
    statistics: Mapping[str, Mapping]

    def tokenizer(self) -> Callable[[str], np.ndarray]:
        """A text -> ids [T] int32, as extraction has them; of a long text the first, and `</s>`."""
        tokens, limit = bert.tokenizer(self.directory), self.limit

        def cropped(text: str) -> np.ndarray:
            ids = tokens(text).astype(np.int32)
            return ids if len(ids) <= limit else np.append(ids[: limit - 1], ids[-1])

        return cropped


def find(
    config: ml_collections.ConfigDict, metadata: Mapping[str, Any], modalities: Sequence[str]
) -> Text | None:
    """The text encoder to train, where the config asks for that.

    Raises:
      UsageError: the config does not fit itself or the dataset, or the checkpoint on disk is not
        the one that made the dataset's features.
    """
    if not config.tune.text:
        return None
    if "text" not in modalities:
        raise UsageError(f"tune.text: there is no text in {'+'.join(modalities)}")
    if config.data.mode == "published":
        raise UsageError("tune.text: data.mode=published is of frozen features; take corrected")
    if config.data.mixup:
        raise UsageError("tune.text: words cannot be mixed; leave data.mixup at 0")
    recipe = metadata.get("facts", {}).get("extraction", {"encoders": {}})
    recorded = Modality(**metadata["modalities"]["text"])
    spec = config.tune.text_encoder or recipe["encoders"].get("text")
    if not spec:
        raise UsageError(
            f"tune.text: {config.dataset} does not say which encoder made its text (it says "
            f"{recorded.extractor!r}); tune.text_encoder names it, as `--encoders=text=` does"
        )
    try:
        directory = encoders.text_directory(spec)
        network = bert.read_config(directory)
        found = bert.modality(directory, network)
    except DataError as error:
        raise UsageError(
            f"tune.text: {error}. Where the weights are elsewhere, say tune.text_encoder=bert:DIR"
        ) from error
    if found != recorded:
        raise UsageError(
            f"tune.text: text in {config.dataset} is of {recorded.extractor} "
            f"({recorded.checkpoint}, {recorded.layer}, {recorded.dim} features); {spec} is "
            f"{found.extractor} ({found.checkpoint}, {found.layer}, {found.dim} features)"
        )
    limit = min(config.data.max_frames.text, network.longest)
    statistics = metadata["statistics"] if config.data.standardize else {}
    return Text(directory, network, limit, {m: v for m, v in statistics.items() if m == "text"})


class Tuned(nnx.Module):
    """A model of features behind the text network; it reads token ids where that reads features."""

    def __init__(self, fusion: nnx.Module, text: Text, *, dtype: str, remat: str):
        def make() -> bert.Bert:
            policy = REMAT[remat]
            return bert.Bert(text.config, dtype=jnp.dtype(dtype), remat=policy, rngs=nnx.Rngs(0))

        # Zeros: `pretrained` puts the checkpoint in their places, and they cost nothing to compile.
        self.bert = nnx.eval_shape(make)
        zeros = lambda p: jnp.zeros(p.shape, p.dtype)  # noqa: E731
        nnx.update(self.bert, jax.tree.map(zeros, nnx.state(self.bert)))
        self.fusion = fusion
        self.standardize = functools.partial(standardize, statistics=text.statistics)
        # A feature that the checkpoint has all but switched off (MiniLM has three, deviations of
        # 1e-8 and less) comes out of the standardisation with a gradient of 1e8, and one update of
        # its scale would drown all others. It stays as it is.
        std = np.asarray(text.statistics.get("text", {"std": [1.0]})["std"])
        self.off = tuple(np.flatnonzero(std < 1e-3 * np.median(std)).tolist())

    def __call__(self, batch: Mapping, *, deterministic: bool, rngs: nnx.Rngs | None = None):
        """As the model of features, with `text` [B, T] int32."""
        ids, mask = batch["text"], batch["text_mask"]
        # Padding is outside of every text, and its place is one that any table of positions has.
        positions = jnp.where(mask, self.bert.config.positions(ids), 0)
        states = self.bert(ids, positions, mask.astype(jnp.int32))  # [B, T, D]
        off = np.isin(np.arange(states.shape[-1]), self.off)[None, None]
        states = jnp.where(off, jax.lax.stop_gradient(states), states)
        features = self.standardize({"text": states.astype(jnp.float32), "text_mask": mask})
        return self.fusion(dict(batch) | features, deterministic=deterministic, rngs=rngs)


def pretrained(state: dict[str, Any], text: Text) -> dict[str, Any]:
    """A train state with the checkpoint in the text network; each device gets what it holds of it.

    Not a constant of the program that makes the state: it would be in every device's memory whole.
    """
    loaded = nnx.state(bert.load(text.directory, np.asarray), nnx.Param)

    def place(old: jax.Array, new: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(old.shape, old.sharding, lambda part: new[part])

    for tree in (state[name] for name in ("params", "ema") if name in state):
        tree["bert"] = jax.tree.map(place, tree["bert"], loaded)
    return state


def scaled(updates: Any, factor: float) -> Any:
    """`updates` of the parameters with those of the text network times `factor`."""
    return jax.tree.map_with_path(
        lambda path, u: u * factor if path[0].key == "bert" else u, updates
    )


@dataclasses.dataclass(frozen=True)
class Tokenized(Dataset):
    """A dataset whose text is token ids [T] int32, its features left aside.

    Attributes:
      tokens: {split: ids of each record}.
    """

    tokens: Mapping[str, list[np.ndarray]] = dataclasses.field(kw_only=True)

    @property
    def sized(self) -> tuple[str, ...]:
        """Those whose tokens are there; to count a transcript's tokens is to read it."""
        return tuple(self.tokens)

    def source(self, split: str) -> _Source:
        return _Source(super().source(split), self.tokens[split])

    def index(self, split: str) -> dict[str, np.ndarray]:
        lengths = np.asarray([len(ids) for ids in self.tokens[split]])
        return super().index(split) | {"text_length": lengths}

    def lengths(self, split: str) -> dict[str, np.ndarray]:
        return super().lengths(split) | {"text": np.asarray([len(t) for t in self.tokens[split]])}


@dataclasses.dataclass(frozen=True)
class _Source:
    records: Any
    tokens: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.records[i] | {"text": self.tokens[i]}

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        found = zip(self.records.__getitems__(rows), rows, strict=True)
        return [record | {"text": self.tokens[i]} for record, i in found]


def tokenized(dataset: Dataset, text: Text) -> Tokenized:
    """`dataset` with its transcripts as tokens; an empty one is a missing text.

    Raises:
      UsageError: there is no transcript in it.
    """
    tokens = text.tokenizer()
    found = {s: [tokens(t) for t in dataset.transcripts(s)] for s in dataset.splits}
    if not any(len(ids) for split in found.values() for ids in split):
        raise UsageError(f"tune.text: {dataset.path} has features of text but no transcript")
    return Tokenized(**vars(dataset), tokens=found)
