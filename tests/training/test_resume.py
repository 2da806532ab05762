"""Going on with a run: it ends where one that was never stopped does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import QUICK, train_quick

import segkit
from segkit.core.errors import SegkitError
from segkit.report.table import read_csv
from segkit.training.module import SegmentationModule

OPTIONS = ["data.train=16", "data.batch_size=2", "trainer.max_epochs=3", "scheduler=constant"]
OPTIONS += ["encoder.dropout=0.5", "trainer.accumulate_grad_batches=2", "trainer.ema=0.9"]
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
                if key.startswith("val/") or key in ("epoch", "step", "lr"):
                    assert row[key] == pytest.approx(value, nan_ok=True), (name, key)
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
