"""Apache Beam runs what would otherwise run here: on this machine, or on Dataflow, Flink, Spark.

The same files from the same code; only who runs it differs. They go through a file system that all
workers and this process share.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from imat_jax.data import records
from imat_jax.data.builder import Engine
from imat_jax.data.corpus import Corpus, DataError
from imat_jax.data.records import Shard, Summary


def run(
    items: Sequence[Any], start: Callable[[], Callable[[Any], None]], options: Sequence[str]
) -> None:
    """Call a function on each of `items`, somewhere.

    Args:
      items: small, and can be pickled.
      start: makes the function, once a worker; can be pickled.
      options: of the runner, `["--runner=DirectRunner", "--direct_num_workers=2"]`.

    Raises:
      DataError: apache-beam is not installed.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise DataError("--beam needs Apache Beam: pip install 'imat_jax[beam]'") from error

    class Call(beam.DoFn):
        def setup(self):
            self.function = start()

        def process(self, item):
            self.function(item)

    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _ = pipeline | beam.Create(items, reshuffle=True) | beam.ParDo(Call())


def engine(reopen: Callable[[], Corpus], options: Sequence[str]) -> Engine:
    """The engine that writes shards with a Beam pipeline; `reopen` opens the source on a worker."""

    def write(planned: Sequence[Shard]) -> Iterable[Summary]:
        run(planned, functools.partial(_writer, reopen), options)
        for shard in planned:
            path = _summary_path(shard)
            yield Summary.from_json(path.read_text())
            path.unlink()

    return write


def _writer(reopen: Callable[[], Corpus]) -> Callable[[Shard], None]:
    corpus = reopen()

    def write(shard: Shard) -> None:
        summary = records.write(shard, corpus.read)
        _summary_path(shard).write_text(summary.to_json())

    return write


def _summary_path(shard: Shard) -> pathlib.Path:
    return shard.path.with_name(f"{shard.path.name}.json")
