"""Several processes: the same scores as one, no image counted twice, each draw trained on once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import train_quick

from segkit.core.errors import SegkitError
from segkit.data.loading import DrawSampler, EverySample
from segkit.report.table import read_csv


def test_processes_share_the_draws_of_an_epoch():
    whole = DrawSampler(10, 7, seed=3)
    parts = [DrawSampler(10, 7, seed=3, rank=rank, processes=2) for rank in range(2)]
    for epoch in range(3):
        for sampler in (whole, *parts):
            sampler.set_epoch(epoch)
        draws = [list(part) for part in parts]
        assert [len(part) for part in draws] == [len(part) for part in parts] == [3, 3]
        assert sorted(draws[0] + draws[1]) == sorted(list(whole)[:6])


def test_processes_share_the_images_of_a_validation_and_repeat_none():
    sizes = [(8, 8), (8, 9)] * 6
    batches = [batch for rank in range(3) for batch in EverySample(sizes, 4, 10**6, rank, 3)]
    assert sorted(index for batch in batches for index in batch) == list(range(12))
    with pytest.raises(SegkitError, match="3 processes and 2 images"):
        EverySample(sizes[:2], 1, 1, 0, 3)


def test_images_of_a_validation_are_in_batches_of_one_size():
    sizes = [(8, 8), (8, 9), (8, 8), (100, 100), (8, 8), (100, 100), (8, 8)]
    batches = list(EverySample(sizes, batch_size=3, pixels=10_000))
    assert batches == [[0, 2, 4], [6], [1], [3], [5]]


OPTIONS = ["experiment=quick", "encoder=unet", "data.batch_size=2"]
OPTIONS += ["trainer.accelerator=cpu", "trainer.progress_bar=false"]


def train(*options, cwd):
    command = [sys.executable, "-m", "segkit.train", *OPTIONS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *options], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )


NAN_ON_ONE = """
import os
from segkit.training.module import SegmentationModule
step = SegmentationModule.training_step
def broken(self, batch, batch_idx):
    if self.global_step == 3 and os.environ.get("LOCAL_RANK") == "1":
        BREAK
    return step(self, batch, batch_idx)
SegmentationModule.training_step = broken
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "status", "message"),
    [
        ("return step(self, batch, batch_idx) * float('nan')", 2, "error: the loss became nan in"),
        pytest.param(
            *("os.kill(os.getpid(), 2)", 130, "stopped in epoch 1. The weights are in"),
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            *("os._exit(9)", 2, "error: another process of this training has ended"),
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["nan", "ctrl_c", "dead"],
)
def test_all_processes_end_with_one_message(tmp_path, broken, status, message):
    """Whatever happens to the second one."""
    (tmp_path / "breaks.py").write_text(NAN_ON_ONE.replace("BREAK", broken))
    options = ["encoder.width=4", "encoder.depth=2", "trainer.max_epochs=3", "trainer.devices=2"]
    done = train(*options, "hydra.run.dir=run", "plugins=[breaks.py]", cwd=tmp_path)
    said = done.stdout + done.stderr
    assert said.count(message) == 1, said
    assert "Traceback" not in said
    assert done.returncode == status, said
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


@pytest.mark.nightly
def test_parameters_without_a_gradient_are_left_out(tmp_path):
    """The last norm of this backbone is for its classifier: DDP would wait for its gradient."""
    options = ["encoder=timm", "encoder.name=pit_xs_224", "encoder.pretrained=false"]
    options += ["trainer.max_epochs=1", "trainer.devices=2", "hydra.run.dir=run"]
    done = train(*options, "data.crop_size=64", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_csv(tmp_path / "run/metrics.csv")) == 1


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(tmp_path):
    """With three images, one process has two of them; the weights stay as they were drawn."""
    options = ["data.val=3", "optimizer.lr=1e-12", "encoder.norm=group", "encoder.width=8"]
    train_quick(tmp_path / "1", *options, quick=OPTIONS)
    done = train(*options, f"hydra.run.dir={tmp_path / '2'}", "trainer.devices=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder:") == 1  # the other process says nothing
    assert (tmp_path / "2/report.html").is_file()
    rows = {n: read_csv(tmp_path / str(n) / "metrics.csv")[0] for n in (1, 2)}
    for key, value in rows[1].items():
        if key.startswith("val/"):
            assert rows[2][key] == pytest.approx(value, abs=1e-6, nan_ok=True), key
