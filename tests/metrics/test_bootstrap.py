"""Bootstrap intervals: how often they contain the truth, against scipy, and where none exist."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from segkit.core.errors import SegkitError
from segkit.metrics.bootstrap import Interval, estimate_intervals
from segkit.metrics.confusion import count_classes, score_counts, score_matrix


def share(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def interval(data: np.ndarray, score, **options) -> Interval:
    return estimate_intervals(data, lambda sums: {"score": score(sums)}, **options)["score"]


def images(count: int, generator: np.random.Generator) -> np.ndarray:
    """(count, 2): right and all pixels of images of different size; 0.8 of them are right."""
    pixels = generator.integers(50, 150, count)
    return np.stack([generator.beta(8, 2, count) * pixels, pixels], 1)


def test_equals_scipy():
    data = images(25, np.random.default_rng(2))
    ours = interval(data, share, samples=20_000)
    theirs = scipy.stats.bootstrap(
        (data[:, 0], data[:, 1]),
        lambda right, pixels, axis: right.sum(axis) / pixels.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        random_state=np.random.default_rng(3),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_two_images_by_hand_and_the_seed():
    """Their four draws score 0, 1/2, 1/2 and 1: a quarter each end."""
    data = np.array([[0, 1], [1, 1]])
    assert interval(data, share, level=0.4) == Interval(0.5, 0.5)
    assert interval(data, share, level=0.6) == Interval(0, 1)
    data = images(30, np.random.default_rng(0))
    assert interval(data, share, seed=5) == interval(data, share, seed=5)
    assert interval(data, share, seed=5) != interval(data, share, seed=6)


def test_samples_without_a_value_are_left_out_and_infinite_ones_kept():
    """The third of three images alone has the class: 8 of 27 draws are without it."""
    data = np.array([[0, 0], [0, 0], [3, 4]])

    def iou(sums):
        return np.where(sums[:, 1] > 0, sums[:, 0] / np.maximum(sums[:, 1], 1), np.nan)

    assert interval(data, iou) == Interval(0.75, 0.75)
    for without in (interval(np.zeros((3, 2)), iou), interval(np.array([[3, 4]]), share)):
        assert math.isnan(without.low)
        assert math.isnan(without.high)

    def distance(sums):
        return np.where(sums[:, 0] > 2, np.inf, sums[:, 0])

    assert interval(np.array([[0.0], [1.0], [1.0]]), distance).high == math.inf


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_scores_have_their_intervals(mode):
    """Each holds the score of all images, and equals the one of matrices drawn one by one."""
    names = ["background", "cell"] if mode == "binary" else ["a", "b", "c"]
    shape = (40, 3, 2, 2) if mode == "multilabel" else (40, len(names), len(names))
    matrices = torch.randint(20, shape, generator=torch.Generator().manual_seed(0))
    if mode != "binary":
        matrices[:, 1] //= 10  # less of one class
    result = score_matrix(matrices.sum(0), mode, names)
    counts = np.stack([count_classes(matrix, mode) for matrix in matrices])
    found = estimate_intervals(counts, lambda sums: score_counts(sums, mode, result.class_names))
    assert set(result.mean) < set(found)
    assert len(found) == len(result.mean) + 5 * len(result.class_names)
    for key, value in result.mean.items():
        assert found[key].low < value < found[key].high
    for c, name in enumerate(result.class_names):
        assert found[f"iou/{name}"].low < result.iou[c] < found[f"iou/{name}"].high
        assert found[f"recall/{name}"].low < result.recall[c] < found[f"recall/{name}"].high

    generator = np.random.default_rng(1)
    drawn = [
        score_matrix(matrices[generator.integers(40, size=40)].sum(0), mode, names).mean["iou"]
        for _ in range(1000)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found["iou"].low == pytest.approx(low, abs=0.15 * (high - low))
    assert found["iou"].high == pytest.approx(high, abs=0.15 * (high - low))


def test_no_image_is_refused():
    with pytest.raises(SegkitError, match="no image"):
        interval(np.zeros((0, 2)), share)
