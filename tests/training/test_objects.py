"""Trainings on objects: targets drawn from ids, scores of objects, and their use afterwards."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import train_quick

import segkit
from segkit.checkpoint.reading import read
from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import CellsSource
from segkit.evaluate.command import evaluate
from segkit.images.reading import read_mask
from segkit.images.writing import write_image
from segkit.predict.command import predict
from segkit.report.table import read_csv


def test_validation_monitors_what_the_end_reports(border_core_run):
    (row,) = read_csv(border_core_run.folder / "metrics.csv")
    means = border_core_run.evaluation.means
    for name in ("seg", "det", "ap50", "pq", "iou"):
        assert row[f"val/{name}"] == pytest.approx(means[name], abs=1e-6, nan_ok=True), name
    result = json.loads((border_core_run.folder / "result.json").read_text())
    assert result["val/seg"] == pytest.approx(means["seg"])
    assert result["gflops"] > 0
    assert result["seconds_per_step"] > 0
    assert "boundary_f1" in means
    assert len(read_csv(border_core_run.folder / "images.csv")) == 4


def test_the_checkpoint_knows_the_target(border_core_run):
    _, card = read(border_core_run.checkpoint)
    assert card.target == {"name": "border_core", "border": 2, "weight_map": None}
    assert card.class_names == ("background", "core", "border")
    assert card.mask_values == (0, 1, 2)


def test_evaluating_and_predicting_need_the_checkpoint_alone(border_core_run, tmp_path):
    out = tmp_path / "evaluation"
    given = [f"checkpoint='{border_core_run.checkpoint}'", "instances=border_core", "device=cpu"]
    result = evaluate(compose([*given, f"output='{out}'"], command="evaluate"))
    means = border_core_run.evaluation.means
    assert result.means["seg"] == pytest.approx(means["seg"], nan_ok=True)
    assert {"seg", "ap50", "pq"} <= set(read_csv(out / "images.csv")[0])
    assert "AP50" in (out / "report.html").read_text()

    source = CellsSource("binary", train=1, val=2, size=(64, 64), instances=True)
    for sample in source.splits()["val"]:
        write_image(tmp_path / "in" / f"{sample.name}.png", source.read_image(sample))
    options = [f"input='{tmp_path / 'in'}'", f"output='{tmp_path / 'out'}'"]
    predict(compose([*given, *options], command="predict"))
    predictor = segkit.load(border_core_run.checkpoint, instances="border_core", device="cpu")
    for path in sorted((tmp_path / "in").iterdir()):
        written = read_mask(tmp_path / "out" / "instances" / path.name)
        np.testing.assert_array_equal(written, predictor(path).instances)
    with pytest.raises(SegkitError, match="head=multiclass: use border_core"):
        segkit.load(border_core_run.checkpoint, instances="watershed")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["foreground", "distance"])
def test_every_target_trains_with_a_weight_map(target, tmp_path):
    options = [f"target={target}", "data.instances=true", "monitor=val/ap50"]
    run = train_quick(tmp_path, *options, "target.weight_map={w0: 10, sigma: 5, balance: true}")
    assert run.evaluation.means["objects"] > 0


@pytest.mark.slow
def test_a_set_without_ids_takes_its_regions_for_objects(tmp_path):
    run = train_quick(tmp_path, "instances=components", "monitor=val/seg", "metrics=[membranes]")
    assert run.evaluation.means["objects"] > 0
    assert 0 <= run.evaluation.means["v_rand"] <= 1
