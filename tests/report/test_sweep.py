from __future__ import annotations

import json
import math
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest

from segkit.core.ensembles import read_ensemble
from segkit.report.sweep import SweepTable, find_shared_overrides, read_jobs
from segkit.report.table import read_csv


@pytest.mark.slow
def test_a_sweep_runs_all_jobs_and_ends_with_one_table(tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-m", "segkit.train", "-m", "experiment=quick",
            "trainer.accelerator=cpu", "trainer.progress_bar=false",
            "encoder=unet", "encoder.depth=2", "encoder.width=4", "trainer.max_steps=2",
            "seed=1,2", "data.crop_size=64,0",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr  # the jobs with a crop of 0 pixels fail
    (table,) = tmp_path.glob("runs/quick/sweep_*/sweep.csv")
    rows = read_csv(table)
    assert len(rows) == 4
    scores = [row["val/iou"] for row in rows[:2]]
    assert scores == sorted(scores, reverse=True)
    assert all("crop_size" in row["error"] for row in rows[2:])
    means = read_csv(table.with_name("sweep_seeds.csv"))
    assert [row["seeds"] for row in means] == [2, 0]
    assert means[0]["val/iou_mean"] == pytest.approx(sum(scores) / 2)
    assert means[0]["val/iou_std"] == pytest.approx((scores[0] - scores[1]) / math.sqrt(2))
    assert "4 jobs, best first; mean ± standard deviation over the seeds" in done.stdout
    assert "experiment=quick" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.fixture
def job(tmp_path):
    def write(name, *overrides, **result):
        folder = tmp_path / name
        folder.mkdir()
        content = {"overrides": list(overrides), "monitor": "val/iou", **result}
        (folder / "result.json").write_text(json.dumps(content))

    return write


def finish(folder, capsys, monkeypatch, columns=160):
    """What a sweep prints at its end, on a terminal so wide."""
    monkeypatch.setenv("COLUMNS", str(columns))
    config = SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(folder))))
    with suppress(SystemExit):  # where jobs have failed
        SweepTable().on_multirun_end(config)
    return capsys.readouterr().out


def cells(text, first):
    """The cells of the printed row that begins with this one."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    return next(row for row in rows if row and row[0] == first)


def test_without_repeated_seeds_there_is_a_row_for_each_job(tmp_path, job, capsys, monkeypatch):
    """Even where each has a seed of its own: nothing is repeated."""
    same = ["experiment=quick", "++trainer.max_epochs=3"]
    measured = {"parameters": 1234567, "gflops": 1.25, "seconds": 2199.6}
    measured["seconds_per_step"] = 0.0312
    job("0", *same, "neck=unet", "seed=1", **{"val/iou": 0.5}, **measured)
    job("1", *same, "neck=fpn", "seed=2", **{"val/iou": 0.6})
    printed = finish(tmp_path, capsys, monkeypatch)
    assert "2 jobs, best first\n" in printed
    assert "all with: experiment=quick trainer.max_epochs=3" in printed
    assert "Experiment" not in printed
    assert find_shared_overrides(read_jobs(tmp_path)[:1]) == {}  # a single job is shown whole
    counted = ["1,234,567", "1.2500", "2,200", "0.0312"]
    assert cells(printed, "0") == ["0", "unet", "1", "0.5000", *counted]
    assert cells(printed, "1") == ["1", "fpn", "2", "0.6000", "-", "-", "-", "-"]
    rows = read_csv(tmp_path / "sweep.csv")
    assert [row["job"] for row in rows] == [1, 0]
    assert rows[1]["experiment"] == "quick"  # the file has all
    assert rows[1]["seconds"] == 2199.6
    assert not (tmp_path / "sweep_seeds.csv").exists()


def test_seeds_are_summarised(tmp_path, job, capsys, monkeypatch):
    """The setting with the best single job is not the best setting."""
    for seed, (unet, fpn, seconds) in enumerate(
        [(0.5, 0.62, 10), (0.9, 0.74, 12), (0.1, 0.68, 17)]
    ):
        constant = {"parameters": 900, "gflops": 2.5, "epochs": 4, "seconds": seconds}
        job(f"u{seed}", "neck=unet", f"seed={seed}", **{"val/iou": unet}, **constant)
        job(f"f{seed}", f"seed={seed}", "neck=fpn", **{"val/iou": fpn}, **constant)
    printed = finish(tmp_path, capsys, monkeypatch)
    assert "6 jobs, best first; mean ± standard deviation over the seeds" in printed
    counted = ["900", "2.5000", "4", "13 ± 4"]
    assert cells(printed, "fpn") == ["fpn", "3", "0.6800 ± 0.0600", *counted]
    assert cells(printed, "unet") == ["unet", "3", "0.5000 ± 0.4000", *counted]
    assert printed.index(" fpn ") < printed.index(" unet ")

    assert read_csv(tmp_path / "sweep.csv")[0]["job"] == "u1"
    fpn, unet = read_csv(tmp_path / "sweep_seeds.csv")
    assert list(fpn) == [
        "neck", "seeds", "val/iou_mean", "val/iou_std", "parameters", "gflops",
        "epochs_mean", "epochs_std", "seconds_mean", "seconds_std",
    ]  # fmt: skip
    assert fpn["neck"] == "fpn"
    assert fpn["val/iou_mean"] == pytest.approx(0.68)
    assert fpn["val/iou_std"] == pytest.approx(0.06)  # n - 1
    assert unet["seconds_std"] == pytest.approx(13**0.5)
    assert unet["parameters"] == 900


def test_jobs_and_settings_are_sorted_by_a_loss_from_below(tmp_path, job, capsys, monkeypatch):
    for neck, losses in {"unet": (0.1, 0.9), "fpn": (0.3, 0.4), "fcn": (None, 0.2)}.items():
        for seed, loss in enumerate(losses):
            result = {"monitor": "val/loss", "val/loss": loss}
            job(f"{neck}{seed}", f"neck={neck}", f"seed={seed}", **result)
    job("fcn2", "neck=fcn", monitor="val/loss", error="no such folder\nmore")
    finish(tmp_path, capsys, monkeypatch)
    rows = read_csv(tmp_path / "sweep.csv")
    assert [row["job"] for row in rows[:5]] == ["unet0", "fcn1", "fpn0", "fpn1", "unet1"]
    assert {row["job"] for row in rows[5:]} == {"fcn0", "fcn2"}
    assert next(row["error"] for row in rows if row["job"] == "fcn2") == "no such folder more"
    settings = read_csv(tmp_path / "sweep_seeds.csv")
    assert [setting["neck"] for setting in settings] == ["fpn", "unet", "fcn"]
    assert math.isnan(settings[-1]["val/loss_mean"])  # one seed has none: so has the mean


def test_folds_have_a_mean_and_one_ensemble(tmp_path, job, capsys, monkeypatch):
    for number, (unet, fpn) in enumerate([(0.5, 0.7), (0.6, 0.8), (0.7, 0.6)]):
        for neck, score in (("unet", unet), ("fpn", fpn)):
            job(f"{neck}{number}", f"neck={neck}", f"fold={number}", **{"val/iou": score})
            (tmp_path / f"{neck}{number}/checkpoints").mkdir()
            (tmp_path / f"{neck}{number}/checkpoints/best.ckpt").touch()
    printed = finish(tmp_path, capsys, monkeypatch)
    assert "6 jobs, best first; mean ± standard deviation over the folds" in printed
    assert cells(printed, "fpn") == ["fpn", "3", "0.7000 ± 0.1000"]
    assert not (tmp_path / "sweep_seeds.csv").exists()
    assert [row["folds"] for row in read_csv(tmp_path / "sweep_folds.csv")] == [3, 3]
    assert read_ensemble(tmp_path / "ensemble.yaml") == [
        tmp_path / f"fpn{number}/checkpoints/best.ckpt" for number in range(3)
    ]
    job("again", "neck=fpn", "fold=0", "seed=2", **{"val/iou": 0.9})
    assert "over the runs" in finish(tmp_path, capsys, monkeypatch)


def test_an_ensemble_lacks_no_fold(tmp_path, job, capsys, monkeypatch):
    job("0", "fold=0", **{"val/iou": 0.5})
    job("1", "fold=1", error="killed")
    finish(tmp_path, capsys, monkeypatch)
    assert not (tmp_path / "ensemble.yaml").exists()


def test_failed_seeds_are_counted_and_in_no_mean(tmp_path, job, capsys, monkeypatch):
    job("0", "neck=unet", "seed=1", **{"val/iou": 0.5})
    job("1", "neck=unet", "seed=2", error="out of memory")
    job("2", "neck=fpn", "seed=1", error="no such layer")
    job("3", "neck=fpn", "seed=2", error="no such layer")
    printed = finish(tmp_path, capsys, monkeypatch)
    assert cells(printed, "unet") == ["unet", "1", "0.5000", "1", "out of memory"]
    assert cells(printed, "fpn") == ["fpn", "0", "-", "2", "no such layer"]
    unet, fpn = read_csv(tmp_path / "sweep_seeds.csv")
    assert (unet["seeds"], unet["val/iou_mean"], unet["failed"]) == (1, 0.5, 1)
    assert math.isnan(unet["val/iou_std"])
    assert (fpn["seeds"], fpn["failed"], fpn["error"]) == (0, 2, "no such layer")
    assert math.isnan(fpn["val/iou_mean"])


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_a_narrow_terminal_shows_the_settings_and_the_scores(
    tmp_path, job, capsys, monkeypatch, columns, seeds
):
    """Whole, each in a line of its own; what there is no room for is left to the file."""
    encoders = ["mobilenetv3_large_100", "resnet18"]
    measured = {"parameters": 14328209, "gflops": 21.5, "epochs": 20, "seconds_per_step": 0.04}
    measured |= {"monitor": "val/dice", "val/dice": 0.9, "val/iou": 0.8, "seconds": 130}
    for number, encoder in enumerate(encoders * seeds):
        job(f"{number}", f"encoder={encoder}", f"seed={number // 2}", **measured)
    printed = finish(tmp_path, capsys, monkeypatch, columns)
    table = [line for line in printed.splitlines() if line[:1] in "╭│├╰"]
    assert max(map(len, table)) <= columns
    assert all(encoder in printed for encoder in encoders)
    assert "Dice" in printed  # it is monitored
    assert "Seconds" in printed or columns == 60
    assert ("per step" in printed or " step " in printed) == (columns > 100)
    assert "seconds_per_step" in (tmp_path / "sweep.csv").read_text()
