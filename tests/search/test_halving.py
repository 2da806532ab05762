"""Who trains for how long, and who stays."""

from __future__ import annotations

import math

import pytest

from segkit.config.settings import SearchSettings, check_settings
from segkit.core.errors import SegkitError
from segkit.search.halving import (
    SHORTEST,
    Rung,
    choose_survivors,
    compare,
    count_affordable,
    list_times,
    plan_rungs,
    share_time,
    spell_time,
)

HOUR = 3600


@pytest.mark.parametrize(
    ("candidates", "rungs"),
    [
        (12, [(12, 1), (4, 1), (2, 3)]),
        (8, [(8, 1), (3, 1), (2, 3)]),
        (3, [(3, 1), (2, 3)]),
        (2, [(2, 3)]),
    ],
)
def test_a_third_goes_on_and_finalists_train_on_all_folds(candidates, rungs):
    assert plan_rungs(candidates, 3) == [Rung(*each) for each in rungs]


@pytest.mark.parametrize("budget", [HOUR, 4 * HOUR, 100 * HOUR])
@pytest.mark.parametrize("candidates", range(2, 17))
def test_the_trainings_take_the_budget_and_later_ones_more_each(budget, candidates):
    rungs, besides = plan_rungs(candidates, 3), 17.0
    times = list_times(budget, rungs, besides)
    walls = [rung.trainings * (time + besides) for rung, time in zip(rungs, times, strict=True)]
    assert sum(walls) == pytest.approx(budget)
    if len(rungs) > 1:
        assert walls[-1] == pytest.approx(budget / 2)
        assert walls[0] == pytest.approx(budget / 2 / (len(rungs) - 1))
    if candidates >= 6:
        assert times == sorted(times)


def test_what_a_rung_took_too_long_is_missing_in_the_next_one():
    rungs = plan_rungs(12, 3)
    assert share_time(HOUR, rungs, 0, 0) == pytest.approx(HOUR / 4 / 12)
    assert share_time(HOUR / 2, rungs, 1, 10) == pytest.approx(HOUR / 6 / 4 - 10)
    assert share_time(HOUR / 4, rungs, 2, 10) == pytest.approx(HOUR / 4 / 6 - 10)


def test_a_short_budget_has_fewer_candidates_and_a_shorter_one_none():
    besides = 20.0
    assert count_affordable(12, 4 * HOUR, 3, besides) == 12
    few = count_affordable(12, 600, 3, besides)
    assert 2 <= few < 12
    assert min(list_times(600, plan_rungs(few, 3), besides)) >= SHORTEST
    assert count_affordable(12, 6 * (SHORTEST + besides), 3, besides) == 2
    assert count_affordable(12, 6 * (SHORTEST + besides) - 1, 3, besides) == 0


def test_survivors_are_the_best_of_those_that_have_not_failed():
    scores = {0: [0.5], 1: [], 2: [math.nan], 3: [0.7], 4: [0.5], 5: [0.1]}
    assert choose_survivors(scores, 3) == [3, 0, 4]  # of equal ones the first, the plan's own
    assert choose_survivors(scores, 9) == [3, 0, 4, 5, 2]
    assert choose_survivors({0: [], 1: []}, 2) == []
    folds = {0: [0.5, 0.9], 1: [0.8, 0.8], 2: [1.0, math.nan]}
    assert choose_survivors(folds, 2) == [1, 0]


def test_differences_are_those_on_the_same_folds():
    mean, spread = compare([0.5, 0.7, 0.9], [0.4, 0.6, 0.8])
    assert mean == pytest.approx(0.1)
    assert spread == pytest.approx(0, abs=1e-9)  # although the folds differ by more
    assert math.isnan(compare([0.5], [0.4])[1])


def test_times_are_read_and_written():
    given = {"4h": 14400, "90m": 5400, "1d": 86400, "1h30m": 5400, "45s": 45, "00:01:00:30": 3630}
    for text, seconds in given.items():
        assert check_settings(SearchSettings, {"budget": text}).seconds == seconds
    assert spell_time(90061) == "01:01:01:01"
    for text in ("4", "h", "4 h", "-4h", "0h", "30m1h", 7):
        with pytest.raises(SegkitError, match="give a time"):
            check_settings(SearchSettings, {"budget": text})
