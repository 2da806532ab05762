"""Boundary scores: by hand, against every pair of pixels, and with missing boundaries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from segkit.core.errors import SegkitError
from segkit.metrics.boundary import (
    BOUNDARY_COUNTS,
    BoundaryMetric,
    count_boundaries,
    score_boundaries,
)


def square(top: int, left: int, side: int, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    image = np.zeros(shape, np.uint8)
    image[top : top + side, left : left + side] = 1
    return image


def blobs(classes: int, seed: int, shape: tuple[int, int] = (40, 57)) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape)
    smooth = ndimage.gaussian_filter(noise, 3)
    ranks = smooth.ravel().argsort().argsort().reshape(shape)
    return ranks * classes // smooth.size


TRUTH = blobs(2, seed=0)


def average(counts: np.ndarray) -> dict[str, np.ndarray]:
    return BoundaryMetric("multiclass", 3).score(counts)


def slow(labels, truth, valid, number, tolerance):
    """One class by the definition: a loop over pixels, and the distances of all pairs."""

    def boundary(values):
        found = []
        H, W = values.shape
        for y, x in np.argwhere((values == number) & valid):
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= v < H and 0 <= u < W
                if inside and valid[v, u] and values[v, u] != number:
                    found.append((y, x))
                    break
        return np.array(found, float).reshape(-1, 2)

    ours, theirs = boundary(labels), boundary(truth)
    if not len(ours) or not len(theirs):
        return [0, len(ours), 0, len(theirs), 0, 0, len(ours) + len(theirs) > 0]
    pairs = cdist(ours, theirs)
    there, back = pairs.min(1), pairs.min(0)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    near, found = (there <= tolerance).sum(), (back <= tolerance).sum()
    return [near, len(ours), found, len(theirs), hd95, 1, 0]


def test_a_shifted_square_by_hand():
    """Of 20 x 20 pixels with 76 on the boundary, moved down by 2, at a tolerance of 1.

    Near enough are 19 pixels of each side (the last is one below the corner), and of the upper edge
    the two beside the sides.
    """
    counts = count_boundaries(square(22, 20, 20), square(20, 20, 20), "binary", 2, tolerance=1)
    assert dict(zip(BOUNDARY_COUNTS, counts[0], strict=True)) == {
        "near": 40, "predicted": 76, "found": 40, "true": 76,
        "distance": 2, "finite": 1, "missed": 0,
    }  # fmt: skip
    one_channel = count_boundaries(square(22, 20, 20), square(20, 20, 20), "binary", 1, tolerance=1)
    np.testing.assert_array_equal(one_channel, counts)  # the foreground alone
    result = score_boundaries(counts)
    assert result["f1"] == result["precision"] == result["recall"] == 40 / 76
    assert average(counts) == {"boundary_f1": 40 / 76, "hd95": 2, "hd95_missed": 0}


@pytest.mark.parametrize(("seed", "tolerance"), [(0, 0), (1, 5**0.5), (2, 300)])
def test_equals_the_definition(seed, tolerance):
    """Root of 5: distances are exact, though single precision lies above it."""
    labels, truth = blobs(4, seed), blobs(4, seed + 10)
    labels[:7] = truth[:7]
    labels[10:14, 20:30] = 77  # whatever is predicted in ignored pixels
    truth[10:14, 20:40] = 255
    counts = count_boundaries(labels, truth, "multiclass", 4, tolerance)
    expected = [slow(labels, truth, truth != 255, c, tolerance) for c in range(4)]
    np.testing.assert_allclose(counts, expected, rtol=1e-12)


def test_multilabel_equals_the_definition_in_each_layer():
    labels = np.stack([blobs(2, seed) for seed in range(3)])
    truth = np.stack([blobs(2, seed + 10) for seed in range(3)])
    truth[1, :20] = 255  # ignored in one layer only
    counts = count_boundaries(labels, truth, "multilabel", 3, 2)
    expected = [slow(a, b, b != 255, 1, 2) for a, b in zip(labels, truth, strict=True)]
    np.testing.assert_allclose(counts, expected, rtol=1e-12)


def test_a_label_map_is_one_class_per_pixel_in_multilabel():
    labels = np.stack([blobs(2, seed) for seed in range(3)])
    truth = blobs(3, seed=5)
    truth[5:9] = 255
    stack = np.where(truth == 255, 255, truth == np.arange(3)[:, None, None])
    np.testing.assert_array_equal(
        count_boundaries(labels, truth, "multilabel", 3),
        count_boundaries(labels, stack, "multilabel", 3),
    )


def test_without_any_boundary_there_is_no_value():
    nothing = np.zeros((9, 9), int)
    for truth in (nothing, np.full_like(nothing, 255), nothing[:1]):
        counts = count_boundaries(nothing[: len(truth)], truth, "binary", 2)
        assert counts.tolist() == [[0] * 7]
    result, mean = score_boundaries(counts), average(counts)
    assert np.isnan([result.pop(name) for name in ("f1", "precision", "recall", "hd95")]).all()
    assert result["missed"] == mean.pop("hd95_missed") == 0
    assert np.isnan(list(mean.values())).all()


@pytest.mark.parametrize("is_found", [True, False])
def test_one_empty_mask_has_an_f1_of_zero_and_no_finite_distance(is_found):
    nothing, truth = np.zeros((64, 64), int), square(20, 20, 20)
    labels, truth = (truth, nothing) if is_found else (nothing, truth)
    counts = count_boundaries(labels, truth, "binary", 2)
    result = score_boundaries(counts)
    assert (result["f1"], result["hd95"], result["missed"]) == (0, math.inf, 1)
    assert average(counts)["hd95"] == math.inf
    assert result["recall" if not is_found else "precision"] == 0
    assert math.isnan(result["precision" if not is_found else "recall"][0])


def test_images_are_added():
    """Three images: 2 pixels off, missed, empty in both."""
    truth, nothing = square(20, 20, 20), np.zeros((64, 64), int)
    pairs = [(square(22, 20, 20), truth), (nothing, truth), (nothing, nothing)]
    result = score_boundaries(sum(count_boundaries(a, b, "binary", 2, 1) for a, b in pairs))
    assert (result["precision"], result["recall"]) == (40 / 76, 40 / 152)
    assert (result["hd95"], result["missed"]) == (2, 1)  # the distance of the one that has it


def test_means_leave_out_undefined_values():
    counts = np.array(
        [
            [4, 4, 4, 4, 3, 1, 0],
            [0, 0, 0, 0, 0, 0, 0],  # nowhere
            [0, 5, 0, 0, 0, 0, 1],  # invented
        ],
        float,
    )
    assert average(counts) == {"boundary_f1": (1 + 0) / 2, "hd95": 3, "hd95_missed": 1}
    many = average(np.stack([counts, 2 * counts, 0 * counts]))
    np.testing.assert_array_equal(many["boundary_f1"], [0.5, 0.5, math.nan])
    np.testing.assert_array_equal(many["hd95"], [3, 3, math.nan])
    np.testing.assert_array_equal(many["hd95_missed"], [1, 2, 0])


def test_the_default_tolerance_is_a_share_of_the_diagonal():
    """600 x 800: 0.75 % of 1000 is 7.5 pixels."""
    truth = square(300, 400, 1, (600, 800))

    def moved(by):
        return count_boundaries(np.roll(truth, by, (0, 1)), truth, "binary", 2)

    assert score_boundaries(moved((2, 7)))["f1"] == 1  # 7.28 away
    assert score_boundaries(moved((3, 7)))["f1"] == 0  # 7.62
    assert score_boundaries(moved((3, 7)))["hd95"] == pytest.approx(58**0.5)


@pytest.mark.parametrize(
    ("labels", "truth", "mode", "message"),
    [
        (TRUTH, TRUTH[:, 1:], "binary", r"truth \(40, 56\).*give the labels of one image"),
        (TRUTH, TRUTH, "multilabel", r"takes \(2, H, W\)"),
        (TRUTH * 1.0, TRUTH, "binary", "float64: give the decided labels"),
        (TRUTH * 2, TRUTH, "binary", "prediction contains the label 2"),
        (TRUTH, TRUTH * 3, "multiclass", "truth contains the label 3"),
        (TRUTH, TRUTH, "multi", "binary, multiclass, multilabel"),
    ],
)
def test_invalid_inputs_are_refused(labels, truth, mode, message):
    with pytest.raises(SegkitError, match=message):
        count_boundaries(labels, truth, mode, 2)
