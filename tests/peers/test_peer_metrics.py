"""Boundary scores and threshold counts against libraries that users compare them with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from segkit.metrics.base import Metric, ScoredImage
from segkit.metrics.boundary import count_boundaries, score_boundaries
from segkit.metrics.thresholds import THRESHOLDS, ThresholdCounts

pytestmark = pytest.mark.peers


def masks(classes: int, seed: int) -> np.ndarray:
    """Smooth masks (classes, 48, 56) that keep off the border, which some count as a boundary."""
    noise = np.random.default_rng(seed).standard_normal((classes, 48, 56))
    inside = np.zeros(noise.shape, bool)
    inside[:, 3:-3, 3:-3] = True
    return ((ndimage.gaussian_filter(noise, (0, 3, 3)) > 0) & inside).astype(np.uint8)


@pytest.mark.filterwarnings("ignore")  # theirs
def test_hausdorff_distance_equals_monai():
    """It too takes the larger of the percentiles of both ways, of edges within the masks."""
    metrics = pytest.importorskip("monai.metrics", reason="the extra peers is not installed")
    for seed in range(5):
        labels, truth = masks(3, seed), masks(3, seed + 10)
        expected = metrics.compute_hausdorff_distance(
            torch.from_numpy(labels)[None],
            torch.from_numpy(truth)[None],
            include_background=True,
            percentile=95,
        )[0]
        ours = score_boundaries(count_boundaries(labels, truth, "multilabel", 3))["hd95"]
        np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-6)


@pytest.mark.filterwarnings("ignore")  # theirs
def test_boundary_f1_equals_monais_surface_dice_of_pixels():
    """Surface Dice pools both boundaries: (near + found) / (predicted + true)."""
    metrics = pytest.importorskip("monai.metrics", reason="the extra peers is not installed")
    for seed, tolerance in enumerate([0.5, 1.0, 2.0, 5.0]):
        labels, truth = masks(3, seed), masks(3, seed + 10)
        expected = metrics.compute_surface_dice(
            torch.from_numpy(labels)[None],
            torch.from_numpy(truth)[None],
            class_thresholds=[tolerance] * 3,
            include_background=True,
        )[0]
        near, predicted, found, true = count_boundaries(
            labels, truth, "multilabel", 3, tolerance
        ).T[:4]
        np.testing.assert_allclose((near + found) / (predicted + true), expected.numpy(), rtol=1e-6)


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("spacing", [None, (0.5, 0.5), (0.4, 1.5)])
def test_surface_dice_equals_monai(spacing):
    """For one image; of several, segkit adds the boundaries up, and MONAI has one score each."""
    metrics = pytest.importorskip("monai.metrics", reason="the extra peers is not installed")
    unit = "px" if spacing is None else "um"
    for seed, tolerance in enumerate([0.0, 1.0, 2.0, 5.0]):
        labels, truth = masks(3, seed), masks(3, seed + 10)
        labels[2], truth[2] = 0, truth[2] * (seed % 2)  # a class without boundaries
        expected = metrics.compute_surface_dice(
            torch.from_numpy(labels)[None],
            torch.from_numpy(truth)[None],
            class_thresholds=[tolerance] * 3,
            include_background=True,
            spacing=None if spacing is None else list(spacing),
        )[0]
        metric = Metric.build(
            "surface_dice", mode="multilabel", num_classes=3, tolerance=tolerance, unit=unit
        )
        image = ScoredImage(truth, labels, np.zeros((3, 48, 56), np.float32), pixel_size=spacing)
        found = metric.score_classes(metric.count(image))["surface_dice"]
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)


@pytest.mark.filterwarnings("ignore")  # theirs
def test_the_border_of_the_image_is_a_boundary_to_monai_only():
    """Lower halves that differ by two rows: MONAI counts the sides and the lower edge as right."""
    metrics = pytest.importorskip("monai.metrics", reason="the extra peers is not installed")
    labels, truth = np.zeros((2, 1, 48, 56), np.uint8)
    labels[:, 26:], truth[:, 24:] = 1, 1
    given = [torch.from_numpy(x)[None] for x in (labels, truth)]
    theirs = metrics.compute_surface_dice(*given, [1.0], include_background=True).item()
    metric = Metric.build("surface_dice", mode="multilabel", num_classes=1, tolerance=1.0)
    image = ScoredImage(truth, labels, np.zeros((1, 48, 56), np.float32))
    assert metric.score(metric.count(image))["surface_dice"] == 0
    assert theirs > 0.6


def test_threshold_counts_equal_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics", reason="the extra peers is not installed")
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand((1, 1, 40, 40), generator=generator)
    target = (torch.rand((1, 40, 40), generator=generator) < probabilities[:, 0]).long()
    metric = ThresholdCounts("binary", 2)
    metric.update(probabilities, target)
    for counts, threshold in zip(metric.compute()[0], THRESHOLDS, strict=True):
        decided = probabilities.ravel() > threshold
        expected = sklearn.confusion_matrix(target.ravel(), decided)
        np.testing.assert_array_equal(counts, expected)
