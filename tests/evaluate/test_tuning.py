"""Thresholds, sizes and holes chosen on validation images: as by hand, and kept in checkpoints."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import train_quick

import segkit
from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.reading import read
from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.core.labels import decide
from segkit.core.postprocessing import Postprocessing
from segkit.evaluate.command import evaluate
from segkit.evaluate.tuning import Candidate, choose_candidate, list_sizes
from segkit.report.table import read_csv


@pytest.fixture(scope="module")
def object_run(tmp_path_factory):
    """A finished run that tells objects apart."""
    options = ["target=foreground", "instances=components", "monitor=val/pq"]
    return train_quick(tmp_path_factory.mktemp("objects"), *options)


def copy_run(run: Any, folder: Path) -> Path:
    shutil.copytree(run.folder, folder)
    return folder / "checkpoints" / "best.ckpt"


def score(path: Path, *options: str) -> dict[str, Any]:
    output = path.parents[1] / "scores"
    evaluate(compose([f"checkpoint={path}", f"output={output}", *options], "evaluate"))
    return dict(json.loads((output / "metrics.json").read_text()))


def test_classes_have_thresholds_of_their_own():
    probabilities = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    expected = probabilities > np.array([0.2, 0.5, 0.9], np.float32)[:, None, None]
    for values in (probabilities, torch.from_numpy(probabilities)):
        labels = decide(values, "multilabel", (0.2, 0.5, 0.9))
        assert (np.asarray(labels) == expected).all()
        assert (np.asarray(decide(values[:, :1], "binary", (0.2,))) == expected[:, 0]).all()
        assert (np.asarray(decide(values, "multilabel", 0.5)) == (probabilities > 0.5)).all()


def test_what_changes_least_is_chosen_among_equals():
    tried = [Candidate(0, False, 0.5), Candidate(9, True, 0.7), Candidate(9, False, 0.7)]
    assert choose_candidate(tried) == tried[2]
    assert choose_candidate([*tried, Candidate(3, False, 0.7)]).min_size == 3
    assert choose_candidate(tried[:1]) == tried[0]
    worse = [Candidate(4, True, 0.8), Candidate(0, False, 0.8), Candidate(1, False, 0.1)]
    assert choose_candidate(worse) == worse[0]  # nothing is better than what is done now
    assert choose_candidate([Candidate(0, False, math.nan), tried[0]]) == tried[0]


def test_sizes_follow_the_objects():
    ids = np.zeros((40, 40), np.int32)
    ids[:8, :8], ids[10:20, 10:20], ids[30:, 30:] = 1, 2, 255  # 64 and 100 pixels
    assert list_sizes([ids, np.zeros_like(ids)]) == [0, 1, 3, 5, 10, 20, 41]
    assert list_sizes([np.zeros_like(ids)]) == [0]


@pytest.mark.slow
def test_the_choice_is_kept_and_equals_the_same_options_by_hand(tmp_path, object_run, capsys):
    path = copy_run(object_run, tmp_path / "tuned")
    before = score(path)
    result = score(path, "tune=true")
    assert {k: v for k, v in result.items() if k != "settings"} == {
        k: v for k, v in before.items() if k != "settings"
    }  # measured before
    printed = capsys.readouterr().out
    chosen = read(path)[1].postprocessing
    assert isinstance(chosen, Postprocessing)
    assert len(chosen.thresholds) == 1
    tried = (row["pq"] for row in read_csv(tmp_path / "tuned/scores/tuning.csv"))
    best = max(float(str(pq)) for pq in tried if math.isfinite(float(str(pq))))
    assert f"{best:.4f}" in printed

    options = [f"threshold={chosen.thresholds[0]}", f"min_size={chosen.min_size}"]
    options.append(f"fill_holes={str(chosen.fill_holes).lower()}")
    by_hand = score(copy_run(object_run, tmp_path / "plain"), *options)
    after = score(path)
    assert after["pq"] == by_hand["pq"] == pytest.approx(best)
    assert after["iou"] == by_hand["iou"] >= before["iou"]
    assert after["pq"] >= before["pq"]

    images = [np.random.default_rng(1).integers(0, 255, (50, 60, 1), np.uint8)]
    tuned, plain = segkit.load(path), segkit.load(tmp_path / "plain/checkpoints/best.ckpt")
    assert (tuned.min_size, tuned.fill_holes) == (chosen.min_size, chosen.fill_holes)
    at = chosen.thresholds[0]
    probabilities = plain(images[0], probabilities=True).probabilities[0]
    assert (tuned(images[0]).labels == (probabilities > np.float32(at))).all()
    with pytest.raises(SegkitError, match="were tuned apart"):
        segkit.load([path, tmp_path / "plain/checkpoints/best.ckpt"])
    assert segkit.load(path, threshold=0.5).threshold == 0.5  # what is given goes first


def test_a_card_keeps_the_choice(binary_run):
    _, card = read(binary_run.folder / "checkpoints/best.ckpt")
    data = card.to_dict()
    assert data["format"] == 1  # older versions read it
    data["postprocessing"] = {"thresholds": [0.3], "min_size": 7, "fill_holes": True}
    read_again = ModelCard.from_dict(json.loads(json.dumps(data)))
    assert read_again.postprocessing == Postprocessing((0.3,), 7, True)
    assert read_again.to_dict()["format"] == 3
    data["postprocessing"]["thresholds"] = [0.3, 0.4]
    with pytest.raises(SegkitError, match="2 thresholds for 1 logits"):
        ModelCard.from_dict(data)
    data["postprocessing"]["thresholds"] = [1.5]
    with pytest.raises(SegkitError, match="postprocessing"):
        ModelCard.from_dict(data)


def test_what_must_not_be_tuned_is_refused(tmp_path, binary_run, multiclass_run):
    path = copy_run(binary_run, tmp_path / "run")
    content = path.read_bytes()
    cases = {
        "split=test": "not what it seems",
        "threshold=0.3": "threshold=0.3, which it chooses",
        f"checkpoint=[{path},{path}]": "none of them has seen",
    }
    for option, message in cases.items():
        with pytest.raises(SegkitError, match=message):
            score(path, option, "tune=true")
    with pytest.raises(SegkitError, match="nothing to choose"):
        score(copy_run(multiclass_run, tmp_path / "classes"), "tune=true")
    assert path.read_bytes() == content
