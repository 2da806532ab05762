"""A training that is given a time."""

from __future__ import annotations

import types

import pytest
from conftest import train_quick

from segkit.core.errors import SegkitError
from segkit.report.table import read_csv
from segkit.training import budget
from segkit.training.budget import NEVER, Budget

TIME = "trainer.max_time=00:00:00:12"


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(budget, "time", clock)
    return clock


def trainer():
    return types.SimpleNamespace(
        current_epoch=0, check_val_every_n_epoch=1, should_stop=False, world_size=1
    )


def train_epoch(callback, run, clock, seconds, validation):
    """Train an epoch of one step; return whether it is validated."""
    callback.on_train_epoch_start(run, None)
    clock.now += seconds
    callback.on_train_batch_end(run)
    validated = run.check_val_every_n_epoch == 1
    if validated:
        callback.on_validation_start(run, None)
        clock.now += validation
        callback.on_validation_end(run, None)
    return validated


def test_progress_reaches_1_in_time_for_the_last_validation(clock):
    callback, run = Budget(100), trainer()
    callback.on_train_start(run, None)
    assert callback.progress == 0
    train_epoch(callback, run, clock, 20, 10)
    assert callback.progress == pytest.approx(30 / 90)
    clock.now = 89
    callback.on_train_batch_end(run)
    assert not run.should_stop
    clock.now = 90
    callback.on_train_batch_end(run)
    assert run.should_stop
    assert run.check_val_every_n_epoch == 1


def test_validations_take_a_fifth_of_the_time_at_most(clock):
    callback, run = Budget(1000), trainer()
    callback.on_train_start(run, None)
    validated = []
    while clock.now < 900:
        validated.append(train_epoch(callback, run, clock, 5, 10))
        run.current_epoch += 1
    assert validated[0]
    assert 0.1 < 10 * sum(validated) / clock.now <= 0.21


@pytest.mark.parametrize(("seconds", "validated"), [(100, [True, True]), (70, [True, False])])
def test_a_validation_right_before_the_last_one_is_left_out(clock, seconds, validated):
    callback, run = Budget(seconds), trainer()
    callback.on_train_start(run, None)
    due = []
    for run.current_epoch in range(2):
        due.append(train_epoch(callback, run, clock, 30, 3) and not run.should_stop)
    assert due == validated


def test_all_processes_go_by_the_clock_of_the_first(clock):
    """Their own clocks differ; all must decide alike, or some would wait in vain."""
    callback, run = Budget(100), trainer()
    run.world_size = 2
    run.strategy = types.SimpleNamespace(broadcast=lambda own: 50.0)  # what the first one says
    callback.on_train_start(run, None)
    clock.now = 99.9
    callback.on_train_batch_end(run)
    assert callback.progress == 0.5
    assert not run.should_stop


def test_the_time_before_a_stop_counts(clock):
    first = Budget(100)
    first.on_train_start(trainer(), None)
    clock.now = 40
    first.on_train_batch_end(trainer())
    second = Budget(100)
    second.load_state_dict(first.state_dict())
    clock.now = 1000
    second.on_train_start(trainer(), None)
    clock.now = 1020
    second.on_train_batch_end(trainer())
    assert second.elapsed == pytest.approx(60)


def test_the_users_interval_of_validations_is_kept(clock):
    callback, run = Budget(1000, every=3), trainer()
    callback.on_train_start(run, None)
    due = []
    for run.current_epoch in range(6):
        callback.on_train_epoch_start(run, None)
        due.append(run.check_val_every_n_epoch != NEVER)
    assert due == [False, False, True, False, False, True]


@pytest.mark.nightly
def test_the_schedule_ends_with_the_time_and_the_end_is_validated(tmp_path):
    options = [TIME, "trainer.max_epochs=null", "scheduler=poly"]
    train_quick(tmp_path, *options)
    rows = read_csv(tmp_path / "metrics.csv")
    rates = [row["lr"] for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * 0.001
    assert rows[-1]["seconds"] < 20
    assert rows[-1]["val/iou"] >= 0
    with pytest.raises(SegkitError, match=r"the run has finished, 1\d of 12 seconds are done"):
        train_quick(tmp_path, *options, f"resume={tmp_path}")
