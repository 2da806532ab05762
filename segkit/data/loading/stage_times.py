"""How long the stages of making an item take, over all worker processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch.utils.data import get_worker_info


class StageTimes:
    """Seconds by stage, summed in memory that the workers share with the main process.

    Each worker adds to a row of its own, so that none waits for another.

    Args:
        stages: Names of the stages, in their order; names may come several times.
        workers: Number of the workers; 0 where the main process makes the items.
    """

    def __init__(self, stages: Sequence[str], workers: int) -> None:
        self.stages = tuple(stages)
        self._table = torch.zeros(max(1, workers), 1 + len(stages), dtype=torch.float64)
        if workers:
            # torch gives it no types
            self._table.share_memory_()  # type: ignore[no-untyped-call]

    def add(self, ticks: Sequence[float]) -> None:
        """An item: when it was begun, and when each stage ended, in seconds of one clock."""
        worker = get_worker_info()
        row = self._table[worker.id % len(self._table) if worker else 0].numpy()
        row[0] += 1
        row[1:] += [after - before for before, after in pairwise(ticks)]

    def totals(self) -> tuple[int, tuple[float, ...]]:
        """The number of items so far, and the seconds of each stage of all of them together."""
        items, *seconds = self._table.sum(0).tolist()
        return int(items), tuple(seconds)


class Ticks(list[float]):
    """Moments at which the stages of an item ended, after the one at which it was begun."""

    def __init__(self) -> None:
        super().__init__([time.perf_counter()])

    def tick(self) -> None:
        """A stage has ended."""
        self.append(time.perf_counter())
