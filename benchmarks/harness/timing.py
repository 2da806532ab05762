"""Alternating runs: a machine whose speed drifts slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from segkit.core.errors import SegkitError

Measure = Callable[[], float]
"""Runs once and returns the seconds it took."""


class MeasurementError(SegkitError):
    """A candidate could not be run; the others go on.

    Attributes:
        for_good: Whether it would fail again.
    """

    def __init__(self, message: str, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


@dataclass(frozen=True)
class Timings:
    """The result of :func:`alternate`.

    Attributes:
        seconds: Name to one entry a round, in order.
        failures: Name to the reason why it dropped out; it has no seconds.
    """

    seconds: dict[str, list[float]]
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """How long one takes compared with another.

    Attributes:
        median: Median over the pairs of a round; below 1 it is faster.
        low: Lower quartile of the pairs.
        high: Upper quartile of the pairs.
        pairs: Their number.
    """

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def make_timer(
    run: Callable[[], object],
    wait: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Measure:
    """A function that runs once and returns the seconds.

    Args:
        run: What to measure.
        wait: Returns when the device has finished its work.
        clock: Seconds since any fixed moment.
    """

    def measure() -> float:
        wait()
        began = clock()
        run()
        wait()
        return clock() - began

    return measure


def alternate(measures: Mapping[str, Measure], rounds: int, warm_up: int = 1) -> Timings:
    """Measure in turns: A B A B in the first half of the rounds, then B A B A.

    The second of a pair may find a warmer cache or a hotter processor; both orders even that out.
    A measure that raises :class:`MeasurementError` drops out.

    Args:
        measures: The measures by name.
        rounds: How often each is taken, at least once.
        warm_up: Rounds before those.
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


def compute_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The median of ours / theirs over the rounds, and its quartiles.

    The two of a round were measured at about the same time, so a slow minute is in both.

    Args:
        ours: Seconds, one entry a round.
        theirs: Seconds of the same rounds.

    Raises:
        SegkitError: The numbers of entries differ, or there are none.
    """
    if not ours or len(ours) != len(theirs):
        raise SegkitError(f"a ratio needs pairs, and got {len(ours)} and {len(theirs)} times.")
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    if len(pairs) == 1:
        return Ratio(pairs[0], pairs[0], pairs[0], 1)
    low, middle, high = statistics.quantiles(pairs, n=4, method="inclusive")
    return Ratio(middle, low, high, len(pairs))
