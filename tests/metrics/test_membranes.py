"""Scores of membrane maps: thinned borders, the best threshold, means over slices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.metrics import contingency_table, variation_of_information

from segkit.core.errors import SegkitError
from segkit.metrics.membranes import (
    MEMBRANE_COUNTS,
    THRESHOLDS,
    compute_v_info,
    count_membranes,
    count_v_rand,
    score_membranes,
)
from segkit.metrics.overlaps import count_overlaps


def scores(truth, probability) -> dict[str, float]:
    found = score_membranes(count_membranes(truth, probability))
    return {name: float(value) for name, value in found.items()}


def two_cells(width: int) -> np.ndarray:
    """(12, 21) ids of two cells, a membrane of an odd width between them."""
    truth = np.ones((12, 21), int)
    truth[:, 11:] = 2
    truth[:, 10 - width // 2 : 11 + width // 2] = 0
    return truth


def inside(truth: np.ndarray, cell: float = 0.95, membrane: float = 0.05) -> np.ndarray:
    return np.where(truth > 0, cell, membrane)


def noisy_cells(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(40, 50) ids, and probabilities with gaps in the membranes."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros((40, 50), bool)
    seeds[rng.integers(0, 40, 12), rng.integers(0, 50, 12)] = True
    _, (y, x) = ndimage.distance_transform_edt(~seeds, return_indices=True)
    nearest = y * 50 + x
    edge = ndimage.maximum_filter(nearest, 3) != ndimage.minimum_filter(nearest, 3)
    truth = np.where(edge, 0, nearest + 1)
    noise = ndimage.gaussian_filter(rng.normal(0, 1.5, truth.shape), 1)
    return truth, np.clip(inside(truth, 0.75, 0.3) + 0.3 * noise, 0, 1)


def test_the_width_of_the_borders_does_not_matter_to_v():
    """A membrane that is drawn too wide is thinned to its middle line."""
    truth, wide = two_cells(1), two_cells(7)
    found = scores(truth, inside(wide, membrane=0.0))
    assert [found[name] for name in ("v_rand", "v_info")] == [1, 1]
    assert found["v_rand_threshold"] == found["v_info_threshold"] == 0  # the first of the best
    outside = 6 * 12  # pixels of cells that are not inside
    cells = 20 * 12
    together = 2 * (7 * 12) ** 2 + outside
    assert found["rand_error"] == pytest.approx(1 - 2 * together / (together + 2 * (10 * 12) ** 2))
    assert found["pixel_error"] == pytest.approx(1 - 2 * (cells - outside) / (2 * cells - outside))


def test_a_thinned_border_is_a_line_of_single_pixels():
    """A band shrinks to the diagonal, whose 9 pixels belong to the first cell."""
    y, x = np.mgrid[:9, :9]
    truth = np.where(y <= x, 1, 2)
    found = scores(truth, np.where(abs(y - x) <= 2, 0.0, 1.0))
    together = 36**2 + 36**2 + 9
    assert found["v_rand"] == pytest.approx(2 * together / (together + 36**2 + 45**2))


def test_a_hole_in_the_membrane_merges_and_a_higher_threshold_mends_it():
    truth = two_cells(1)
    probability = inside(truth)
    probability[5, 10] = 0.55
    counts = count_membranes(truth, probability)
    v_rand = counts[:, MEMBRANE_COUNTS.index("v_rand")]
    merged = 2 * 2 * 120**2 / (2 * 120**2 + 240**2)
    assert v_rand[:6] == pytest.approx([merged] * 6)
    assert v_rand[6:10].tolist() == [1.0] * 4
    found = scores(truth, probability)
    assert (found["v_rand"], found["v_rand_threshold"]) == (1, 0.6)
    assert (found["v_info"], found["v_info_threshold"]) == (1, 0.6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_thresholds_are_eleven_and_the_last_keeps_what_is_certain(dtype):
    assert THRESHOLDS[:10] == tuple(k / 10 for k in range(10))
    truth = two_cells(1)
    found = scores(truth, np.where(truth > 0, 1.0, 0.999).astype(dtype))
    assert (found["v_rand"], found["pixel_error"]) == (1, 0)
    assert found["v_rand_threshold"] == pytest.approx(1)
    assert count_membranes(truth, np.full(truth.shape, 0.999))[-1, MEMBRANE_COUNTS.index("tp")] == 0


def test_v_is_the_mean_over_slices_at_one_threshold_and_the_errors_are_pooled():
    slices = [noisy_cells(seed) for seed in range(3)]
    scales = (1.0, 0.8, 0.6)
    pairs = [(truth, p * scale) for (truth, p), scale in zip(slices, scales, strict=True)]
    counts = np.stack([count_membranes(*pair) for pair in pairs])
    found = score_membranes(counts.sum(axis=0))
    table = score_membranes(counts)
    assert {name: table[name][1] for name in table} == score_membranes(counts[1])
    single = counts[..., MEMBRANE_COUNTS.index("v_rand")]
    assert found["v_rand"] == pytest.approx(single.mean(axis=0).max())
    assert found["v_rand"] < single.max(axis=1).mean()  # each has its best threshold elsewhere
    v_info = counts[..., MEMBRANE_COUNTS.index("v_info")].mean(axis=0)
    assert found["v_info"] == pytest.approx(v_info.max())
    assert found["v_info_threshold"] == THRESHOLDS[v_info.argmax()]
    best = []
    for threshold in THRESHOLDS:
        tp = sum(((p > threshold) & (t > 0)).sum() for t, p in pairs)
        positives = sum((p > threshold).sum() + (t > 0).sum() for t, p in pairs)
        best.append(2 * tp / positives)
    assert found["pixel_error"] == pytest.approx(1 - max(best))


def test_ignored_pixels_do_not_count():
    truth, probability = noisy_cells()
    truth = truth % 200  # no cell has the id 255
    probability[:, 40:] = 0  # so that no region goes on there
    part = count_membranes(truth[:, :40], probability[:, :40])
    ignoring = truth.copy()
    ignoring[:, 40:] = 255
    pixels = slice(MEMBRANE_COUNTS.index("rand_together"), None)
    assert np.array_equal(count_membranes(ignoring, probability)[:, pixels], part[:, pixels])
    assert (count_membranes(truth, probability)[:, pixels] != part[:, pixels]).any()
    thinned = count_membranes(ignoring, probability)[:, :3]
    assert thinned == pytest.approx(part[:, :3], abs=0.02)  # lines end elsewhere at the edge


def test_a_slice_without_cells_has_no_value_and_leaves_the_mean():
    empty = count_membranes(np.zeros((12, 21), int), np.full((12, 21), 0.5))
    assert all(math.isnan(value) for value in score_membranes(empty).values())
    truth = two_cells(1)
    whole = count_membranes(truth, inside(truth))
    assert score_membranes(whole + empty)["v_rand"] == 1


@pytest.mark.parametrize(
    ("truth", "probability", "message"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3)), "the same image"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), "probabilities is int"),
        (np.zeros((2, 2), int), np.full((2, 2), 3.5), "not logits"),
        (np.zeros((2, 2), int), np.full((2, 2), np.nan), "not logits"),
        (np.zeros((2, 2)), np.zeros((2, 2)), "the truth is float64"),
    ],
)
def test_invalid_membrane_maps_are_refused(truth, probability, message):
    with pytest.raises(SegkitError, match=message):
        count_membranes(truth, probability)


# V_rand and V_info of given objects

maps = hnp.arrays(np.int64, st.just((4, 6)), elements=st.integers(0, 3))


def v_rand(truth: np.ndarray, predicted: np.ndarray) -> float:
    together, reference, found = count_v_rand(count_overlaps(truth, predicted))
    return 2 * together / (reference + found)


@pytest.mark.parametrize(
    ("truth", "predicted", "rand", "info"),
    [
        ("11022", "11022", 1, 1),
        ("110022", "111222", 1, 1),  # what is predicted on the membrane does not count
        ("1122", "3333", 2 * 8 / (8 + 16), 0),  # merged: the prediction tells nothing
        ("1111", "1122", 2 * 8 / (16 + 8), 0),  # split
        # two single pixels: H(T) = 1 bit, H(S) = 1.5 bits, and S tells T
        ("1122", "1100", 2 * (4 + 1 + 1) / (8 + 6), 2 * 1 / (1 + 1.5)),
        ("011", "011", 1, 1),
        ("11022", "00000", 2 * 4 / (4 + 8), 2 * 1 / (1 + 2)),  # nothing inside: single pixels
    ],
)
def test_v_rand_and_v_info_by_hand(truth, predicted, rand, info):
    one, two = (np.array([[int(c) for c in row]]) for row in (truth, predicted))
    assert v_rand(one, two) == rand
    assert compute_v_info(count_overlaps(one, two)) == pytest.approx(info)


@settings(max_examples=100)
@given(maps, maps)
def test_equals_the_tables_of_skimage(truth, predicted):
    if not truth.any():
        assert math.isnan(compute_v_info(count_overlaps(truth, predicted)))
        return
    own = 100 + np.arange(predicted.size).reshape(predicted.shape)
    single = np.where(predicted == 0, own, predicted)  # background pixels are objects of their own
    table = contingency_table(truth, single, ignore_labels=[0]).toarray()
    squares = [(x.astype(float) ** 2).sum() for x in (table, table.sum(axis=1), table.sum(axis=0))]
    assert count_v_rand(count_overlaps(truth, predicted)) == tuple(squares)

    splits, merges = variation_of_information(truth, single, ignore_labels=[0])  # H(S|T), H(T|S)
    shares = table.sum(axis=1)[table.sum(axis=1) > 0] / table.sum()
    reference = -(shares * np.log2(shares)).sum()
    shared = reference - merges
    total = reference + shared + splits  # H(T) + H(S)
    expected = 2 * shared / total if total > 1e-12 else 1.0
    assert compute_v_info(count_overlaps(truth, predicted)) == pytest.approx(expected, abs=1e-9)
