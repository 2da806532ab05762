from types import SimpleNamespace

import pytest

from segkit.training.callbacks import EpochBar


@pytest.mark.parametrize(
    ("last", "shown"), [(16, "epoch 3 of 16"), (-1, "epoch 3"), (None, "epoch 3")]
)
def test_epochs_count_from_one_and_may_have_no_end(last, shown):
    bar = EpochBar(leave=False)
    bar._trainer = SimpleNamespace(max_epochs=last)
    assert bar._get_train_description(2).strip() == shown
