"""Several processes: the same scores as one, no image counted twice, each draw trained on once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from segkit.core.errors import SegkitError
from segkit.data.loading.samplers import DrawSampler, EverySample
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
    shares = [index for rank in range(3) for index in EverySample(7, rank, 3)]
    assert sorted(shares) == list(range(7))
    with pytest.raises(SegkitError, match="3 processes and 2 images"):
        EverySample(2, 0, 3)


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(tmp_path):
    """With three images, one process has two of them; the weights stay as they were drawn."""
    rows = {}
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        command = [sys.executable, "-m", "segkit.train", "experiment=quick", "data.val=3"]
        command += [f"hydra.run.dir={folder}", "trainer.accelerator=cpu", "optimizer.lr=1e-12"]
        command += [f"trainer.devices={devices}", "encoder=unet", "encoder.norm=group"]
        command += ["encoder.width=8", "data.batch_size=2", "trainer.progress_bar=false"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("run folder:") == 1  # the other process says nothing
        (rows[devices],) = read_csv(folder / "metrics.csv")
        assert (folder / "report.html").is_file()
    for key, value in rows[1].items():
        if key.startswith("val/"):
            assert rows[2][key] == pytest.approx(value, abs=1e-6, nan_ok=True), key
