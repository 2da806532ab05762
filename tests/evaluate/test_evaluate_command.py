from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from segkit.config.compose import compose
from segkit.config.settings import EvaluateSettings
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import CellsSource, draw
from segkit.evaluate.command import default_folder, evaluate
from segkit.images.writing import write_image, write_mask
from segkit.report.table import read_csv


def run_evaluate(checkpoint: Path, output: Path, *overrides: str):
    given = [f"checkpoint='{checkpoint}'", f"output='{output}'", "device=cpu"]
    return evaluate(compose([*given, *overrides], "evaluate"))


def folder_of(root: Path) -> list[str]:
    return ["data=folder", f"data.root='{root}'", "split=all"]


def test_evaluation_repeats_the_validation_of_the_training(binary_run, tmp_path):
    result = run_evaluate(binary_run.checkpoint, tmp_path)
    assert result.means == pytest.approx(binary_run.evaluation.means, nan_ok=True)
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["accuracy"] == result.scores.accuracy
    assert stored["images"] == 4
    images = read_csv(tmp_path / "images.csv")
    assert len(images) == 4
    assert [row["iou"] for row in images] == sorted(row["iou"] for row in images)
    low, high = stored["intervals"]["iou"]
    assert low <= stored["iou"] <= high
    assert len(read_csv(tmp_path / "thresholds.csv")) == 19
    assert [row["class"] for row in read_csv(tmp_path / "classes.csv")] == ["cell", "mean"]
    assert "Worst predictions" in (tmp_path / "report.html").read_text()


def test_data_of_the_training_that_are_elsewhere(binary_run, tmp_path, monkeypatch):
    stored = torch.load(binary_run.checkpoint, weights_only=True)
    stored["segkit"]["config"]["data"] = {"name": "folder", "root": "cells"}
    torch.save(stored, tmp_path / "best.ckpt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SegkitError, match=r"no .*/cells\..* data=folder data\.root=PATH"):
        evaluate(compose(["checkpoint=best.ckpt", "device=cpu"], "evaluate"))


def test_scores_without_a_value_are_left_open(multiclass_run, tmp_path):
    for name in "ab":
        write_image(tmp_path / f"data/images/{name}.png", np.zeros((32, 32, 3), np.uint8))
        mask = np.full((32, 32), 255, np.uint8)  # not labelled
        write_mask(tmp_path / f"data/masks/{name}.png", mask)
    out = tmp_path / "out"
    result = run_evaluate(multiclass_run.checkpoint, out, *folder_of(tmp_path / "data"))
    assert all(map(math.isnan, result.scores.iou))
    *_, last = (out / "classes.csv").read_text().splitlines()
    assert last == "mean,,,,,,0"
    assert '<td class="number">–</td>' in (out / "report.html").read_text()


def test_evaluation_of_a_folder(multiclass_run, tmp_path):
    source = CellsSource("multiclass", train=1, val=3, size=(40, 56), channels=3)
    for sample in source.splits()["val"]:
        write_image(tmp_path / f"data/images/{sample.name}.png", source.read_image(sample))
        write_mask(tmp_path / f"data/masks/{sample.name}.png", source.read_mask(sample))
    given = folder_of(tmp_path / "data")
    result = run_evaluate(multiclass_run.checkpoint, tmp_path / "out", *given)
    assert sum(result.scores.support) == 3 * 40 * 56
    scores = [row["iou"] for row in read_csv(tmp_path / "out" / "images.csv")]
    assert scores == sorted(scores, key=lambda s: (math.isnan(s), s))


def test_a_folder_that_cannot_be_made_is_named_before_any_scoring(binary_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SegkitError, match=r"the folder '.*file' cannot be made"):
        run_evaluate(binary_run.checkpoint, tmp_path / "file")


def test_evaluating_images_of_other_channels_names_the_remedy(binary_run, tmp_path):
    for i in range(2):
        write_image(tmp_path / f"images/{i}.png", draw(i, (32, 32), 3).image)
        write_mask(tmp_path / f"masks/{i}.png", draw(i, (32, 32), 3).binary)
    options = folder_of(tmp_path)
    with pytest.raises(SegkitError, match=r"have 3 channels.*give data\.channels=1"):
        run_evaluate(binary_run.checkpoint, tmp_path / "out", *options)
    run_evaluate(binary_run.checkpoint, tmp_path / "out", *options, "data.channels=1")


def test_several_checkpoints_are_scored_as_one(binary_run, tmp_path):
    one = run_evaluate(binary_run.checkpoint, tmp_path / "one")
    path = binary_run.checkpoint
    two = run_evaluate(path, tmp_path / "two", f"checkpoint=['{path}','{path}']")
    assert two.means == pytest.approx(one.means, nan_ok=True)
    stored = json.loads((tmp_path / "two/metrics.json").read_text())
    assert stored["checkpoint"] == [str(path), str(path)]
    wanted = ["threshold=0.1", "tile=64", "context=16", "batch_size=2"]
    three = run_evaluate(binary_run.checkpoint, tmp_path / "three", *wanted)
    assert three.means["recall"] > one.means["recall"]


@pytest.mark.parametrize(
    ("file", "options", "name"),
    [
        ("checkpoints/best.ckpt", {}, "val"),
        ("checkpoints/best.ckpt", {"device": "cuda", "batch_size": 2}, "val"),
        ("checkpoints/best.ckpt", {"split": "all", "data": {"name": "folder"}}, "folder-all"),
        ("checkpoints/best.ckpt", {"instances": None}, "val-instances-none"),
        (
            "checkpoints/best.ckpt",
            {"tta": "flips", "threshold": 0.3, "min_size": 9},
            "val-min_size-9-threshold-0.3-tta-flips",
        ),
        ("checkpoints/last.ckpt", {}, "val-last"),
        ("model.onnx", {}, "val-model.onnx"),
    ],
)
def test_settings_that_differ_from_the_training_name_the_folder(file, options, name):
    settings = EvaluateSettings(checkpoint=[f"a/{file}"], **options)
    assert default_folder(settings) == Path("a", f"evaluation-{name}")


def test_every_ensemble_has_a_folder_of_its_own():
    files = [f"{name}/checkpoints/best.ckpt" for name in "abc"]
    names = {
        default_folder(EvaluateSettings(checkpoint=chosen)).name
        for chosen in (files[:2], files[::2], files)
    }
    assert len(names) == 3
    assert all(name.startswith("evaluation-val-ensemble-") for name in names)


def test_overwriting_results_of_other_settings_is_reported(binary_run, tmp_path, capsys):
    for more, expected in ([], False), ([], False), (["tta=flips", "split=test"], True):
        run_evaluate(binary_run.checkpoint, tmp_path, *more)
        said = "is overwritten; it held results of other settings (tta, split)"
        assert (said in capsys.readouterr().out.replace("split, tta", "tta, split")) == expected


def test_12_bit_values_are_reported_once(binary_run, tmp_path, capsys):
    for i in range(2):
        image = draw(i, (32, 32)).image[..., 0].astype("uint16") * 16
        (tmp_path / "images").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / f"images/{i}.tif", image)
        write_mask(tmp_path / f"masks/{i}.png", draw(i, (32, 32)).binary)
    run_evaluate(binary_run.checkpoint, tmp_path / "out", *folder_of(tmp_path))
    assert capsys.readouterr().out.count("has 16 bits and no value above") == 1


@pytest.mark.nightly
def test_two_processes_write_what_one_does(binary_run, tmp_path):
    """srun starts them; the first one prints and writes."""
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0"}
    step |= {"SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    command = [sys.executable, "-m", "segkit.evaluate", f"checkpoint={binary_run.checkpoint}"]
    command += ["device=cpu", "metrics=[boundary,surface_dice]", "split=all"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environments = [{}, *(step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01")]
    running = [
        subprocess.Popen([*command, f"output={out}"], cwd=tmp_path, env=os.environ | own, **streams)
        for out, own in zip(("one", "two", "two"), environments, strict=True)
    ]
    (one, _), (first, wrong), (second, _) = [each.communicate(timeout=240) for each in running]
    assert [each.returncode for each in running] == [0, 0, 0], wrong
    assert first.replace("two", "one") == one
    assert second == ""
    for name in ("metrics.json", "images.csv", "scores.csv", "classes.csv", "thresholds.csv"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
