from __future__ import annotations

import pytest

from segkit.benchmarking.timing import (
    MeasurementError,
    Ratio,
    alternate,
    ratio,
    timed,
)
from segkit.core.errors import SegkitError


def recorded(names, fails_at=None):
    """Measures that write down their turns, and what they wrote."""
    turns = []

    def measure(name):
        def run():
            turns.append(name)
            if fails_at is not None and (name, turns.count(name)) == fails_at:
                raise MeasurementError("no more")
            return float(len(turns))

        return run

    return {name: measure(name) for name in names}, turns


def test_both_orders_have_half_of_the_rounds():
    measures, turns = recorded("AB")
    found = alternate(measures, rounds=4, warm_up=1)
    assert "".join(turns) == "AB" + "ABAB" + "BABA"
    assert found.seconds == {"A": [3, 5, 8, 10], "B": [4, 6, 7, 9]}  # without the warm-up


def test_three_take_turns_forwards_and_backwards():
    measures, turns = recorded("ABC")
    alternate(measures, rounds=2, warm_up=0)
    assert "".join(turns) == "ABCCBA"


def test_one_round_and_no_warm_up():
    measures, turns = recorded("AB")
    assert alternate(measures, 1, 0).seconds == {"A": [1], "B": [2]}
    assert "".join(turns) == "AB"


@pytest.mark.parametrize("turn", [1, 3])  # in the warm-up, and later
def test_what_fails_drops_out_and_the_others_go_on(turn):
    measures, turns = recorded("ABC", fails_at=("B", turn))
    found = alternate(measures, rounds=4, warm_up=1)
    assert found.failures == {"B": "no more"}
    assert set(found.seconds) == {"A", "C"}
    assert [len(s) for s in found.seconds.values()] == [4, 4]
    assert turns.count("B") == turn


def test_another_error_is_not_swallowed():
    def wrong():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        alternate({"A": wrong}, 1)


@pytest.mark.parametrize(("rounds", "warm_up"), [(0, 0), (1, -1)])
def test_no_rounds_are_an_error(rounds, warm_up):
    with pytest.raises(SegkitError, match="at least one round"):
        alternate({}, rounds, warm_up)


def test_a_run_is_timed_from_when_the_device_is_idle_until_it_is_again():
    log = []
    ticks = iter([10.0, 12.5])

    def clock():
        log.append("clock")
        return next(ticks)

    measure = timed(lambda: log.append("run"), lambda: log.append("wait"), clock)
    assert measure() == 2.5
    assert log == ["wait", "clock", "run", "wait", "clock"]


def test_the_ratio_is_the_median_of_pairs_not_the_ratio_of_medians():
    ours, theirs = [1.0, 30.0, 2.0], [2.0, 40.0, 1.0]  # 0.5, 0.75, 2
    found = ratio(ours, theirs)
    assert found == Ratio(0.75, 0.625, 1.375, 3)
    assert str(found) == "0.75 [0.62, 1.38]"


def test_a_drift_that_slows_both_is_not_in_the_ratio():
    drift = [1, 2, 5, 9]
    found = ratio([0.8 * d for d in drift], [1.0 * d for d in drift])
    assert found.median == pytest.approx(0.8)
    assert found.high - found.low == pytest.approx(0)


def test_one_pair_has_no_spread():
    assert ratio([1.0], [2.0]) == Ratio(0.5, 0.5, 0.5, 1)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0])])
def test_a_ratio_needs_pairs(a, b):
    with pytest.raises(SegkitError, match="needs pairs"):
        ratio(a, b)
