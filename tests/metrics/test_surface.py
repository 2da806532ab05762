"""Surface Dice: against every pair of boundary pixels, its unit, and classes without a boundary."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

import segkit.metrics.base
from segkit.core.errors import SegkitError
from segkit.metrics.base import Metric, ScoredImage, build_metrics

CLASSES = {"binary": 2, "multiclass": 3, "multilabel": 3}
every_mode = pytest.mark.parametrize("mode", CLASSES)


def draw(mode, seed, shape=(30, 37)):
    """Smooth labels; a corner is ignored."""
    noise = np.random.default_rng(seed).standard_normal((3, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, 2.5, 2.5))
    labels = {
        "binary": (smooth[0] > 0).astype(np.int64),
        "multiclass": smooth.argmax(0),
        "multilabel": (smooth > 0).astype(np.int64),
    }[mode]
    return labels


def make_image(mode, labels, target, **more):
    """An image whose upper left corner is ignored."""
    target = target.copy()
    target[..., :6, :8] = 255
    return ScoredImage(target, labels, np.zeros((1, *labels.shape[-2:]), np.float32), **more)


def measure_slowly(labels, target, number, tolerance, spacing=(1, 1)):
    """By the definition: a loop over pixels, and the distances of all pairs."""
    valid = target != 255

    def find_boundary(values):
        found = []
        H, W = values.shape
        for y, x in np.argwhere((values == number) & valid):
            around = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
            inside = [(v, u) for v, u in around if 0 <= v < H and 0 <= u < W and valid[v, u]]
            if any(values[each] != number for each in inside):
                found.append((y * spacing[0], x * spacing[1]))
        return np.array(found, float).reshape(-1, 2)

    ours, theirs = find_boundary(labels), find_boundary(target)
    if not len(ours) and not len(theirs):
        return np.nan
    if not len(ours) or not len(theirs):
        return 0.0
    pairs = cdist(ours, theirs)
    near = (pairs.min(1) <= tolerance + 1e-9).sum() + (pairs.min(0) <= tolerance + 1e-9).sum()
    return near / (len(ours) + len(theirs))


def list_layers(mode, labels, target):
    """Labels, target and the number of each reported class."""
    if mode == "multilabel":
        return [(labels[c], target[c], 1) for c in range(3)]
    return [(labels, target, c) for c in ([1] if mode == "binary" else range(3))]


@every_mode
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.0, 4.5])
def test_it_is_the_share_of_boundary_pixels_within_the_tolerance(mode, tolerance):
    metric = Metric.build("surface_dice", mode=mode, num_classes=CLASSES[mode], tolerance=tolerance)
    image = make_image(mode, draw(mode, 0), draw(mode, 1))
    counts = metric.count(image)
    expected = [
        measure_slowly(*each, tolerance) for each in list_layers(mode, image.labels, image.target)
    ]
    np.testing.assert_allclose(metric.score_classes(counts)["surface_dice"], expected)
    np.testing.assert_allclose(metric.score(counts)["surface_dice"], np.mean(expected))


def test_counts_add_up_over_images():
    metric = Metric.build("surface_dice", mode="multiclass", num_classes=3)
    counts = [metric.count(make_image("multiclass", *(draw("multiclass", s + i) for i in (0, 9))))
              for s in range(3)]  # fmt: skip
    assert counts[0].shape == (3, 4)
    near, predicted, found, true = np.sum(counts, 0).T
    many = metric.score_classes(np.stack([np.sum(counts, 0), counts[0]]))["surface_dice"]
    np.testing.assert_allclose(many[0], (near + found) / (predicted + true))
    assert many.shape == (2, 3)


def test_a_perfect_prediction_is_right_and_a_missing_class_wrong():
    metric = Metric.build("surface_dice", mode="multiclass", num_classes=3)
    target = np.zeros((20, 20), np.int64)
    target[9:15, 9:15] = 1
    right = metric.score_classes(metric.count(make_image("multiclass", target, target)))
    np.testing.assert_array_equal(right["surface_dice"], [1, 1, np.nan])
    nothing = np.zeros_like(target)
    wrong = metric.score_classes(metric.count(make_image("multiclass", nothing, target)))
    np.testing.assert_array_equal(wrong["surface_dice"], [0, 0, np.nan])


@pytest.mark.parametrize("size", [(500.0, 500.0), (250.0, 1000.0)])
def test_the_tolerance_may_be_in_the_unit_of_the_file(size):
    """Pixels of 0.5 x 0.5 or of 0.25 x 1 mm; the second kind is not square."""
    image = make_image("binary", draw("binary", 0), draw("binary", 1), pixel_size=size)
    expected = measure_slowly(image.labels, image.target, 1, 1.0, (size[0] / 1e3, size[1] / 1e3))
    for tolerance, unit in ((1.0, "mm"), (1000.0, "um")):
        metric = Metric.build(
            "surface_dice", mode="binary", num_classes=2, tolerance=tolerance, unit=unit
        )
        assert metric.needs_pixel_size
        found = metric.score(metric.count(image))["surface_dice"]
        assert found == pytest.approx(expected)
    pixels = Metric.build("surface_dice", mode="binary", num_classes=2)
    assert not pixels.needs_pixel_size
    in_pixels = pixels.score(pixels.count(image))["surface_dice"]  # 2 of them are 1 mm if square
    assert (in_pixels == pytest.approx(expected)) == (size[0] == size[1])
    with pytest.raises(SegkitError, match="needs the size of the pixels"):
        metric.count(make_image("binary", image.labels, image.target))


def test_distances_that_equal_the_tolerance_count_though_they_are_rounded():
    """Of rows 3 apart at 0.1 micrometres: 3 * 0.1 is above 0.3 in binary numbers."""
    target, labels = np.zeros((2, 30, 20), np.int64)
    target[10:], labels[13:] = 1, 1
    metric = Metric.build("surface_dice", mode="binary", num_classes=2, tolerance=0.3, unit="um")
    image = ScoredImage(target, labels, np.zeros((1, 30, 20)), pixel_size=(0.1, 0.1))
    assert metric.score(metric.count(image))["surface_dice"] == 1


def test_metrics_are_names_or_names_with_options():
    assert doctest.testmod(segkit.metrics.base).failed == 0
    with pytest.raises(SegkitError, match=r"\{'tolerance': 3\} has no name"):
        build_metrics([{"tolerance": 3}], "binary", 2)
    with pytest.raises(SegkitError, match="num_classes cannot be chosen"):
        build_metrics([{"name": "surface_dice", "num_classes": 3}], "binary", 2)
    with pytest.raises(SegkitError, match="given twice"):
        build_metrics(["surface_dice", {"name": "surface_dice", "tolerance": 1}], "binary", 2)
    with pytest.raises(SegkitError, match=r"tolerance.*greater than or equal to 0"):
        build_metrics([{"name": "surface_dice", "tolerance": -1}], "binary", 2)
    assert len(build_metrics(["surface_dice", "surface_dice"], "binary", 2)) == 1
