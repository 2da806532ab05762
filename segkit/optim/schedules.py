"""Learning rate schedules."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

from pydantic import Field

from segkit.core.registry import Registrable

Share = Annotated[float, Field(ge=0, le=1)]

FIRST = 0.01
"""Factor of the first step of a warm-up: at a rate of 0 the step would change nothing."""


REWARMING = 0.05
"""Share of what is left of a training over which its rate rises to that of a longer schedule."""


class Schedule(Registrable, ABC, family="scheduler"):
    """The factor on the learning rate at each step."""

    @abstractmethod
    def factor(self, progress: float) -> float:
        """The factor after the share ``progress`` of the training, 0 to 1.

        The share is that of the steps or, with a time budget, of the time.
        """


class Constant(Schedule, name="constant"):
    """A constant learning rate."""

    def factor(self, progress: float) -> float:
        """Always 1."""
        return 1.0


class Poly(Schedule, name="poly"):
    """(1 - t / T) ^ power (Chen et al. 2017, DeepLab), after a linear warm-up.

    Args:
        power: The exponent.
        warmup: Share of the training over which the rate rises linearly, from 0.01 of it.
    """

    def __init__(self, power: Annotated[float, Field(gt=0)] = 0.9, warmup: Share = 0.0) -> None:
        self.power, self.warmup = power, warmup

    def factor(self, progress: float) -> float:
        """Linear rise, then the power law."""
        if progress < self.warmup:
            return _rise(progress / self.warmup)
        return float((1 - _share_after(progress, self.warmup)) ** self.power)


class Cosine(Schedule, name="cosine"):
    """Half a cosine (Loshchilov and Hutter 2017, SGDR) after a linear warm-up.

    Args:
        warmup: Share of the training over which the rate rises linearly, from 0.01 of it.
        final: Factor on the rate at the end.
    """

    def __init__(self, warmup: Share = 0.05, final: Share = 0.01) -> None:
        self.warmup, self.final = warmup, final

    def factor(self, progress: float) -> float:
        """Linear rise, then half a cosine down to ``final``."""
        if progress < self.warmup:
            return _rise(progress / self.warmup)
        return _half_cosine(1.0, self.final, _share_after(progress, self.warmup))


class OneCycle(Schedule, name="one_cycle"):
    """Up and down once, each half a cosine (Smith and Topin 2018, "Super-Convergence").

    Args:
        warmup: Share of the training over which the rate rises.
        start: Factor on the rate at the start; 0 becomes 0.01.
        final: Factor on the rate at the end.
    """

    def __init__(self, warmup: Share = 0.3, start: Share = 0.04, final: Share = 1e-4) -> None:
        self.warmup, self.start, self.final = warmup, start or FIRST, final

    def factor(self, progress: float) -> float:
        """Half a cosine from ``start`` up to 1, then one down to ``final``."""
        if progress < self.warmup:
            return _half_cosine(self.start, 1.0, progress / self.warmup)
        return _half_cosine(1.0, self.final, _share_after(progress, self.warmup))


def rise_again(old: float, new: float, share: float) -> float:
    """The factor of a training that goes on with another schedule, after a share of what is left.

    It rises linearly from the old factor, as a rate that jumps would undo what was learned; a lower
    one counts at once.
    """
    return new if new <= old else old + (new - old) * min(1.0, share / REWARMING)


def _rise(progress: float) -> float:
    """From FIRST to 1."""
    return FIRST + (1 - FIRST) * progress


def _half_cosine(begin: float, end: float, progress: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * progress)) / 2


def _share_after(progress: float, warmup: float) -> float:
    """The share of the training after the warm-up that is over."""
    return min(1.0, (progress - warmup) / (1 - warmup)) if warmup < 1 else 1.0
