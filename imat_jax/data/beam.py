"""Writing shards with Apache Beam: on this machine, or on Dataflow, Flink, Spark.

The same shards as `builder.here` writes, from the same code; only who runs it differs. Records and
summaries go through a file system that all workers and this process share.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Sequence

from imat_jax.data import records
from imat_jax.data.builder import Engine
from imat_jax.data.corpus import Corpus, DataError
from imat_jax.data.records import Shard, Summary


def engine(reopen: Callable[[], Corpus], options: Sequence[str]) -> Engine:
    """The engine that runs a Beam pipeline.

    Args:
      reopen: opens the source on a worker; can be pickled.
      options: of the runner, `["--runner=DirectRunner", "--direct_num_workers=2"]`.

    Raises:
      DataError: apache-beam is not installed.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise DataError("--beam needs Apache Beam: pip install 'imat_jax[beam]'") from error

    class Write(beam.DoFn):
        def setup(self):
            self.corpus = reopen()

        def process(self, shard: Shard):
            summary = records.write(shard, self.corpus.read)
            _summary_path(shard).write_text(summary.to_json())
            yield summary.count

    def run(planned: Sequence[Shard]) -> Iterable[Summary]:
        with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
            shards = pipeline | beam.Create(planned, reshuffle=True)
            _ = shards | beam.ParDo(Write())
        for shard in planned:
            path = _summary_path(shard)
            yield Summary.from_json(path.read_text())
            path.unlink()

    return run


def _summary_path(shard: Shard) -> pathlib.Path:
    return shard.path.with_name(f"{shard.path.name}.json")
