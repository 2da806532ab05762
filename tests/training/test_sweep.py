from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from segkit.report.sweep import collect
from segkit.report.table import read_csv


@pytest.mark.slow
def test_a_sweep_runs_all_jobs_and_ends_with_one_table(tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-m", "segkit.train", "-m", "experiment=quick",
            "trainer.accelerator=cpu", "trainer.progress_bar=false",
            "neck=unet,fpn", "optimizer.lr=0.001,0.003", "data.crop_size=64,0",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr  # the jobs with a crop of 0 pixels fail
    (table,) = tmp_path.glob("runs/quick/sweep_*/sweep.csv")
    rows = read_csv(table)
    assert len(rows) == 8
    scores = [row["val/iou"] for row in rows[:4]]
    assert scores == sorted(scores, reverse=True)
    assert {row["neck"] for row in rows[:4]} == {"unet", "fpn"}
    assert all("crop_size" in row["error"] for row in rows[4:])
    assert "8 jobs, best first" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_table_is_sorted_by_the_monitored_metric(tmp_path):
    def job(name, **result):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({"overrides": ["neck=fpn"], **result}))

    job("0", monitor="val/loss", **{"val/loss": 0.5})
    job("1", monitor="val/loss", **{"val/loss": 0.2})
    job("2", monitor="val/loss", **{"val/loss": None})
    job("3", error="no such folder\nmore")
    rows = collect(tmp_path)
    assert [row["job"] for row in rows[:2]] == ["1", "0"]
    assert {row["job"] for row in rows[2:]} == {"2", "3"}
    assert next(row["error"] for row in rows if row["job"] == "3") == "no such folder more"
    assert math.isnan(next(row["val/loss"] for row in rows if row["job"] == "2"))
