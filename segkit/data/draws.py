"""Which sample comes next: the draws of an epoch, and every sample once.

The draws of all epochs form one sequence, which depends only on the seed, not on the number of
workers, and a resumed training continues it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from segkit.core.errors import SegkitError

Draw = tuple[int, ...]
"""Index of a sample, the seed of its augmentation, and perhaps the class to look at."""
Wanted = tuple[int, ...]
"""Index of a sample, and perhaps the class to look at."""


class Order(ABC):
    """Base of the orders in which samples are drawn."""

    @abstractmethod
    def list_draws(self, epoch: int, per_epoch: int) -> list[Wanted]:
        """The draws of an epoch of so many."""


class EvenOrder(Order):
    """Every sample equally often, in a new order each time.

    The draws are a sequence of permutations of the samples, so that samples are used evenly even if
    an epoch is shorter or longer than the data set. Another ``stream`` gives other permutations.
    """

    def __init__(self, count: int, seed: int, stream: int = 0) -> None:
        self.count, self.seed, self.stream = count, seed, stream

    def list_draws(self, epoch: int, per_epoch: int) -> list[Wanted]:
        """See :meth:`Order.list_draws`."""
        first = epoch * per_epoch
        rounds = range(first // self.count, -(-(first + per_epoch) // self.count))
        order = np.concatenate([_permute(self.count, self.seed, self.stream, n) for n in rounds])
        drawn = order[first - rounds[0] * self.count :][:per_epoch]
        return [(index,) for index in drawn.tolist()]


class ClassOrder(Order):
    """Every class equally often, and of the samples that have it each equally often.

    The class-aware sampling of Shen et al. 2016 (Relay Backpropagation).

    Args:
        presence: (samples, classes), which classes a sample has; classes that none has are left
            out.
        seed: Seed of the draws.
    """

    def __init__(self, presence: NDArray[np.bool_], seed: int) -> None:
        self.seed = seed
        present = np.flatnonzero(presence.any(axis=0)).tolist()
        self.holders = {label: np.flatnonzero(presence[:, label]) for label in present}

    def list_draws(self, epoch: int, per_epoch: int) -> list[Wanted]:
        """See :meth:`Order.list_draws`."""
        classes = list(self.holders)
        permute = cache(_permute)  # one of many samples takes as long as all else
        draws: list[Wanted] = []
        for number in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            turn, place = divmod(number, len(classes))  # in each turn every class comes once
            label = classes[permute(len(classes), self.seed, 3, turn)[place]]
            holders = self.holders[label]
            again, at = divmod(turn, len(holders))
            index = holders[permute(len(holders), self.seed, 4, label, again)[at]]
            draws.append((int(index), label))
        return draws


class HardOrder(Order):
    """Half of the draws evenly, the others in proportion to a weight of each sample.

    Args:
        even: The order of the even half, which is that of all draws without weights.
        find_weights: Gives the weights in an epoch, (samples,), not negative; None: all are alike.
    """

    def __init__(
        self, even: EvenOrder, find_weights: Callable[[], NDArray[np.float64] | None]
    ) -> None:
        self.even, self.find_weights = even, find_weights

    def list_draws(self, epoch: int, per_epoch: int) -> list[Wanted]:
        """See :meth:`Order.list_draws`."""
        draws, weights = self.even.list_draws(epoch, per_epoch), self.find_weights()
        if weights is None or not weights.sum() > 0:
            return draws
        rng = np.random.default_rng((self.even.seed, 5, epoch))
        hard = rng.choice(len(weights), size=per_epoch, p=weights / weights.sum())
        return [
            (int(hard[i]),) if is_hard else draws[i]
            for i, is_hard in enumerate(rng.permutation(per_epoch) % 2 == 1)
        ]


class UnlabeledOrder(Order):
    """Each batch ends with samples without labels, whose numbers follow those with labels.

    Args:
        labelled: The order of those with labels.
        counts: The number of samples with and without labels.
        batch: The numbers of both in a batch of one process.
        seed: Seed of the draws.
        processes: The number of processes.
    """

    def __init__(
        self,
        labelled: Order,
        counts: tuple[int, int],
        batch: tuple[int, int],
        seed: int,
        processes: int = 1,
    ) -> None:
        self.labelled, self.batch, self.processes = labelled, batch, processes
        self.unlabeled, self.first = EvenOrder(counts[1], seed, stream=6), counts[0]

    def list_draws(self, epoch: int, per_epoch: int) -> list[Wanted]:
        """See :meth:`Order.list_draws`."""
        places = np.arange(per_epoch) // self.processes % sum(self.batch)
        is_labelled = places < self.batch[0]
        labelled = iter(self.labelled.list_draws(epoch, int(is_labelled.sum())))
        others = iter(self.unlabeled.list_draws(epoch, int((~is_labelled).sum())))
        return [
            next(labelled) if is_one else (self.first + next(others)[0],) for is_one in is_labelled
        ]


def count_unlabeled(batch: int, share: float) -> int:
    """How many samples of a batch have no labels; at least one has and one has none."""
    return min(batch - 1, max(1, round(share * batch)))


class DrawSampler(Sampler[Draw]):
    """The draws of a training epoch with their seeds, divided evenly among the processes."""

    def __init__(
        self, order: Order, per_epoch: int, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        self.order, self.per_epoch, self.seed, self.epoch = order, per_epoch, seed, 0
        self.rank, self.processes = rank, processes

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; called by Lightning."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.per_epoch // self.processes

    def __iter__(self) -> Iterator[Draw]:
        drawn = self.order.list_draws(self.epoch, self.per_epoch)
        rng = np.random.default_rng((self.seed, 1, self.epoch))
        seeds = rng.integers(2**31, size=self.per_epoch).tolist()
        draws = [(index, own, *label) for (index, *label), own in zip(drawn, seeds, strict=True)]
        # every process gets the same number, otherwise one would wait forever for the others
        return iter(draws[self.rank :: self.processes][: len(self)])


class EverySample(Sampler[list[int]]):
    """Batches of samples of one size, which together are every sample once.

    They are divided among the processes without repeating any to even out the shares.

    Args:
        sizes: Height and width of each sample.
        batch_size: Samples in a batch, at most.
        pixels: Pixels in a batch of several samples, at most.

    Raises:
        SegkitError: There are more processes than samples.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        batch_size: int,
        pixels: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if processes > len(sizes):
            raise SegkitError(
                f"there are {processes} processes and {len(sizes)} images to validate: use fewer"
                " devices or more images."
            )
        alike = defaultdict[tuple[int, int], list[int]](list)
        for number in range(rank, len(sizes), processes):
            alike[sizes[number]].append(number)
        self.batches = list[list[int]]()
        for (height, width), numbers in alike.items():
            count = max(1, min(batch_size, pixels // (height * width)))
            self.batches += [numbers[at : at + count] for at in range(0, len(numbers), count)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def _permute(count: int, *key: int) -> NDArray[np.intp]:
    """The numbers below a count in an order that follows from a key."""
    return np.random.default_rng(key).permutation(count)
