"""Going on with a run: it ends where one that was never stopped does."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import QUICK, train_quick
from PIL import Image

import segkit
from segkit.core.errors import SegkitError
from segkit.core.owners import LOCK, hold_folder
from segkit.optim.schedules import Cosine
from segkit.report.table import read_csv
from segkit.training.module import SegmentationModule

OPTIONS = ["data.train=16", "data.batch_size=2", "trainer.max_epochs=3", "scheduler=constant"]
OPTIONS += ["encoder.dropout=0.5", "trainer.accumulate_grad_batches=2", "trainer.ema=0.9"]
OPTIONS += ["loss.points=300", "augment.mixes=[cutmix]", "augment.mixup=0.4"]  # draws of its own
OPTIONS += ["data.sampling=hard"]
BATCHES = 8  # in an epoch


@pytest.fixture
def batches(monkeypatch):
    """What each training step is given, and what is to happen in some of them."""
    seen, events = [], {}
    step = SegmentationModule.training_step

    def spy(self, batch, batch_idx):
        number = self.current_epoch * BATCHES + batch_idx
        seen.append((number, batch["index"].tolist()))
        events.pop(number, lambda: None)()
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "training_step", spy)
    return seen, events


def last(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path, batches):
    """To the bit: stopped in an epoch, in its last batch, and killed, with and without workers."""
    seen, events = batches
    events[BATCHES + 3] = lambda: shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    train_quick(tmp_path / "whole", *OPTIONS, "data.num_workers=2")
    whole, reference = dict(seen), last(tmp_path / "whole")
    rows = read_csv(tmp_path / "whole/metrics.csv")
    assert len(whole) == 3 * BATCHES

    within, at_the_end = BATCHES + 2, 2 * BATCHES - 1
    cases = [("within", 2, within), ("early", 0, 1), ("end", 1, at_the_end), ("killed", 2, None)]
    for name, workers, stop in cases:
        folder = tmp_path / name
        seen.clear()
        if stop is not None:
            events[stop] = lambda: signal.raise_signal(signal.SIGINT)
            with pytest.raises(SystemExit) as ended:
                train_quick(folder, *OPTIONS, f"data.num_workers={workers}")
            assert ended.value.code == 130
        before = [number for number, _ in seen]
        options = [*OPTIONS, f"data.num_workers={workers}", f"resume={folder}"]
        train_quick(folder, *options)
        numbers = [number for number, _ in seen]
        assert numbers == sorted(numbers), name
        assert numbers[len(before) :] == list(range(numbers[len(before)], 3 * BATCHES)), name
        assert all(indices == whole[number] for number, indices in seen), name
        resumed = last(folder)
        for part in ("state_dict", "current_model_state"):  # averaged, and trained
            for key, value in reference[part].items():
                assert torch.equal(value, resumed[part][key]), (name, key)
        for expected, row in zip(rows, read_csv(folder / "metrics.csv"), strict=True):
            for key, value in expected.items():
                if key not in ("seconds", "seconds_per_step"):
                    assert row[key] == pytest.approx(value, abs=0, nan_ok=True), (name, key)
        environment = json.loads((folder / "environment.json").read_text())
        assert len(environment["resumed"]) == 1


@pytest.mark.slow
def test_gradients_that_a_stop_has_lost_are_computed_again(tmp_path, batches):
    """A checkpoint from between two batches of one optimizer step, as a second Ctrl-C leaves it."""
    seen, events = batches
    events[5] = lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)]
    options = [*OPTIONS, "trainer.max_epochs=1", "trainer.accumulate_grad_batches=4"]
    with pytest.raises(SystemExit):
        train_quick(tmp_path, *options)
    train_quick(tmp_path, *options, f"resume={tmp_path}")
    assert [number for number, _ in seen] == [*range(6), *range(4, BATCHES)]
    assert seen[4:6] == seen[6:8]
    assert last(tmp_path)["global_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("stop", [BATCHES - 2, BATCHES - 1])
def test_a_stop_within_the_last_step_of_an_epoch_changes_nothing(tmp_path, batches, stop):
    """To the bit: the step has two batches instead of three. Batch norms would see one twice."""
    seen, events = batches
    options = [*OPTIONS, "trainer.max_epochs=2", "trainer.accumulate_grad_batches=3"]
    options += ["encoder.norm=none"]
    train_quick(tmp_path / "whole", *options)
    seen.clear()
    events[stop] = lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)]
    with pytest.raises(SystemExit):
        train_quick(tmp_path / "stopped", *options)
    train_quick(tmp_path / "stopped", *options, f"resume={tmp_path / 'stopped'}")
    numbers = [number for number, _ in seen]
    assert numbers == [*range(stop + 1), *range(BATCHES - 2, 2 * BATCHES)]
    whole, stopped = last(tmp_path / "whole"), last(tmp_path / "stopped")
    assert whole["global_step"] == stopped["global_step"] == 6
    for key, value in whole["current_model_state"].items():
        assert torch.equal(value, stopped["current_model_state"][key]), key


@pytest.mark.slow
def test_a_moved_run_remembers_its_best_score(tmp_path):
    train_quick(tmp_path / "first")
    folder = (tmp_path / "first").rename(tmp_path / "moved")
    stored, best = last(folder), folder / "checkpoints/best.ckpt"
    (state,) = (s for s in stored["callbacks"].values() if s.get("monitor") == "val/iou")
    high = torch.tensor(0.99)
    for key in ("best_model_score", "kth_value", "current_score"):
        state[key] = high
    state["best_k_models"] = dict.fromkeys(state["best_k_models"], high)
    torch.save(stored, folder / "checkpoints/last.ckpt")
    before = best.read_bytes()
    train_quick(folder, "trainer.max_epochs=2", f"resume={folder}")
    assert best.read_bytes() == before
    assert {p.name for p in best.parent.iterdir()} == {"best.ckpt", "last.ckpt"}
    (state,) = (s for s in last(folder)["callbacks"].values() if s.get("monitor") == "val/iou")
    assert state["best_model_score"] == high
    assert state["best_model_path"] == str(best)
    assert not (tmp_path / "first").exists()


def test_a_run_is_neither_overwritten_nor_falsified(binary_run):
    """Training into a run's folder, and going on with one that has finished, are refused."""
    before = {p: p.read_bytes() for p in binary_run.folder.rglob("*") if p.is_file()}
    with pytest.raises(SegkitError, match="cannot be resumed: it needs config"):
        train_quick(binary_run.folder, "resume=nowhere")
    with pytest.raises(SegkitError, match="holds a run already"):
        train_quick(binary_run.folder, "neck=fcn")
    with pytest.raises(SegkitError, match="has finished, 1 of 1 epochs"):
        train_quick(binary_run.folder, f"resume={binary_run.folder}")
    with pytest.raises(SegkitError, match=r"neck is .*fcn.*, the run has .*unet"):
        train_quick(binary_run.folder, f"resume={binary_run.folder}", "neck=fcn")
    assert {p: p.read_bytes() for p in binary_run.folder.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_that_predicts_and_resumes(tmp_path):
    """As a user does it, and what resume refuses on the command line."""
    command = [sys.executable, "-m", "segkit.train"]
    process = subprocess.Popen(
        [*command, *QUICK, "trainer.max_epochs=1000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # a shell lets its background jobs ignore the signal, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("runs/quick/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    (folder,) = tmp_path.glob("runs/quick/*")
    resume = f"resume={folder.relative_to(tmp_path)}"
    assert resume in printed.replace("\n", "")
    segkit.load(folder / "checkpoints/last.ckpt", device="cpu")

    wrong = ["encoder=resnet34", "data.batch_size=2", "optimizer.lr=0.5", "plan=auto"]
    wrong += ["experiment=quick"]
    refused = subprocess.run(
        [*command, resume, *wrong], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.returncode == 2
    for override in wrong:
        assert f"{override}: it cannot change" in refused.stderr
    epoch = last(folder)["epoch"]
    train_quick(folder, f"resume={folder}", f"trainer.max_epochs={epoch + 3}")
    assert list(tmp_path.glob("runs/quick/*")) == [folder]
    assert len((folder / "metrics.csv").read_text().splitlines()) >= epoch + 3
    assert (folder / "report.html").is_file()


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_was_scored_is_concluded(tmp_path, binary_run, capsys):
    folder = shutil.copytree(binary_run.folder, tmp_path / "run")
    scores = json.loads((folder / "result.json").read_text())
    for name in ("result.json", "report.html"):
        (folder / name).unlink()
    before = (folder / "checkpoints/last.ckpt").read_bytes()
    run = train_quick(folder, f"resume={folder}")
    assert "the training is done; its scores are not" in capsys.readouterr().out
    assert run.checkpoint == folder / "checkpoints/best.ckpt"
    assert json.loads((folder / "result.json").read_text())["val/iou"] == scores["val/iou"]
    assert (folder / "report.html").is_file()
    assert (folder / "checkpoints/last.ckpt").read_bytes() == before
    with pytest.raises(SegkitError, match="has finished"):
        train_quick(folder, f"resume={folder}")


@pytest.mark.slow
def test_patience_may_change_and_a_run_that_lost_it_stays_ended(tmp_path):
    options = ["optimizer.lr=1e-12", "encoder.norm=none", "data.train=4", "scheduler=constant"]
    patient = [*options, "trainer.max_epochs=20", "trainer.early_stopping="]
    train_quick(tmp_path, *patient[:-1], f"{patient[-1]}2")
    assert len(read_csv(tmp_path / "metrics.csv")) == 3
    with pytest.raises(SegkitError, match=r"2 validations brought nothing better.*early_stopping"):
        train_quick(tmp_path, *patient[:-1], f"{patient[-1]}2", f"resume={tmp_path}")
    train_quick(tmp_path, *patient[:-1], f"{patient[-1]}4", f"resume={tmp_path}")
    assert len(read_csv(tmp_path / "metrics.csv")) == 5


@pytest.mark.slow
def test_rows_that_metrics_csv_has_lost_are_missed(tmp_path, binary_run):
    folder = shutil.copytree(binary_run.folder, tmp_path / "run")
    metrics = folder / "metrics.csv"
    metrics.write_text(metrics.read_text().splitlines()[0] + "\n")
    with pytest.warns(UserWarning, match="rows of 0 of the 1 epochs before"):
        train_quick(folder, f"resume={folder}", "trainer.max_epochs=2")
    assert [row["epoch"] for row in read_csv(metrics)] == [1]


@pytest.mark.slow
def test_a_longer_training_warms_up_again_and_says_so(tmp_path, monkeypatch, capsys):
    """Also where it is killed on the way."""
    rates = {}
    step = SegmentationModule.training_step

    def spy(self, batch, batch_idx):
        rates[self.global_step] = self.optimizers().param_groups[0]["lr"]
        if self.global_step == 6 and not (tmp_path / "killed").exists():
            shutil.copytree(tmp_path / "run", tmp_path / "killed")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "training_step", spy)
    options = ["scheduler=cosine", "scheduler.warmup=0", "data.batch_size=2", "data.train=8"]
    run = train_quick(tmp_path / "run", *options)
    base, longer = rates[0], ["trainer.max_epochs=8", *options]
    train_quick(run.folder, f"resume={run.folder}", *longer)
    assert "max_epochs 1 -> 8: scheduler=cosine is stretched" in capsys.readouterr().out
    whole = [Cosine(warmup=0).factor(number / 32) * base for number in range(32)]
    assert rates[5] == pytest.approx(0.01 * base)  # that of the end
    share = (1 / 32) / (0.05 * 27 / 32)
    assert rates[6] == pytest.approx(rates[5] + share * (whole[6] - rates[5]))
    assert [rates[number] for number in range(7, 32)] == pytest.approx(whole[7:])
    unbroken = dict(rates)
    train_quick(tmp_path / "killed", f"resume={tmp_path / 'killed'}", *longer)
    assert rates == unbroken


@pytest.mark.nightly
def test_data_that_moved_and_a_command_from_another_folder(tmp_path):
    """The data lie where the run was started, then somewhere else."""
    for part, values in (("images", (20, 220)), ("masks", (0, 255))):
        (tmp_path / "home/set" / part).mkdir(parents=True)
        for number in range(5):
            pixels = np.full((64, 64), values[0], np.uint8)
            pixels[:, 10 + 5 * number :] = values[1]
            Image.fromarray(pixels).save(tmp_path / f"home/set/{part}/{number}.png")
    options = [*QUICK, "data=folder", "data.root=set", "hydra.run.dir=../far/run"]

    def train(*overrides, cwd):
        command = [sys.executable, "-m", "segkit.train", *overrides]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    assert train(*options, cwd=tmp_path / "home")[0] == 0
    run = tmp_path / "far/run"
    status, said = train(f"resume={run}", "trainer.max_epochs=2", cwd=tmp_path)
    assert status == 0, said
    (tmp_path / "home/set").rename(tmp_path / "moved")
    status, said = train(f"resume={run}", "trainer.max_epochs=3", cwd=tmp_path)
    assert status == 2
    assert "set" in said
    moved = [f"resume={run}", "trainer.max_epochs=3", "data.root=moved", "data.num_workers=1"]
    status, said = train(*moved, cwd=tmp_path)
    assert status == 0, said
    assert len(read_csv(run / "metrics.csv")) == 3


@pytest.mark.nightly
def test_a_sweep_that_was_killed_goes_on(tmp_path):
    """Finished jobs stay, one goes on, one starts; there is one table."""
    command = [sys.executable, "-m", "segkit.train"]
    options = [*QUICK, "seed=1,2,3", "trainer.max_epochs=2", "hydra.sweep.dir=sweep"]

    def run(*arguments):
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    run("-m", *options)
    sweep = tmp_path / "sweep"
    table = (sweep / "sweep.csv").read_text()
    for name in ("1/result.json", "1/report.html", "sweep.csv", "sweep_seeds.csv"):
        (sweep / name).unlink()
    shutil.rmtree(sweep / "2")
    first = (sweep / "0/checkpoints/last.ckpt").stat().st_mtime_ns
    said = run("resume=sweep")
    assert "sweep/0 is finished" in said
    assert "the training is done; its scores are not" in said
    assert (sweep / "0/checkpoints/last.ckpt").stat().st_mtime_ns == first
    again = read_csv(sweep / "sweep.csv")
    for old, new in zip(csv.DictReader(table.splitlines()), again, strict=True):
        assert (old["job"], float(old["val/iou"])) == (str(new["job"]), new["val/iou"])
    assert not (sweep / LOCK).exists()


@pytest.mark.slow
def test_sigterm_ends_a_training_with_a_checkpoint_and_status_143(tmp_path, batches):
    _, events = batches
    events[2] = lambda: signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train_quick(tmp_path, *OPTIONS, "trainer.accumulate_grad_batches=1")
    assert ended.value.code == 143
    assert last(tmp_path)["global_step"] == 3
    assert not (tmp_path / LOCK).exists()


@pytest.mark.slow
def test_sigterm_between_two_epochs_has_the_same_status(tmp_path, monkeypatch):
    """Behind the hooks in which a training stops; Lightning would end it there in its own way."""

    def strike(module):
        if module.current_epoch == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(SegmentationModule, "on_train_epoch_end", strike)
    with pytest.raises(SystemExit) as ended:
        train_quick(tmp_path, *OPTIONS)
    assert ended.value.code == 143
    assert last(tmp_path)["global_step"] == 2 * BATCHES / 2 + 1


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path, binary_run):
    folder = shutil.copytree(binary_run.folder, tmp_path / "run")
    with hold_folder(folder, "a training"):
        for options in ([f"resume={folder}", "trainer.max_epochs=2"], ["seed=3"]):
            with pytest.raises(SegkitError, match="in use by a training, process"):
                train_quick(folder, *options)
