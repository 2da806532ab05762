"""Runs that take turns, so that a machine whose speed drifts slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from segkit.core.errors import SegkitError

Measure = Callable[[], float]
"""Runs once and tells the seconds that it took."""


class MeasurementError(SegkitError):
    """What was to be measured could not be run; the others go on.

    Attributes:
        for_good: Whether it would fail again.
    """

    def __init__(self, message: str, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


@dataclass(frozen=True)
class Timings:
    """What :func:`alternate` found.

    Attributes:
        seconds: Of each name, one entry a round, in the order of the rounds.
        failures: Of each name that dropped out, why. It has no seconds.
    """

    seconds: dict[str, list[float]]
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """How long one takes against another.

    Attributes:
        median: The median over the pairs of a round: below 1, it is the faster one.
        low: Lower quartile of the pairs.
        high: Upper quartile of the pairs.
        pairs: How many there are.
    """

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def timed(
    run: Callable[[], object],
    wait: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Measure:
    """A run with a clock.

    Args:
        run: What is measured.
        wait: Returns when the device has done what was asked of it.
        clock: Tells the seconds since some moment.
    """

    def measure() -> float:
        wait()
        began = clock()
        run()
        wait()
        return clock() - began

    return measure


def alternate(measures: Mapping[str, Measure], rounds: int, warm_up: int = 1) -> Timings:
    """Measure several things in turns: A B A B in the first half of the rounds, then B A B A.

    What runs second may find a warmer cache or a hotter processor: in both orders that evens out.
    A measure that raises :class:`MeasurementError` drops out.

    Args:
        measures: What is measured, by name.
        rounds: How often each is measured, at least once.
        warm_up: Rounds before that which do not count.
    """
    if rounds < 1 or warm_up < 0:
        raise SegkitError(f"rounds={rounds} warm_up={warm_up}: give at least one round.")
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    failures: dict[str, str] = {}
    for number in range(-warm_up, rounds):
        backwards = number >= (rounds + 1) // 2
        for name in reversed(list(measures)) if backwards else measures:
            if name in failures:
                continue
            try:
                taken = measures[name]()
            except MeasurementError as error:
                failures[name] = str(error)
                continue
            if number >= 0:
                seconds[name].append(taken)
    return Timings({n: s for n, s in seconds.items() if n not in failures}, failures)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The median of ours / theirs over the rounds, and its quartiles.

    The pair of a round was measured at about the same time, so that a slow minute is in both.

    Args:
        ours: Seconds, one entry a round.
        theirs: Likewise, of the same rounds.

    Raises:
        SegkitError: They are not pairs.
    """
    if not ours or len(ours) != len(theirs):
        raise SegkitError(f"a ratio needs pairs, and got {len(ours)} and {len(theirs)} times.")
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    if len(pairs) == 1:
        return Ratio(pairs[0], pairs[0], pairs[0], 1)
    low, middle, high = statistics.quantiles(pairs, n=4, method="inclusive")
    return Ratio(middle, low, high, len(pairs))
