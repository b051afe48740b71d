"""A trained run as a folder that needs JAX and NumPy, and nothing of what trained it.

    artefact = artifact.load("OUT")                     # of `python -m imat_jax.export`
    [answer] = artefact.predict([{"text": text, "audio": audio}])       # [T, D] each
    dict(zip(artefact.values, answer.values)), artefact.labels(answer.values)

This file stands alone and may be copied beside the folder. See docs/export.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax import export

FORMAT = "imat_jax-artifact/1"
FILES = ("program.bin", "weights.npz", "check.npz", "model_card.md")
SIZES = (1, 8, 64)  # rows of a batch: of a few, as lengths are, so that a few programs do for all
ROUNDED = 1e-6  # what float32 may have taken from a probability that is just at the threshold
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
KEYS = (
    "task", "values", "outputs", "headline", "modalities", "dtype", "lengths", "extraction",
    "base", "calibration", "attention", "platforms", "run", "metrics", "files",
)  # fmt: skip


class ArtifactError(ValueError):
    """A folder that is no artefact, or a damaged one: one line naming the file and the fix."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the network says of one example.

    Attributes:
      values: [V] float64, probabilities of classes or of the presence of emotions, calibrated where
        the artefact is; or scores.
      outputs: [K] float32, as the network gives them.
      frames: {modality: how many were read}.
      attention: {"text<-audio": [S]}: how the query modality's summary spreads over the frames of
        the other, mean of layers and heads; only of pairs of which both are there. What is missing
        to 1 is on a learned CLS.
    """

    values: np.ndarray
    outputs: np.ndarray
    frames: Mapping[str, int]
    attention: Mapping[str, np.ndarray]


class Artifact:
    """An artefact, loaded; made by `load`. Its methods may be called from several threads.

    Attributes:
      manifest: the content of manifest.json.
      modalities: {modality: {"dim", "max_frames", "tokens", "extractor", "checkpoint", "layer",
        "rate_hz"}}, in the network's order; "tokens": it reads token ids [T], not features [T, D].
      values: names of what is predicted: classes, emotions, dimensions, or "sentiment".
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        exported: export.Exported,
        weights: Mapping[str, np.ndarray],
        check: Mapping[str, np.ndarray],
    ):
        self.manifest = manifest
        self.modalities: dict[str, dict[str, Any]] = dict(manifest["modalities"])
        self.values: tuple[str, ...] = tuple(manifest["values"])
        self._weights = jax.device_put(dict(weights))
        self._call = jax.jit(exported.call)
        self._check = check

    def predict(
        self, examples: Sequence[Mapping[str, np.ndarray]], length: int | None = None
    ) -> list[Answer]:
        """What the network says of each example.

        Args:
          examples: {modality: [T, D]}, or [T] ids where it reads tokens; a modality that is not
            there, or has T = 0, is missing. Of more than `max_frames` the first are read.
          length: that all modalities of all of them are padded to, of `bucket`; None: each as long
            as it has to be.

        Raises:
          ValueError: a modality that the network does not read, another width, a number that is
            not finite, an id that is no token.
        """
        rows = [self._row(example) for example in examples]
        blocks = (rows[k : k + SIZES[-1]] for k in range(0, len(rows), SIZES[-1]))
        return [answer for block in blocks for answer in self._block(block, length)]

    def check_example(self, example: Mapping[str, np.ndarray]) -> None:
        """Raises the `ValueError` that `predict` would, before it is among others."""
        self._row(example)

    def bucket(self, example: Mapping[str, np.ndarray]) -> int:
        """The `length` that its longest modality needs, of a few: of a service, the programs."""
        read = (min(len(example.get(m, ())), f["max_frames"]) for m, f in self.modalities.items())
        longest = max(read)
        return next((n for n in self.manifest["lengths"] if n >= longest), longest)

    def subsets(self, example: Mapping[str, np.ndarray]) -> dict[frozenset[str], np.ndarray]:
        """{modalities: values [V]} of every nonempty subset of those in the example."""
        there = [m for m in self.modalities if len(example.get(m, ()))]
        sizes = range(1, len(there) + 1)
        chosen = [s for n in sizes for s in itertools.combinations(there, n)]
        answers = self.predict([{m: example[m] for m in subset} for subset in chosen])
        return {frozenset(s): a.values for s, a in zip(chosen, answers, strict=True)}

    def labels(self, values: np.ndarray) -> dict[str, Any]:
        """What values [V] come to, for a person.

        Returns:
          of one of several classes {"label": name}, the most probable. Where the artefact is
          calibrated also what holds the truth as often as `coverage` says: {"set": [names]}, of
          emotions those that may be present; of scores {"low", "high"}, numbers of a sentiment and
          {name: number} of dimensions.
        """
        values = np.asarray(values, np.float64)
        if values.shape != (len(self.values),):
            raise ValueError(f"values are [{len(self.values)}], not {list(values.shape)}")
        task, calibration = self.manifest["task"], self.manifest["calibration"]
        found: dict[str, Any] = {}
        if task == "multiclass":
            found["label"] = self.values[int(values.argmax())]
        if not calibration:
            return found
        if "radius" in calibration:
            radius = np.array([np.nan if r is None else r for r in listed(calibration["radius"])])
            if not np.isnan(radius).any():
                for name, edge in (("low", values - radius), ("high", values + radius)):
                    named = dict(zip(self.values, edge.tolist(), strict=True))
                    found[name] = edge.item() if task == "sentiment" else named
            return found
        limits = listed(calibration["threshold"])
        if None in limits:
            return found
        # Sets are of the probabilities before the temperature, whose fit saw the examples that
        # the thresholds are of: p^T, normalised, takes it back.
        raised = values ** np.array(listed(calibration["temperature"]))
        if task == "multiclass":
            raw = raised / raised.sum()
        else:
            raw = raised / (raised + (1 - values) ** np.array(listed(calibration["temperature"])))
        inside = 1 - raw <= np.array(limits) + ROUNDED
        found["set"] = [name for name, kept in zip(self.values, inside, strict=True) if kept]
        return found

    def check(self) -> float:
        """The largest difference to the outputs that the exporting machine had, on this device."""
        found = self.predict(unpack(self._check))
        outputs = np.stack([answer.outputs for answer in found])
        return float(np.abs(outputs - self._check["outputs"]).max())

    def _row(self, example: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        unknown = set(example) - set(self.modalities)
        if unknown:
            raise ValueError(f"it reads {', '.join(self.modalities)}, not {sorted(unknown)[0]!r}")
        row = {}
        for m, facts in self.modalities.items():
            tokens, shape = facts["tokens"], "[T]" if facts["tokens"] else f"[T, {facts['dim']}]"
            x = np.asarray(example[m] if m in example else ())
            if not x.size and x.shape[:1] in ((), (0,)):
                x = np.zeros((0,) if tokens else (0, facts["dim"]), np.int32 if tokens else "f4")
            if x.shape[1:] != (() if tokens else (facts["dim"],)) or not x.ndim:
                raise ValueError(f"{m} is {list(x.shape)}, and is to be {shape}")
            if x.dtype.kind not in ("iu" if tokens else "fiu") and x.dtype != ml_dtypes.bfloat16:
                raise ValueError(f"{m} is {x.dtype}, and is to be numbers {shape}")
            x = x[: facts["max_frames"]]
            if tokens:
                if len(x) and not (0 <= x.min() and x.max() < facts["vocabulary"]):
                    raise ValueError(f"{m} has ids below 0 or from {facts['vocabulary']} on")
                row[m] = x.astype(np.int32)
                continue
            with np.errstate(over="ignore"):
                row[m] = x.astype(DTYPES[self.manifest["dtype"]]).astype(np.float32)
            if not np.isfinite(row[m]).all():
                raise ValueError(f"{m} has numbers that are not finite")
        return row

    def _block(
        self, rows: Sequence[Mapping[str, np.ndarray]], given: int | None
    ) -> Iterator[Answer]:
        size = next(n for n in SIZES if n >= len(rows))
        batch = {}
        for m, facts in self.modalities.items():
            longest = max(len(row[m]) for row in rows) if given is None else given
            length = self._padded(longest, facts["max_frames"])
            batch[m] = np.zeros((size, length, *rows[0][m].shape[1:]), rows[0][m].dtype)
            batch[f"{m}_mask"] = np.zeros((size, length), bool)
            for i, row in enumerate(rows):
                batch[m][i, : len(row[m])] = row[m]
                batch[f"{m}_mask"][i, : len(row[m])] = True
        found = jax.device_get(self._call(self._weights, batch))
        for i, row in enumerate(rows):
            frames = {m: len(row[m]) for m in self.modalities}
            attention = {}
            for pair, weights in found["attention"].items():
                query, key = pair.split("<-")
                if frames[query] and frames[key]:
                    attention[pair] = weights[i, : frames[key]]
            values = found["values"][i].astype(np.float64)
            yield Answer(values, found["outputs"][i], frames, attention)

    def _padded(self, length: int, limit: int) -> int:
        """Of a few lengths, so that a few programs do for all examples."""
        return min(next((n for n in self.manifest["lengths"] if n >= length), limit), limit)


def load(path: str | os.PathLike) -> Artifact:
    """The artefact in the folder `path`, every file of it checked by its hash.

    Raises:
      ArtifactError: it is none, it is damaged, or this JAX cannot read it.
    """
    path = pathlib.Path(path)
    manifest = _manifest(path / "manifest.json")
    content = {}
    for name in FILES:
        file = path / name
        try:
            content[name] = file.read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"{file} cannot be read ({error.strerror}); copy or export it again"
            ) from error
        if hashlib.sha256(content[name]).hexdigest() != manifest["files"].get(name):
            raise ArtifactError(f"{file} is damaged: not what the manifest says; export it again")
    try:
        exported = export.deserialize(bytearray(content["program.bin"]))
        weights, check = arrays(content["weights.npz"]), arrays(content["check.npz"])
    except Exception as error:  # of whichever kind the parts of JAX raise
        made = manifest["run"]["environment"].get("packages", {}).get("jax", "another version")
        reason = str(error).partition("\n")[0]
        raise ArtifactError(
            f"{path} cannot be read by JAX {jax.__version__} ({reason}); it was made with {made}"
        ) from error
    return Artifact(manifest, exported, weights, check)


def _manifest(file: pathlib.Path) -> dict[str, Any]:
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(
            f"{file.parent} is no artefact: its manifest.json cannot be read ({error.strerror}); "
            "`python -m imat_jax.export` makes one"
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{file} is damaged: it is not JSON; export it again") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise ArtifactError(f"{file} is of format {found!r}, not {FORMAT!r}; export it again")
    if manifest.get("sha256") != digest(manifest) or any(key not in manifest for key in KEYS):
        raise ArtifactError(f"{file} is damaged or was edited; export it again")
    return manifest


def digest(manifest: Mapping[str, Any]) -> str:
    """Of what a manifest says, but for its own `sha256`."""
    said = {k: v for k, v in manifest.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def arrays(content: bytes) -> dict[str, np.ndarray]:
    """Of an .npz archive."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return dict(archive)


def pack(examples: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Examples as the arrays of one archive: {"0/text": …}."""
    return {f"{i}/{m}": x for i, example in enumerate(examples) for m, x in example.items()}


def unpack(archive: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The examples that `pack` made, and what else has no number is left aside."""
    examples: list[dict[str, np.ndarray]] = [{} for _ in archive["outputs"]]
    for name, x in archive.items():
        i, _, m = name.partition("/")
        if m:
            examples[int(i)][m] = x
    return examples


def listed(value: Any) -> list:
    """One number for all values, or a list of one for each: a list."""
    return value if isinstance(value, list) else [value]
