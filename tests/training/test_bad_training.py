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

    monkeypatch.delitem(Loss._members, "breaks")  # at the end it is known no more
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
    assert "lower optimizer.lr" in text
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
    trainer = types.SimpleNamespace(current_epoch=2, global_step=7)
    for index, value in enumerate([1.0, float("nan"), float("nan")]):
        callback.on_train_batch_start(trainer, None, {"index": torch.tensor([index])}, index)
        callback.on_before_backward(trainer, None, torch.tensor(value).as_subclass(Far))
    for hook in (callback.on_validation_start, callback.on_train_epoch_end):
        waiting = list(callback._unread)
        with pytest.raises(SegkitError, match=r"nan in epoch 2, step 7, on the samples b\."):
            hook(trainer, None)
        callback._unread = waiting
    callback._unread = waiting[:1]
    callback.on_train_epoch_end(trainer, None)
    assert callback._unread == []


def images_and_masks(root, blank: int):
    rng = np.random.default_rng(0)
    for n in range(6):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20, 4 + n : 20] = 1
        if n == blank:
            mask[:] = 255
        write_image(root / "images" / f"{n}.png", rng.integers(0, 255, (32, 32, 1), np.uint8))
        write_mask(root / "masks" / f"{n}.png", mask)


@pytest.mark.slow
def test_an_image_without_any_label_in_a_batch_does_no_harm(tmp_path):
    """Every sample of it is ignored: alone in a batch (of 1) it gives a loss of 0."""
    images_and_masks(tmp_path / "set", blank=2)
    options = ["data=folder", f"data.root='{tmp_path / 'set'}'", "data.label_map={255: 255}"]
    # a data set of its own: the preset's options of the drawn one do not fit
    from segkit.config.compose import compose
    from segkit.training.run import train

    config = compose(
        [
            *options,
            "encoder=unet",
            "encoder.width=4",
            "encoder.depth=2",
            "data.batch_size=1",
            "data.crop_size=32",
            "data.num_workers=0",
            "trainer.max_epochs=1",
            "trainer.progress_bar=false",
            "trainer.accelerator=cpu",
        ]
    )
    run = train(config, tmp_path / "run")
    assert all(np.isfinite(row["train/loss"]) for row in read_csv(run.folder / "metrics.csv"))
    stored = torch.load(run.checkpoint, weights_only=True)
    assert all(w.isfinite().all() for w in stored["state_dict"].values())
