"""Trainings that go wrong: one message, and nothing that was reached is lost."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from conftest import train_quick

from segkit.core.errors import SegkitError
from segkit.images.writing import write_image, write_mask
from segkit.losses.base import Loss
from segkit.report.table import read_csv
from segkit.training.callbacks import StopWhenNotFinite


@pytest.fixture
def breaking(monkeypatch):
    """A loss that is NaN from the fourth training step on, whatever the config says."""

    class Breaks(Loss, name="breaks"):
        calls = 0

        def compute(self, logits, truth, valid, weight=None):
            self.calls += torch.is_grad_enabled()
            return logits.square().mean() * (float("nan") if self.calls > 3 else 1.0)

    Loss._members.pop("breaks")  # so that it is known no more at the end
    monkeypatch.setitem(Loss._members, "breaks", Breaks)
    monkeypatch.setattr(Loss, "build", lambda name, /, **options: Breaks(options["mode"]))


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_with_the_files_and_the_last_good_weights(
    breaking, tmp_path
):
    with pytest.raises(SegkitError) as caught:
        train_quick(tmp_path, "trainer.max_epochs=4")
    text = str(caught.value)
    assert "the loss became nan in epoch 1, step 3, on the samples train-" in text
    assert text.count("train-000") == 4  # the batch, by name
    assert "Check the loss 'breaks' first" in text
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert f"The last good checkpoint is {last}" in text
    stored = torch.load(last, weights_only=True)
    assert stored["epoch"] == 0
    assert all(w.isfinite().all() for w in stored["state_dict"].values() if w.is_floating_point())
    assert len(read_csv(tmp_path / "metrics.csv")) == 1


def test_where_looking_at_a_loss_would_wait_it_is_done_before_every_checkpoint():
    """As on a GPU: a fake loss that says it lies there."""

    class Far(torch.Tensor):
        device = types.SimpleNamespace(type="cuda")

    callback = StopWhenNotFinite(["a", "b", "c"])
    trainer = types.SimpleNamespace(current_epoch=2, global_step=7, precision="16-mixed")
    module = types.SimpleNamespace(loss=Loss.build("dice", mode="binary"))
    for index, value in enumerate([1.0, float("nan"), float("nan")]):
        callback.on_train_batch_start(trainer, None, {"index": torch.tensor([index])}, index)
        callback.on_before_backward(trainer, module, torch.tensor(value).as_subclass(Far))
    for hook in (callback.on_validation_start, callback.on_train_epoch_end):
        waiting = list(callback._unread)
        with pytest.raises(SegkitError, match=r"nan in epoch 2, step 7, on the samples b\."):
            hook(trainer, module)
        callback._unread = waiting
    callback._unread = waiting[:1]
    callback.on_train_epoch_end(trainer, module)
    assert callback._unread == []


@pytest.mark.parametrize(
    ("precision", "advice"),
    [
        ("16-mixed", "Look at .* lower optimizer.lr or use trainer.precision=32-true"),
        ("32-true", r"Check the loss 'dice' first, .* lower optimizer.lr\.$"),
    ],
)
def test_full_precision_is_no_remedy_where_it_is_used(precision, advice):
    trainer = types.SimpleNamespace(current_epoch=0, global_step=0, precision=precision)
    module = types.SimpleNamespace(loss=Loss.build("dice", mode="binary"))
    callback = StopWhenNotFinite(["a"])
    callback.on_train_batch_start(trainer, module, {"index": torch.tensor([0])}, 0)
    with pytest.raises(SegkitError, match=advice):
        callback.on_before_backward(trainer, module, torch.tensor(float("inf")))


@pytest.mark.slow
def test_an_image_without_any_label_in_a_batch_does_no_harm(tmp_path):
    """Every sample of it is ignored: alone in a batch (of 1) it gives a loss of 0."""
    rng = np.random.default_rng(0)
    for n in range(6):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20, 4 + n : 20] = 1
        if n == 2:
            mask[:] = 255
        image = rng.integers(0, 255, (32, 32, 1), np.uint8)
        write_image(tmp_path / "images" / f"{n}.png", image)
        write_mask(tmp_path / "masks" / f"{n}.png", mask)
    options = ["data=folder", f"data.root='{tmp_path}'", "data.label_map={255: 255}"]
    options += ["encoder=unet", "encoder.width=4", "encoder.depth=2", "data.num_workers=0"]
    options += ["data.batch_size=1", "data.crop_size=32", "trainer.max_epochs=1"]
    options += ["trainer.progress_bar=false", "trainer.accelerator=cpu"]
    # the options of the drawn data set do not fit
    run = train_quick(tmp_path / "run", *options, quick=[])
    assert all(np.isfinite(row["train/loss"]) for row in read_csv(run.folder / "metrics.csv"))
    stored = torch.load(run.checkpoint, weights_only=True)
    assert all(w.isfinite().all() for w in stored["state_dict"].values())
