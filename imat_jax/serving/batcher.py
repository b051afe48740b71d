"""Examples of many requests, answered in batches of like shape.

While one batch is computed the next one gathers: alone, a request waits for nothing; under load
batches fill by themselves, and there is no delay to tune.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
from collections.abc import Callable, Hashable, Sequence
from typing import Any


class Full(Exception):
    """More is waiting than may; to be tried again later."""


class Batcher:
    """Calls `compute` with lists of examples, one list at a time, in a thread of its own.

    Args:
      compute: (examples, their bucket) -> one answer each, in their order.
      rows: of one list, at most.
      waiting: examples that may wait, in all.
    """

    def __init__(
        self,
        compute: Callable[[list[Any], Any], Sequence[Any]],
        *,
        rows: int = 64,
        waiting: int = 1024,
    ):
        self._compute = compute
        self._rows, self._most = rows, waiting
        # {bucket: [(example, future)]}, the bucket that has waited longest first.
        self._queues: collections.OrderedDict[Hashable, list] = collections.OrderedDict()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "model")
        self._there = asyncio.Event()
        self._task: asyncio.Task | None = None

    @property
    def waiting(self) -> int:
        """How many examples are not yet being computed."""
        return sum(map(len, self._queues.values()))

    async def __aenter__(self) -> Batcher:
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        for _, future in (item for queue in self._queues.values() for item in queue):
            future.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    async def submit(self, examples: Sequence[Any], bucket: Hashable) -> list[Any]:
        """The answer to each of `examples`, which may be computed in different lists.

        Args:
          bucket: only examples of equal buckets are in one list.

        Raises:
          Full: they do not fit beside what is waiting; none of them was taken. More than may ever
            wait are taken when nothing else waits.
        """
        if not examples:
            return []
        waiting = self.waiting
        if waiting and waiting + len(examples) > self._most:
            raise Full
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in examples]
        for example, future in zip(examples, futures, strict=True):
            self._queues.setdefault(bucket, []).append((example, future))
        self._there.set()
        try:
            return await asyncio.gather(*futures)
        finally:  # whoever asked has gone: nobody needs the rest
            for future in futures:
                future.cancel()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._there.wait()
            key, queue = self._queues.popitem(last=False)
            taken, rest = queue[: self._rows], queue[self._rows :]
            if rest:
                self._queues[key] = rest  # at the end: no bucket starves another
            if not self._queues:
                self._there.clear()
            taken = [(example, future) for example, future in taken if not future.done()]
            if not taken:
                continue
            examples = [example for example, _ in taken]
            try:
                answers = await loop.run_in_executor(self._thread, self._compute, examples, key)
            except Exception as error:
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(taken, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
