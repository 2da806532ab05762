"""What an evaluation counts, against the same computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import segkit
from segkit.checkpoint.values import LabelCoding
from segkit.core.errors import SegkitError
from segkit.data.loading import WholeDataset
from segkit.data.sources.cells import CellsSource, draw
from segkit.evaluate.evaluation import evaluate, make_metrics
from segkit.metrics.boundary import count_boundaries, score_boundaries
from segkit.metrics.instances import count_objects, score_objects
from segkit.targets.base import Labels


@pytest.fixture(scope="module")
def predictor(binary_run):
    loaded = segkit.load(binary_run.checkpoint, device="cpu", instances="components", min_size=9)
    # so little training decides for nothing anywhere: a lower threshold gives objects to score
    probabilities = loaded(draw(1, (64, 48)).image).probabilities
    loaded.threshold = float(np.quantile(probabilities, 0.3))
    return loaded


@pytest.fixture(scope="module")
def dataset(predictor):
    source = CellsSource("binary", train=1, val=5, size=(64, 48), seed=3)
    norm = predictor.card.normalization
    samples = source.splits()["val"]
    return WholeDataset(source, samples, LabelCoding({}), norm, Labels(), objects=True)


@pytest.fixture(scope="module")
def result(predictor, dataset):
    return evaluate(
        predictor, dataset, range(5), make_metrics(["boundary", "membranes"], predictor)
    )


def test_pixels_and_objects_of_all_images_are_added_up(predictor, dataset, result):
    shared = whole = 0
    counts, edges = [], []
    for index in range(5):
        prediction = predictor(dataset.source.read_image(dataset.samples[index]))
        item, labels = dataset.truth(index), prediction.labels
        truth = item["target"].numpy()
        shared += int(((labels == 1) & (truth == 1)).sum())
        whole += int(((labels == 1) | (truth == 1)).sum())
        counts.append(count_objects(item["ids"].numpy(), prediction.instances, None, 255))
        edges.append(count_boundaries(labels, truth, "binary", 2))
    assert result.means["iou"] == pytest.approx(shared / whole)
    assert shared > 0
    assert result.means["objects"] == score_objects(sum(counts))["objects"] > 0
    seg = float(score_objects(sum(counts))["seg"])
    assert result.means["seg"] == pytest.approx(seg, nan_ok=True)
    f1 = float(score_boundaries(sum(edges))["f1"][0])
    assert result.means["boundary_f1"] == pytest.approx(f1)
    assert 0 < result.means["v_rand"] <= 1


def test_every_score_has_an_interval_around_it(result):
    for row in result.rows():
        if "low" in row and np.isfinite([row["value"], row["low"], row["high"]]).all():
            # those of maxima over thresholds are biased upwards in resamples
            assert row["low"] <= row["value"] + 0.02
            assert row["value"] <= row["high"] + 1e-9
    assert {"iou/cell", "seg", "v_info", "boundary_f1"} <= set(result.intervals)


def test_images_come_with_the_worst_first_and_all_their_scores(result):
    scores = [image.scores["seg"] for image in result.images]
    assert scores == sorted(scores)
    assert len(set(scores)) > 1
    assert sorted(image.index for image in result.images) == list(range(5))
    assert {"iou", "dice", "seg", "ap50", "boundary_f1", "v_rand"} <= set(result.images[0].scores)


def test_the_sweep_over_thresholds_covers_all_pixels(result):
    assert len(result.thresholds.rows()) == 19
    assert torch.equal(result.confusion.sum(), torch.tensor(5 * 64 * 48))


def test_membranes_need_two_classes(multiclass_run):
    predictor = segkit.load(multiclass_run.checkpoint, device="cpu")
    with pytest.raises(SegkitError, match="two classes, not 3 of mode multiclass"):
        make_metrics(["membranes"], predictor)
