"""The harness of benchmarks/: turns, ratios, processes, floors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from harness.process import Measured, MeasuredProcess, Spec, measure
from harness.roofline import Rates, Work, count_work
from harness.side_by_side import Case, Comparison, choose_names
from harness.timing import MeasurementError, Ratio, alternate, compute_ratio
from segkit.core.errors import SegkitError

sys.path.insert(0, str(Path(__file__).parent))  # the measured processes have the same path
from candidates_for_tests import crowded, failing, hungry, quiet


def record_turns(names, fails_at=None):
    """Measures that write down their turns, and what they wrote."""
    turns = []

    def make(name):
        def run():
            turns.append(name)
            if (name, turns.count(name)) == fails_at:
                raise MeasurementError("no more")
            return float(len(turns))

        return run

    return {name: make(name) for name in names}, turns


def test_both_orders_have_half_of_the_rounds_and_a_failing_candidate_drops_out():
    measures, turns = record_turns("AB")
    found = alternate(measures, rounds=4, warm_up=1)
    assert "".join(turns) == "AB" + "ABAB" + "BABA"
    assert found.seconds == {"A": [3, 5, 8, 10], "B": [4, 6, 7, 9]}
    measures, _ = record_turns("ABC", fails_at=("B", 3))
    found = alternate(measures, rounds=4, warm_up=1)
    assert found.failures == {"B": "no more"}
    assert [len(seconds) for seconds in found.seconds.values()] == [4, 4]


def test_the_ratio_is_the_median_of_pairs_so_that_a_drift_is_not_in_it():
    assert compute_ratio([1.0, 30.0, 2.0], [2.0, 40.0, 1.0]) == Ratio(0.75, 0.625, 1.375, 3)
    drift = [1, 2, 5, 9]
    found = compute_ratio([0.8 * d for d in drift], [1.0 * d for d in drift])
    assert (found.median, found.high - found.low) == pytest.approx((0.8, 0))
    with pytest.raises(SegkitError, match="needs pairs"):
        compute_ratio([1.0], [1.0, 2.0])


def test_work_is_counted_with_the_backward_pass_and_without_what_can_be_fused():
    x, w = torch.rand(2, 3, 8, 8), torch.rand(5, 3, 3, 3, requires_grad=True)
    plain = count_work(lambda: F.conv2d(x, w, padding=1))
    assert plain == Work(2 * 2 * 5 * 3 * 9 * 64, 4 * (2 * 3 * 64 + 135 + 2 * 5 * 64))
    assert count_work(lambda: torch.cat([F.conv2d(x, w, padding=1).relu() * 2, x], 1)) == plain
    both = count_work(lambda: F.conv2d(x, w, padding=1).sum().backward())
    assert both.flops == 2 * plain.flops  # the image needs no gradient


CASE = Case(
    "unet",
    {name: Spec(quiet) for name in ("segkit", "smp", "broken", "segkit's own")},
    {"smp": 0.6, "smp MB": 0.7, "broken": 0.9},
)
FOUND = {
    "unet": {
        "segkit": Measured([1.0, 1.0, 2.0], 60.0, {"flops": 4e9, "bytes": 1e6}),
        "smp": Measured([2.0, 2.0, 4.0], 80.0),
        "broken": Measured(failure="too little memory"),
        "segkit's own": Measured([3.0, 3.0, 3.0], 90.0),
    }
}


def test_tables_compare_ours_with_every_other_and_with_the_floor_and_the_targets():
    (row,) = Comparison([CASE], FOUND, {}, Rates(1e9, 8e9, 1e9)).list_times()
    assert (row["segkit, ms"], row["floor, ms"]) == (1000, 500)  # of the faster arithmetic
    assert row["segkit / smp"] == "0.50 [0.50, 0.50]"
    assert (row["broken, ms"], row["segkit / broken"]) == (None, "-")
    assert "segkit / segkit's own" not in row
    done = Comparison([CASE], FOUND, {}, Rates(1e12, 1e12, 1e6))
    (row,) = done.list_times()
    assert row["floor, ms"] == 1000  # of the memory
    (row,) = done.list_memory()
    assert (row["segkit / smp"], row["segkit / broken"]) == (0.75, None)
    reached = [(row["of"], row["measured"], row["reached"]) for row in done.list_targets()]
    assert reached == [
        ("time", 0.5, "yes"),
        ("memory", 0.75, "no"),
        ("time", None, "not measured"),
    ]


def test_cases_are_chosen_by_all_of_the_texts():
    names = ["unet training 256", "unet inference 256", "fpn training 512"]
    assert choose_names(names, ["unet", "train"]) == names[:1]
    with pytest.raises(SegkitError, match="fpn training 512"):
        choose_names(names, ["nothing"])


@pytest.mark.slow
def test_a_failure_is_a_reason_and_the_others_go_on():
    kinds = ("build", "run", "killed", "exit")
    specs = {when: Spec(failing, {"when": when}) for when in kinds}
    found = measure({**specs, "good": Spec(quiet, threads=3)}, 2)
    assert len(found["good"].seconds) == 2
    assert found["good"].facts == {"threads": "3"}
    assert {when: found[when].failure for when in kinds} == {
        "build": "ValueError: it cannot be built",
        "run": "RuntimeError: it cannot be run",
        "killed": "the process ended with status -9, probably out of memory",
        "exit": "the process ended with status 3",
    }


@pytest.mark.slow
def test_time_limit_peak_and_a_second_try_alone(tmp_path):
    with MeasuredProcess(Spec(failing, {"when": "late"}), timeout=60) as process:
        process.wait()
        process.timeout = 0.5
        with pytest.raises(MeasurementError, match=r"no answer in 0\.5 s"):
            process.seconds()
    specs = {
        "a": Spec(crowded, {"folder": str(tmp_path), "name": "a", "other": "b"}),
        "b": Spec(crowded, {"folder": str(tmp_path), "name": "b", "other": None}),
        "hungry": Spec(hungry, {"megabytes": 200}),
    }
    found = measure(specs, 1, 0)
    assert (found["a"].alone, found["b"].alone) == (True, False)
    assert found["a"].seconds
    if sys.platform == "linux":  # the peak is that of /proc
        assert 190 < found["hungry"].peak_mb < 300
