from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from conftest import QUICK, train_quick
from omegaconf import OmegaConf
from torch import nn

from segkit.benchmark.networks import prepare_training_step
from segkit.checkpoint import reading as checkpoint
from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import CellsSource
from segkit.models.segmenter import create_model
from segkit.optim.optimizers import Optimizer
from segkit.report.table import read_csv
from segkit.training.callbacks import Average
from segkit.training.module import SegmentationModule
from segkit.training.run import run_job


def test_a_run_folder_holds_what_is_promised(binary_run):
    folder = binary_run.folder
    tables = {"classes.csv", "images.csv", "metrics.csv", "scores.csv", "thresholds.csv"}
    records = {"config.yaml", "environment.json", "report", "report.html", "result.json"}
    assert {p.name for p in folder.iterdir()} == {"checkpoints", *tables, *records}
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    best, last = (
        torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
        for name in ("best", "last")
    )
    assert "optimizer_states" in last
    assert "optimizer_states" not in best
    assert best["segkit"]["class_names"] == ("background", "cell")
    assert OmegaConf.load(folder / "config.yaml").encoder.name == "unet"
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["torch"] == str(torch.__version__)
    assert environment["pretrained"] == "from scratch"
    rows = read_csv(folder / "metrics.csv")
    assert len(rows) == 1
    assert {"epoch", "step", "lr", "train/loss", "val/loss", "val/iou"} <= set(rows[0])
    page = (folder / "report.html").read_text()
    assert "Worst predictions" in page
    assert f"{binary_run.evaluation.scores.mean['iou']:.4f}" in page


def test_the_last_validation_is_the_evaluation_of_the_checkpoint(binary_run):
    """Training, evaluation and prediction decide in the same way."""
    logged = read_csv(binary_run.folder / "metrics.csv")[-1]
    assert logged["val/accuracy"] == pytest.approx(binary_run.evaluation.scores.accuracy, abs=1e-6)
    result = json.loads((binary_run.folder / "result.json").read_text())
    assert result["val/accuracy"] == binary_run.evaluation.scores.accuracy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["trainer.accelerator=tpuu"], "trainer: accelerator=tpuu"),
        (["head=multiclass", "head.num_classes=2"], "num_classes is 2, but the data source"),
        (["encoder.pretrained=true"], r"encoder\.pretrained=true, but there are no"),
    ],
)
def test_wrong_options_are_errors_before_the_training(tmp_path, options, message):
    with pytest.raises(SegkitError, match=message):
        train_quick(tmp_path, *options)
    assert not (tmp_path / "checkpoints").exists()


def test_training_with_everything_frozen_is_an_error():
    model = create_model("unet").requires_grad_(False)
    with pytest.raises(SegkitError, match="nothing is left to train"):
        Optimizer.build("adamw").for_model(model)


@pytest.mark.slow
def test_a_metric_without_a_value_does_not_end_the_training(tmp_path):
    """Precision has none while nothing is predicted."""
    options = ["monitor=val/precision", "trainer.early_stopping=5", "trainer.max_epochs=3"]
    train_quick(tmp_path, *options, "optimizer.lr=1e-9", "head.threshold=0.99999")
    rows = read_csv(tmp_path / "metrics.csv")
    assert len(rows) == 3
    assert math.isnan(rows[0]["val/precision"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["optimizer=sgd", "scheduler=poly", "optimizer.nesterov=true"],
        ["scheduler=cosine", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=null"],
        ["trainer.precision=bf16-mixed", "loss=dice"],
        ["trainer.precision=bf16-true", "trainer.channels_last=false"],
        ["auxiliary=[0.5]", "neck=fpn", "loss=focal", "encoder.freeze=2"],
        ["encoder=unet", "encoder.width=4", "encoder.depth=3", "encoder.padding=valid"],
        ["neck=fcn", "loss=bce", "monitor=val/loss", "optimizer.encoder_lr_factor=0.1"],
        ["trainer.max_steps=1", "trainer.max_epochs=-1", "loss=dice_focal"],
    ],
    ids=lambda options: options[0],
)
def test_options_of_the_training_train(tmp_path, options):
    run = train_quick(tmp_path, *options)
    assert math.isfinite(read_csv(run.folder / "metrics.csv")[-1]["train/loss"])
    assert run.checkpoint.is_file()


@pytest.mark.slow
def test_accumulated_gradients_are_the_mean_over_the_batches_of_a_step(tmp_path, monkeypatch):
    """Five batches are steps of two, two and one: compared with a loop that is written out."""
    given, start = [], {}
    step = SegmentationModule.training_step

    def spy(self, batch, batch_idx):
        if not given:
            start["module"] = copy.deepcopy(self.model)
            start["loss"] = self.loss
        given.append((batch["image"].clone(), batch["target"].clone()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "training_step", spy)
    options = ["data.train=10", "data.batch_size=2", "scheduler=constant", "optimizer=sgd"]
    options += ["optimizer.lr=0.1", "optimizer.momentum=0", "optimizer.nesterov=false"]
    options += ["optimizer.weight_decay=0", "encoder.dropout=0", "trainer.gradient_clip_val=null"]
    options += ["trainer.accumulate_grad_batches=2", "trainer.precision=32-true"]
    train_quick(tmp_path, *options, "trainer.channels_last=false")
    assert len(given) == 5
    model, loss = start["module"].train(), start["loss"]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for window in (given[:2], given[2:4], given[4:]):
        values = [loss(model(image), target) for image, target in window]
        torch.stack(values).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        losses += [value.item() for value in values]
    trained = checkpoint.read_raw(tmp_path / "checkpoints/last.ckpt")["state_dict"]
    for key, value in model.state_dict().items():
        torch.testing.assert_close(trained[f"model.{key}"], value, rtol=1e-5, atol=1e-6)
    (row,) = read_csv(tmp_path / "metrics.csv")
    assert row["train/loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.slow
def test_the_schedule_ends_with_the_training(tmp_path):
    train_quick(tmp_path, "scheduler=poly", "trainer.max_epochs=4", "optimizer.lr=0.01")
    rates = [row["lr"] for row in read_csv(tmp_path / "metrics.csv")]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_averaged_weights_are_what_the_checkpoint_holds(tmp_path):
    run = train_quick(tmp_path, "trainer.ema=0.9", "trainer.max_epochs=2")
    last = checkpoint.read_raw(tmp_path / "checkpoints/last.ckpt")
    best = checkpoint.read_raw(run.checkpoint)
    averaged, current = last["state_dict"], last["current_model_state"]
    name = "model.head.conv.weight"
    assert not torch.equal(averaged[name], current[name])
    assert "current_model_state" not in best
    logged = max(read_csv(tmp_path / "metrics.csv"), key=lambda row: row["val/iou"])
    assert run.evaluation.scores.mean["iou"] == pytest.approx(logged["val/iou"], abs=1e-6)
    assert json.loads((tmp_path / "result.json").read_text())["val/loss"] == logged["val/loss"]


@pytest.mark.parametrize(("count", "expected"), [(0, 1.0), (1, 9 / 11), (8, 0.5), (99, 0.5)])
def test_the_average_follows_its_formula(count: int, expected: float) -> None:
    # the new share is 1 - min(0.5, (1 + n) / (10 + n)), and the first average is a copy
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1).bfloat16())
    average = Average(network, 0.5)
    average.n_averaged += count
    with torch.no_grad():
        for tensors, value in ((average.module, 0), (network, 1)):
            for tensor in (*tensors.parameters(), *tensors.buffers()):
                tensor.fill_(value)
    network[1].num_batches_tracked.fill_(7)
    average.update_parameters(network)
    assert average.module[0].weight.item() == pytest.approx(expected)
    assert average.module[1].running_var.item() == pytest.approx(expected, abs=4e-3)
    assert average.module[1].num_batches_tracked.item() == 7  # counts are not averaged
    assert average.n_averaged.item() == count + 1
    assert network[0].weight.item() == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_no_step_waits_for_the_gpu():
    model = create_model({"name": "resnet18", "pretrained": False}, "unet").cuda()
    step = prepare_training_step(model, 2, 64, "cuda", "bfloat16")
    average = Average(model, 0.9)
    for _ in range(2):
        step()
        average.update_parameters(model)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        average.update_parameters(model)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
def test_training_stops_early(tmp_path):
    # with this rate nothing is learned, so the metric never gets better
    options = ["optimizer.lr=1e-12", "trainer.early_stopping=2", "monitor=val/accuracy"]
    train_quick(tmp_path, *options, "trainer.max_epochs=50")
    assert len(read_csv(tmp_path / "metrics.csv")) <= 4


@pytest.mark.slow
def test_pretrained_weights_that_are_missing_are_written_into_the_record(tmp_path):
    run = train_quick(tmp_path, "encoder.pretrained=auto", quick=[*QUICK[:3], "encoder=resnet18"])
    notes = json.loads((run.folder / "environment.json").read_text())["notes"]
    assert len(notes) == 1
    assert "FROM SCRATCH" in notes[0]
    assert "FROM SCRATCH" in (run.folder / "report.html").read_text()


def test_normalization_is_that_of_the_training_images(binary_run):
    card = checkpoint.read(binary_run.checkpoint)[1]
    source = CellsSource("binary", train=8, val=4, test=4, size=(64, 64))
    images = [source.read_image(sample) / 255 for sample in source.splits()["train"]]
    assert card.normalization.mean[0] == pytest.approx(np.mean(images), abs=1e-3)
    assert card.normalization.std[0] == pytest.approx(np.std(images), abs=1e-3)


@pytest.mark.parametrize(
    ("epochs", "iou"),
    [
        pytest.param(2, 0.3, marks=pytest.mark.slow),
        pytest.param(16, 0.90, marks=pytest.mark.nightly),  # `make train` as it is
    ],
)
def test_the_main_job_learns_what_it_promises(epochs, iou, tmp_path):
    run = train_quick(tmp_path, f"trainer.max_epochs={epochs}", quick=QUICK[1:3])
    assert run.evaluation.scores.iou[0] >= iou


def test_a_job_returns_the_monitored_score(tmp_path, monkeypatch):
    """By which sweepers such as Optuna's choose."""
    monkeypatch.chdir(tmp_path)
    score = run_job(compose([*QUICK, "trainer.max_steps=1", "monitor=val/recall"]))
    (file,) = tmp_path.glob("runs/quick/*/result.json")
    assert score == json.loads(file.read_text())["val/recall"]
    assert 0 <= score <= 1
