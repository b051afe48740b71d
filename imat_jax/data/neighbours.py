"""Batches for models that also look at the utterances around each one, in its video or dialogue.

A batch holds a run of consecutive utterances, groups one after the other, and at its two ends as
many more of the cut group as the model looks back or ahead. Those have weight 0: they are there to
be looked at, and their own turn is in another batch. So every utterance is counted exactly once,
with all its neighbours, however groups are cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from imat_jax.data.corpus import DataError
from imat_jax.data.plan import Shape, assign


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Who stands beside whom in a split; made by `find`.

    Attributes:
      count: how many utterances before each one are looked at; `both`: and as many after it.
      group: [N] int32, number of the group of each utterance.
      before, after: [N], the utterance before and after it in its group, -1 where there is none.
    """

    count: int
    both: bool
    group: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @classmethod
    def find(cls, index: Mapping[str, np.ndarray], count: int, both: bool) -> Neighbours:
        """From the `id`, `group` and `order` of a split's utterances.

        Raises:
          DataError: the order of an utterance is unknown, or two have the same.
        """
        _, group = np.unique(index["group"], return_inverse=True)
        unknown = index["order"] < 0
        if unknown.any():
            raise DataError(
                f"model.context={count} needs the order of the utterances, which is unknown for "
                f"{unknown.sum()} of them, such as {index['id'][unknown][0]}; build the dataset "
                "from a source that has it, or take model.context=0"
            )
        by_order = np.lexsort((index["order"], group))
        same = group[by_order[1:]] == group[by_order[:-1]]
        twice = same & (index["order"][by_order[1:]] == index["order"][by_order[:-1]])
        if twice.any():
            one = by_order[1:][twice][0]
            raise DataError(
                f"model.context={count}: {index['id'][one]} has the order {index['order'][one]} of "
                f"another utterance of its group {index['group'][one]}"
            )
        before, after = np.full((2, len(group)), -1)
        before[by_order[1:][same]] = by_order[:-1][same]
        after[by_order[:-1][same]] = by_order[1:][same]
        return cls(count, both, group.astype(np.int32), before, after)

    @property
    def margin(self) -> int:
        """Rows of a batch that are kept free for neighbours."""
        return self.count * (1 + self.both)

    def around(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The neighbours before the first and after the last of a planned batch's rows."""
        return (
            self._walk(rows[0], self.before, self.count)[::-1],
            self._walk(rows[-1], self.after, self.count * self.both),
        )

    def _walk(self, start: int, link: np.ndarray, count: int) -> np.ndarray:
        found: list[int] = []
        while len(found) < count and link[start] >= 0:
            start = link[start]
            found.append(start)
        return np.asarray(found, int)

    def plan(
        self,
        lengths: np.ndarray,
        *,
        batch_size: int,
        buckets: Sequence[Shape],
        seed: int | None,
        epoch: int = 0,
    ) -> list[tuple[Shape, np.ndarray]]:
        """As `plan.plan`, but groups stay together: ceil(N / (batch_size - margin)) batches.

        Returns:
          [(shape, example indices)], each index once; `around` says which stand beside them.
        """
        firsts = np.flatnonzero(self.before < 0)
        random = None if seed is None else np.random.RandomState([seed, epoch])
        if random is not None:
            firsts = random.permutation(firsts)
        size = len(lengths)
        chains = (np.append(first, self._walk(first, self.after, size)) for first in firsts)
        sequence = np.concatenate(list(chains))
        batches = []
        for rows in np.split(
            sequence, range(batch_size - self.margin, size, batch_size - self.margin)
        ):
            left, right = self.around(rows)
            everyone = np.concatenate([left, rows, right])
            batches.append((buckets[assign(lengths[everyone], buckets).max()], rows))
        if random is not None:
            batches = [batches[i] for i in random.permutation(len(batches))]
        return batches
