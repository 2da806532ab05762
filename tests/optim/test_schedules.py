"""Learning rate schedules: their shape, and the rate of the first step of a training."""

import pytest
from conftest import train_quick
from torch.optim.optimizer import register_optimizer_step_pre_hook

from segkit.optim.schedules import Schedule

WITH_WARMUP = [
    *(("poly", {"warmup": 0.2}, 0.01), ("cosine", {"warmup": 0.2}, 0.01)),
    *(("one_cycle", {"warmup": 0.2}, 0.04), ("one_cycle", {"warmup": 0.2, "start": 0.0}, 0.01)),
]


@pytest.mark.parametrize(("name", "options", "first"), WITH_WARMUP)
def test_a_warmup_rises_from_above_zero_to_one_and_falls_afterwards(name, options, first):
    schedule = Schedule.build(name, **options)
    factors = [schedule.factor(step / 50) for step in range(51)]
    assert factors[0] == pytest.approx(first)
    assert factors[10] == max(factors) == 1
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert min(factors[:-1]) > 0


def test_by_hand():
    factors = {name: Schedule.build(name).factor for name in Schedule.names()}
    assert [factors["constant"](x) for x in (0, 0.5, 1)] == [1, 1, 1]
    assert [factors["poly"](x) for x in (0, 0.5, 1)] == pytest.approx([1, 0.5**0.9, 0])
    assert [factors["cosine"](x) for x in (0.05, 0.525, 1)] == pytest.approx([1, 0.505, 0.01])
    assert factors["cosine"](0.025) == pytest.approx(0.01 + 0.99 / 2)
    assert [factors["one_cycle"](x) for x in (0.15, 0.3, 1)] == pytest.approx([0.52, 1, 1e-4])
    assert Schedule.build("poly", warmup=1.0).factor(1.0) == 0  # a warm-up that is the training


@pytest.mark.slow
@pytest.mark.parametrize(
    "length",
    [["trainer.max_epochs=1"], ["trainer.max_epochs=null", "trainer.max_time=00:00:00:02"]],
)
def test_the_first_step_of_a_training_changes_the_weights(tmp_path, length):
    """Whether the schedule goes by the steps or by the time."""
    rates = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    with hook:
        options = ["scheduler=cosine", "scheduler.warmup=0.9", "optimizer.lr=0.02"]
        train_quick(tmp_path, *options, *length)
    assert rates[0] == pytest.approx(0.01 * 0.02)
    assert rates[0] < rates[-1]
