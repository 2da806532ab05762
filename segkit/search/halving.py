"""Successive halving (Jamieson and Talwalkar 2016): who trains for how long, and who stays.

Every rung trains the candidates that are left anew, and its best third goes on to the next one,
which has more time for each. The last rung has the finalists, and trains them on all folds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FINALISTS = 2
KEPT = 3
"""One of so many candidates of a rung goes on."""
SHORTEST = 20
"""Seconds of the shortest training that tells anything."""


@dataclass(frozen=True)
class Rung:
    """One round of trainings.

    Attributes:
        candidates: How many take part.
        folds: How many folds each is trained on.
    """

    candidates: int
    folds: int

    @property
    def trainings(self) -> int:
        """How many trainings that is."""
        return self.candidates * self.folds


def plan_rungs(candidates: int, folds: int) -> list[Rung]:
    """The rungs for so many candidates, the last one with the finalists on all folds."""
    rungs = []
    while candidates > FINALISTS:
        rungs.append(Rung(candidates, 1))
        candidates = max(FINALISTS, math.ceil(candidates / KEPT))
    return [*rungs, Rung(candidates, folds)]


def share_time(left: float, rungs: Sequence[Rung], number: int, besides: float) -> float:
    """The seconds of each training of a rung.

    The last rung has half of the time, and the others have equal parts of the rest. What a rung
    takes too long is missing in the next ones.

    Args:
        left: Seconds for this rung and those after it.
        rungs: All rungs.
        number: Which one it is.
        besides: Seconds that a training takes besides: to start, to read the data, to score.
    """
    weights = [1] * (len(rungs) - 1) + [max(1, len(rungs) - 1)]
    part = left * weights[number] / sum(weights[number:])
    return part / rungs[number].trainings - besides


def list_times(budget: float, rungs: Sequence[Rung], besides: float) -> list[float]:
    """The seconds of each training of all rungs, if each takes the time that is planned."""
    times = []
    for number, rung in enumerate(rungs):
        times.append(share_time(budget, rungs, number, besides))
        budget -= rung.trainings * (times[-1] + besides)
    return times


def count_affordable(most: int, budget: float, folds: int, besides: float) -> int:
    """How many candidates there is time for, at most so many; 0 if not even for two."""
    for count in range(most, 1, -1):
        if min(list_times(budget, plan_rungs(count, folds), besides)) >= SHORTEST:
            return count
    return 0


def choose_survivors(scores: Mapping[int, Sequence[float]], count: int) -> list[int]:
    """The best candidates, best first, by the means of their scores.

    Args:
        scores: The scores of each candidate on its folds, more is better; of those that have failed
            there are none. An undefined one (NaN) is worse than any other, and of equal ones the
            candidate with the smaller number is better.
        count: How many to choose, at most.
    """

    def order(candidate: int) -> tuple[bool, float, int]:
        mean = statistics.fmean(scores[candidate])
        return math.isnan(mean), 0.0 if math.isnan(mean) else -mean, candidate

    return sorted((c for c in scores if scores[c]), key=order)[:count]


def compare(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of the differences of two candidates on the same folds.

    The deviation is NaN for a single fold.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    spread = statistics.stdev(differences) if len(differences) > 1 else math.nan
    return statistics.fmean(differences), spread


def spell_time(seconds: int) -> str:
    """A time as ``trainer.max_time`` takes it."""
    minutes, hours = seconds // 60, seconds // 3600
    return f"{hours // 24:02}:{hours % 24:02}:{minutes % 60:02}:{seconds % 60:02}"
