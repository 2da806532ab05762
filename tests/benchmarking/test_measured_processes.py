from __future__ import annotations

import sys
from pathlib import Path

import pytest

from segkit.benchmarking.child import find, resident_bytes
from segkit.benchmarking.process import MeasuredProcess, Spec, measure
from segkit.benchmarking.timing import MeasurementError

FILE = str(Path(__file__).parent / "candidates_for_tests.py")
linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is that of /proc")


def spec(function, threads=None, **arguments):
    return Spec(f"{FILE}:{function}", arguments, threads=threads)


def test_candidates_take_turns_and_say_what_they_are():
    found = measure({"a": spec("quiet", threads=3), "b": spec("quiet", result="b")}, rounds=2)
    assert [len(one.seconds) for one in found.values()] == [2, 2]
    assert found["a"].facts == {"result": "done", "threads": "3"}
    assert found["b"].facts["result"] == "b"
    assert not any(one.failure or one.alone for one in found.values())


def test_what_a_library_prints_is_no_answer():
    assert not measure({"a": spec("chatty")}, 1)["a"].failure


@linux
def test_the_peak_is_that_of_the_runs_above_the_imports():
    """The facts take five times as much afterwards."""
    peak = measure({"a": spec("hungry", megabytes=200)}, 2)["a"].peak_mb
    assert 190 < peak < 300


@linux
def test_the_peak_of_this_process_is_not_that_of_the_child():
    big = b"x" * 300_000_000
    peak = measure({"a": spec("quiet")}, 1)["a"].peak_mb
    assert resident_bytes() > len(big) > 1e6 * peak


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("build", "ValueError: it cannot be built"),
        ("run", "RuntimeError: it cannot be run"),
        ("killed", r"signal 9\), probably for too little memory"),
        ("exit", "ended with status 3"),
    ],
)
def test_a_failure_is_a_reason_and_the_others_go_on(when, said):
    found = measure({"bad": spec("failing", when=when), "good": spec("quiet")}, 2)
    assert len(found["good"].seconds) == 2
    assert found["bad"].seconds == []
    with pytest.raises(MeasurementError, match=said):
        raise MeasurementError(found["bad"].failure)
    assert "second line" not in found["bad"].failure


def test_a_run_that_takes_too_long_is_given_up():
    with MeasuredProcess(spec("failing", when="late"), timeout=30) as process:
        process.wait()
        process._timeout = 0.5
        with pytest.raises(MeasurementError, match=r"no answer in 0\.5 s"):
            process.seconds()


def test_what_fails_beside_the_others_is_tried_alone(tmp_path):
    """Each takes memory; together it is too little."""
    specs = {
        "a": spec("crowded", folder=str(tmp_path), name="a", others="b"),
        "b": spec("crowded", folder=str(tmp_path), name="b", others=None),
    }
    found = measure(specs, 1, 0)
    assert found["a"].alone
    assert found["a"].seconds
    assert not found["b"].alone


def test_a_target_is_a_function_of_a_module_or_of_a_file():
    assert find(f"{FILE}:quiet")().facts()["result"] == "done"
    assert find("segkit.benchmarking.child:find") is find


def test_a_target_that_does_not_exist_is_a_reason():
    found = measure({"a": Spec("segkit.benchmarking.nothing:run")}, 1)
    assert found["a"].failure.startswith("ModuleNotFoundError")
