"""Which samples an epoch uses, in which order, and the seeds of their augmentation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from segkit.core.errors import SegkitError

Draw = tuple[int, int]
"""Index of a sample and the seed of its augmentation."""


class DrawSampler(Sampler[Draw]):
    """Draws for a training epoch: every sample equally often, in a new order each time.

    The draws of all epochs form one sequence of permutations of the samples, so that samples are
    used evenly even if an epoch is shorter or longer than the data set. The sequence depends only
    on the seed, not on the number of workers, and a resumed training continues it.

    Args:
        count: Number of samples.
        per_epoch: Number of draws in an epoch, divided evenly among the processes.
    """

    def __init__(
        self, count: int, per_epoch: int, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        self.count, self.per_epoch, self.seed, self.epoch = count, per_epoch, seed, 0
        self.rank, self.processes = rank, processes

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; called by Lightning."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.per_epoch // self.processes

    def __iter__(self) -> Iterator[Draw]:
        first = self.epoch * self.per_epoch
        end = first + self.per_epoch
        rounds = range(first // self.count, -(-end // self.count))
        order = np.concatenate(
            [np.random.default_rng((self.seed, 0, n)).permutation(self.count) for n in rounds]
        )
        start = first - rounds[0] * self.count
        rng = np.random.default_rng((self.seed, 1, self.epoch))
        seeds = rng.integers(2**31, size=self.per_epoch)
        drawn = order[start : start + self.per_epoch]
        draws = list(zip(drawn.tolist(), seeds.tolist(), strict=True))
        # every process gets the same number, otherwise one would wait forever for the others
        return iter(draws[self.rank :: self.processes][: len(self)])


class EverySample(Sampler[int]):
    """Every sample once, divided among the processes without repeating any to even out the shares.

    Raises:
        SegkitError: There are more processes than samples.
    """

    def __init__(self, count: int, rank: int = 0, processes: int = 1) -> None:
        if processes > count:
            raise SegkitError(
                f"there are {processes} processes and {count} images to validate: use fewer"
                " devices or more images."
            )
        self.numbers = range(rank, count, processes)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)
