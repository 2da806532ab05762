from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

QUICK = ["experiment=quick", "trainer.progress_bar=false", "trainer.accelerator=cpu"]


def start(tmp_path, *overrides):
    return subprocess.Popen(
        [sys.executable, "-m", "segkit.train", *QUICK, *overrides],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # a shell lets its background jobs ignore the signal, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_that_predicts_and_resumes(tmp_path):
    process = start(tmp_path, "trainer.max_epochs=1000", "trainer.ema=0.9")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/quick/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    (folder,) = tmp_path.glob("runs/quick/*")
    assert f"resume={folder.relative_to(tmp_path)}" in said.replace("\n", "")

    import segkit

    segkit.load(folder / "checkpoints" / "last.ckpt", device="cpu")
    epoch = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"]

    resumed = [f"resume={folder.relative_to(tmp_path)}", f"trainer.max_epochs={epoch + 3}"]
    done = subprocess.run(
        [sys.executable, "-m", "segkit.train", *resumed],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.glob("runs/quick/*")) == [folder]
    assert len((folder / "metrics.csv").read_text().splitlines()) >= epoch + 3
    assert (folder / "report.html").is_file()


def test_resume_refuses_what_it_cannot_do(binary_run, tmp_path):
    def said(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "segkit.train", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        return done.stderr

    assert "cannot be resumed" in said("resume=nowhere")
    wrong = ["encoder=resnet34", "data.batch_size=2", "optimizer.lr=0.5", "experiment=quick"]
    text = said(f"resume={binary_run.folder}", *wrong)
    for override in wrong:
        assert f"{override}: it cannot change" in text
    assert "has finished" in said(f"resume={binary_run.folder}")
