"""A corpus into a TFDS dataset (ArrayRecord) that plain `tfds.builder_from_directory` reads.

Identity, groups and splits are checked on the list of utterances, before a feature is read. Then
shards are written, each by itself, here, in several processes, or by Apache Beam (`beam.py`).
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import math
import multiprocessing
import os
import pathlib
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from imat_jax.data import checks, protocols, records
from imat_jax.data.corpus import Corpus, DataError
from imat_jax.data.records import Shard, Summary
from imat_jax.data.statistics import Moments

CHECKSUMS = "SHA256SUMS"
SHARD_BYTES = 1 << 27
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"

Engine = Callable[[Sequence[Shard]], Iterable[Summary]]


def build(
    corpus: Corpus,
    output: str | os.PathLike,
    *,
    dtype: str = "bfloat16",
    nonfinite: str = "error",
    overwrite: bool = False,
    progress: bool = True,
    engine: Engine | None = None,
    shards: int = 0,
) -> dict[str, Any]:
    """Write `corpus` to the directory `output` and return the dataset's metadata.

    The dataset is written beside its destination under a temporary name and renamed when it is
    complete, so that a build that was killed leaves nothing at `output`.

    Args:
      corpus: as a source gives it, or with a protocol applied.
      dtype: storage of the features: bfloat16, float16 or float32.
      nonfinite: what to do with NaN and infinity in features: "error", or "zero" to replace them.
        Their number is recorded either way.
      engine: what writes the shards; default: this process (see `processes` and `beam.engine`).
      shards: files of each split; 0: one for 128 MB of features.

    Raises:
      DataError: duplicate ids in a split, a group in two splits, non-finite features, an array of
        the wrong shape, an output that exists.
    """
    if nonfinite not in records.NONFINITE:
        raise ValueError(f"nonfinite is one of {records.NONFINITE}, not {nonfinite!r}")
    output = pathlib.Path(output).absolute()
    if not corpus.utterances:
        raise DataError(f"{corpus.name} has no example")
    if not corpus.task:
        corpus = protocols.apply(corpus)
    check(corpus, output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.parent / f".{output.name}.building"
    shutil.rmtree(partial, ignore_errors=True)  # left by a build that was killed
    try:
        done = partial / "done"
        done.mkdir(parents=True)
        planned = list(_shards(corpus, done, dtype, nonfinite, shards))
        run = engine or here(corpus, progress)
        summaries = list(run(planned))
        metadata = _metadata(corpus, dtype, nonfinite, summaries)
        metadata["checks"] = checks.run(corpus, metadata, summaries, progress=progress)
        _finish(corpus, done, dtype, summaries, metadata)
        if output.exists():
            output.rename(partial / "replaced")
        done.rename(output)
        return metadata
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check(corpus: Corpus, output: pathlib.Path, overwrite: bool) -> None:
    """Raises `DataError` for what `build` can refuse before a feature is read."""
    _check_output(output, corpus, overwrite)
    _check_identity(corpus)


def here(corpus: Corpus, progress: bool = True) -> Engine:
    """The engine that writes one shard after the other in this process."""

    def run(planned: Sequence[Shard]) -> Iterator[Summary]:
        with _bar(planned, progress) as bar:
            for shard in planned:
                yield records.write(shard, corpus.read, bar.update)

    return run


def processes(reopen: Callable[[], Corpus], workers: int, progress: bool = True) -> Engine:
    """The engine that writes shards in `workers` processes, each of which opens the source anew.

    reopen: a function that can be pickled and returns the corpus, as the source gives it.
    """

    def run(planned: Sequence[Shard]) -> Iterator[Summary]:
        context = multiprocessing.get_context("spawn")  # threads of libraries do not survive a fork
        written = context.Value("q", 0)
        pool = concurrent.futures.ProcessPoolExecutor(
            min(workers, len(planned)), context, initializer=_open, initargs=(reopen, written)
        )
        with pool, _bar(planned, progress) as bar:
            futures = [pool.submit(_write_opened, shard) for shard in planned]
            waiting = set(futures)
            try:
                while waiting:
                    done, waiting = concurrent.futures.wait(waiting, timeout=0.2)
                    for future in done:
                        future.result()  # raises what the worker raised
                    bar.update(written.value - bar.n)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            yield from (future.result() for future in futures)

    return run


_opened: dict[str, Any] = {}  # of this worker process


def _open(reopen: Callable[[], Corpus], written: Any) -> None:
    threading.Thread(target=die_with_parent, daemon=True).start()
    _opened.update(corpus=reopen(), written=written)


def die_with_parent() -> None:
    """Workers of a killed build would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _write_opened(shard: Shard) -> Summary:
    def advance() -> None:
        with _opened["written"].get_lock():
            _opened["written"].value += 1

    return records.write(shard, _opened["corpus"].read, advance)


def _bar(planned: Sequence[Shard], progress: bool) -> tqdm.tqdm:
    total = sum(len(shard.utterances) for shard in planned)
    return tqdm.tqdm(total=total, desc="build", unit="utt", disable=not progress)


def _check_output(output: pathlib.Path, corpus: Corpus, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise DataError(f"{output} exists already; give another --output, or --overwrite")
    if output.exists() and not (output / "dataset_info.json").is_file():
        raise DataError(f"{output} is not a dataset; --overwrite replaces nothing else")
    for file in map(pathlib.Path, corpus.files):
        if output == file.absolute() or output in file.absolute().parents:
            raise DataError(f"{output} holds the input {file}; give another --output")


def _check_identity(corpus: Corpus) -> None:
    split_of_group: dict[str, str] = {}
    for split, utterances in corpus.splits().items():
        if not re.fullmatch(r"[A-Za-z]\w*", split):
            raise DataError(f"a split is called {split!r}; letters, digits and _ are for names")
        if split == "all":
            raise DataError("a split is called 'all', which TFDS keeps for itself; rename it")
        bad = [u for u in utterances if not np.isfinite(np.asarray(u.label, float)).all()]
        if bad:
            raise DataError(
                f"{len(bad)} labels of split {split!r} are not finite, such as that of "
                f"{bad[0].id!r}: {bad[0].label}; leave these utterances out of the source"
            )
        seen: set[str] = set()
        for utterance in utterances:
            if utterance.id in seen:
                raise DataError(
                    f"split {split!r} holds the id {utterance.id!r} twice; make ids unique"
                )
            seen.add(utterance.id)
            group = utterance.group or utterance.id
            other = split_of_group.setdefault(group, split)
            if other != split and not corpus.leaks:
                raise DataError(
                    f"group {group!r} is in split {other!r} and, with id {utterance.id!r}, in "
                    f"{split!r}: a speaker, video or dialogue must stay in one split, or the test "
                    "score is worth nothing; split by group"
                )


def _shards(
    corpus: Corpus, directory: pathlib.Path, dtype: str, nonfinite: str, wanted: int
) -> Iterator[Shard]:
    dims = {m: info.dim for m, info in corpus.modalities.items()}
    features = records.features(corpus, dtype).to_json()
    width = np.dtype(records.DTYPES[dtype]).itemsize
    for split, utterances in corpus.splits().items():
        probes = utterances[:: max(len(utterances) // 8, 1)]
        values = [sum(np.size(a) for a in corpus.read(u.row).values()) for u in probes]
        expected = np.mean(values) * width * len(utterances)
        count = min(wanted or math.ceil(max(expected, 1) / SHARD_BYTES), len(utterances))
        bounds = np.linspace(0, len(utterances), count + 1).astype(int)
        for k in range(count):
            # To TFDS a name begins with a letter, and ends at a dot or a dash.
            name = re.sub(r"\W+", "_", corpus.name)
            name = name if re.match("[a-zA-Z]", name) else f"corpus_{name}"
            name = f"{name}-{split}.array_record-{k:05d}-of-{count:05d}"
            rows = utterances[bounds[k] : bounds[k + 1]]
            yield Shard(split, directory / name, rows, dims, features, dtype, nonfinite)


def _metadata(
    corpus: Corpus, dtype: str, nonfinite: str, summaries: Sequence[Summary]
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "protocol": corpus.protocol,
        "task": corpus.task,
        "class_names": list(corpus.class_names),
        "dtype": dtype,
        "modalities": {m: dataclasses.asdict(i) for m, i in corpus.modalities.items()},
        "sources": {name: sha256(path) for name, path in _short_names(corpus.files).items()},
        "splits": {},
        "nonfinite": {"policy": nonfinite},
        "warnings": list(corpus.warnings),
        "facts": dict(corpus.facts),
    }
    for m in corpus.modalities:
        found = [s.nonfinite[m] for s in summaries if s.nonfinite[m][0]]
        metadata["nonfinite"][m] = sum(n for n, _ in found)
        if found:
            metadata["nonfinite"][f"{m}_first"] = found[0][1]
    for split, utterances in corpus.splits().items():
        label = np.asarray([u.label for u in utterances])
        facts: dict[str, Any] = {"examples": len(label)}
        if corpus.task == "multiclass":
            counts = np.bincount(label, minlength=len(corpus.class_names))
            facts["classes"] = dict(zip(corpus.class_names, counts.tolist(), strict=True))
        else:
            columns = label.reshape(len(label), -1)
            facts["label_mean"] = columns.mean(axis=0).tolist()
            facts["label_std"] = columns.std(axis=0).tolist()
            if split == "train":
                facts["label_median"] = np.median(columns, axis=0).tolist()
        for m in corpus.modalities:
            lengths = np.asarray(_lengths(summaries, split, m))
            quartiles = np.percentile(lengths, [0, 25, 50, 75, 100]).tolist()
            facts[m] = {"frames": int(lengths.sum()), "missing": int((lengths == 0).sum())}
            facts[m]["length_quartiles"] = quartiles
        metadata["splits"][split] = facts
    if "train" in metadata["splits"]:
        moments = {m: Moments(info.dim) for m, info in corpus.modalities.items()}
        for summary in summaries:
            for m in moments if summary.split == "train" else ():
                moments[m].merge(summary.moments[m])
        metadata["statistics"] = {m: v.as_dict() for m, v in moments.items()}
    return metadata


def _short_names(files: Sequence[str]) -> dict[str, pathlib.Path]:
    """{last part of the path, with as many before it as tell them apart: path}."""
    paths = [pathlib.Path(f).absolute() for f in files]
    for parts in range(1, 20):
        names = ["/".join(p.parts[-parts:]) for p in paths]
        if len(set(names)) == len(set(paths)):
            break
    return dict(zip(names, paths, strict=True)) if paths else {}


def _lengths(summaries: Sequence[Summary], split: str, m: str) -> list[int]:
    return [n for summary in summaries if summary.split == split for n in summary.lengths[m]]


def _finish(
    corpus: Corpus,
    directory: pathlib.Path,
    dtype: str,
    summaries: Sequence[Summary],
    metadata: dict[str, Any],
) -> None:
    """The files beside the records: TFDS's metadata, an index of each split, checksums."""
    template = tfds.core.ShardedFileTemplate(data_dir=directory, template=TEMPLATE)
    by_split: dict[str, list[Summary]] = collections.defaultdict(list)
    for summary in summaries:
        by_split[summary.split].append(summary)
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[s.count for s in parts],
            num_bytes=sum(s.num_bytes for s in parts),
            filename_template=template,
        )
        for split, parts in by_split.items()
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces sizes it does not know
        tfds.folder_dataset.write_metadata(
            data_dir=directory,
            features=records.features(corpus, dtype),
            split_infos=infos,
            filename_template=template,
            check_data=False,  # it would need TensorFlow
            description=f"{corpus.protocol}: {' + '.join(corpus.modalities)}",
            metadata=tfds.core.MetadataDict(metadata),
        )
    for split, utterances in corpus.splits().items():
        np.savez(
            directory / f"index-{split}.npz",
            id=np.asarray([u.id for u in utterances]),
            group=np.asarray([u.group or u.id for u in utterances]),
            order=np.asarray([u.order for u in utterances]),
            label=np.asarray([u.label for u in utterances]),
            **{f"{m}_length": np.asarray(_lengths(summaries, split, m)) for m in corpus.modalities},
        )
    _write_checksums(directory)


def sha256(path: pathlib.Path) -> str:
    """Of a file; of a folder, that of the names and the SHA-256 of all files in it."""
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        lines = (f"{sha256(p)}  {p.relative_to(path)}\n" for p in inside)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_checksums(directory: pathlib.Path) -> None:
    """In the format of `sha256sum -c`."""
    files = sorted(p for p in directory.iterdir() if p.is_file())
    lines = [f"{sha256(p)}  {p.name}\n" for p in files]
    (directory / CHECKSUMS).write_text("".join(lines))
