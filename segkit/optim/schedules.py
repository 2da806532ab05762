"""How the learning rate goes over a training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

from pydantic import Field

from segkit.core.registry import Registrable

Share = Annotated[float, Field(ge=0, le=1)]


class Schedule(Registrable, ABC, family="scheduler"):
    """The factor on the learning rate at each step."""

    @abstractmethod
    def factor(self, progress: float) -> float:
        """The factor when the share ``progress`` of the training, 0 to 1, is done."""


class Constant(Schedule, name="constant"):
    """The learning rate of the optimizer throughout."""

    def factor(self, progress: float) -> float:
        """1."""
        return 1.0


class Poly(Schedule, name="poly"):
    """(1 - t / T) ^ power (Chen et al. 2017, DeepLab).

    Args:
        power: The exponent.
        warmup: Share of the training in which the rate rises linearly.
    """

    def __init__(self, power: Annotated[float, Field(gt=0)] = 0.9, warmup: Share = 0.0) -> None:
        self.power, self.warmup = power, warmup

    def factor(self, progress: float) -> float:
        """Linear rise, then the power law."""
        if progress < self.warmup:
            return progress / self.warmup
        return float((1 - _after(progress, self.warmup)) ** self.power)


class Cosine(Schedule, name="cosine"):
    """Half a cosine (Loshchilov and Hutter 2017, SGDR) after a linear warm-up.

    Args:
        warmup: Share of the training in which the rate rises linearly.
        final: What is left of the rate at the end.
    """

    def __init__(self, warmup: Share = 0.05, final: Share = 0.01) -> None:
        self.warmup, self.final = warmup, final

    def factor(self, progress: float) -> float:
        """Linear rise, then 1 down to ``final``."""
        if progress < self.warmup:
            return progress / self.warmup
        return _wave(1.0, self.final, _after(progress, self.warmup))


class OneCycle(Schedule, name="one_cycle"):
    """Up and down once, each half a cosine (Smith and Topin 2018, "Super-Convergence").

    Args:
        warmup: Share of the training in which the rate rises.
        start: What the rate starts with.
        final: What is left of it at the end.
    """

    def __init__(self, warmup: Share = 0.3, start: Share = 0.04, final: Share = 1e-4) -> None:
        self.warmup, self.start, self.final = warmup, start, final

    def factor(self, progress: float) -> float:
        """``start`` up to 1, then down to ``final``."""
        if progress < self.warmup:
            return _wave(self.start, 1.0, progress / self.warmup)
        return _wave(1.0, self.final, _after(progress, self.warmup))


def _wave(begin: float, end: float, progress: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * progress)) / 2


def _after(progress: float, warmup: float) -> float:
    """The share that is done of what follows the warm-up."""
    return min(1.0, (progress - warmup) / (1 - warmup)) if warmup < 1 else 1.0
