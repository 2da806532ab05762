"""Expected calibration error: by hand, against torchmetrics, and of calibrated probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from segkit.metrics.base import Metric, ScoredImage
from segkit.metrics.calibration import BINS, list_bins


def draw(mode, seed=0, shape=(40, 50)):
    """An image whose probabilities are too sure; a corner is ignored."""
    rng = np.random.default_rng(seed)
    if mode == "multiclass":
        x = rng.normal(0, 2, (4, *shape))
        true = np.exp(x) / np.exp(x).sum(0)
        target = (true.cumsum(0) < rng.random(shape)).sum(0)
        p = np.exp(1.7 * x) / np.exp(1.7 * x).sum(0)
        labels = p.argmax(0)
    else:
        C = 1 if mode == "binary" else 3
        x = rng.normal(0, 2, (C, *shape))
        target = (rng.random((C, *shape)) < 1 / (1 + np.exp(-x))).astype(np.int64)
        p = 1 / (1 + np.exp(-1.7 * x))
        labels = (p > 0.5).astype(np.uint8)
        if mode == "binary":
            labels, target = labels[0], target[0]
    target[..., :7, :9] = 255
    return ScoredImage(target, labels, p.astype(np.float32))


def make_metric(mode):
    return Metric.build(
        "calibration", mode=mode, num_classes={"binary": 2, "multiclass": 4, "multilabel": 3}[mode]
    )


def score_slowly(image, mode):
    """By the definition, pixel by pixel."""
    entries = []
    for place in np.argwhere(image.target != 255):
        label, truth = image.labels[tuple(place)], image.target[tuple(place)]
        if mode == "multiclass":
            p = float(image.probabilities[(label, *place)])
        else:
            p = float(image.probabilities[(0, *place) if mode == "binary" else tuple(place)])
            p = p if label else float(np.float32(1) - np.float32(p))
        entries.append((p, label == truth))
    error = 0.0
    for b in range(15):
        inside = [(p, right) for p, right in entries if b / 15 < p <= (b + 1) / 15]
        if inside:
            p, right = np.mean(inside, 0)
            error += len(inside) / len(entries) * abs(right - p)
    return error


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_it_is_the_mean_difference_of_confidence_and_accuracy(mode):
    metric, image = make_metric(mode), draw(mode)
    counts = metric.count(image)
    assert counts.shape == (BINS, 3)
    assert counts.dtype == np.float64
    assert counts[:, 0].sum() == (image.target != 255).sum()
    assert metric.score(counts)["ece"] == pytest.approx(score_slowly(image, mode), abs=1e-12)
    assert 0.02 < metric.score(counts)["ece"] < 0.3


def test_it_equals_torchmetrics():
    image = draw("multiclass", shape=(200, 100))
    expected = multiclass_calibration_error(
        torch.from_numpy(image.probabilities)[None],
        torch.from_numpy(image.target)[None],
        num_classes=4,
        n_bins=15,
        norm="l1",
        ignore_index=255,
    )
    metric = make_metric("multiclass")
    assert metric.score(metric.count(image))["ece"] == pytest.approx(expected.item(), abs=1e-5)


def test_counts_of_parts_add_up_to_those_of_the_whole():
    metric, image = make_metric("multilabel"), draw("multilabel")
    parts = [
        ScoredImage(*(x[..., rows, :] for x in (image.target, image.labels, image.probabilities)))
        for rows in (slice(0, 13), slice(13, None))
    ]
    whole = metric.count(image)
    np.testing.assert_allclose(sum(map(metric.count, parts)), whole, rtol=1e-12)
    two = metric.score(np.stack([whole, 2 * whole]))["ece"]
    np.testing.assert_allclose(two, metric.score(whole)["ece"])


def test_calibrated_probabilities_have_no_error_and_wrong_certainty_all():
    metric = make_metric("binary")
    p = np.full((1, 10, 10), 0.8, np.float32)
    target = np.ones((10, 10), np.int64)
    target[:2] = 0  # 20 of 100
    labels = np.ones((10, 10), np.uint8)
    assert metric.score(metric.count(ScoredImage(target, labels, p)))["ece"] < 1e-6
    certain = np.ones_like(p)
    found = metric.count(ScoredImage(np.zeros_like(target), labels, certain))
    assert metric.score(found)["ece"] == 1
    assert found[BINS - 1].tolist() == [100, 0, 100]  # 1 is in the last bin
    nothing = metric.count(ScoredImage(np.full_like(target, 255), labels, p))
    assert np.isnan(metric.score(nothing)["ece"])


def test_labels_of_pixels_without_data_are_left_out():
    image = draw("multiclass")
    labels = np.where(image.target == 255, 255, image.labels)
    metric = make_metric("multiclass")
    np.testing.assert_array_equal(
        metric.count(ScoredImage(image.target, labels, image.probabilities)), metric.count(image)
    )


def test_a_table_lists_the_bins():
    counts = np.zeros((BINS, 3))
    counts[14] = [10, 9, 9.8]
    rows = list_bins(counts)
    expected = {"low": 14 / 15, "high": 1, "pixels": 10, "accuracy": 0.9, "confidence": 0.98}
    assert rows[14] == pytest.approx(expected)
    assert np.isnan(rows[0]["accuracy"])
    assert len(rows) == 15
