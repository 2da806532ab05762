"""V_rand and V_info against hand-computed cases and the entropies of scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import contingency_table, variation_of_information

from segkit.metrics.overlaps import overlaps
from segkit.metrics.rand import v_info, v_rand_counts

maps = hnp.arrays(np.int64, st.just((4, 6)), elements=st.integers(0, 3))


def v_rand(truth: np.ndarray, predicted: np.ndarray) -> float:
    together, reference, found = v_rand_counts(overlaps(truth, predicted))
    return 2 * together / (reference + found)


def singled(predicted: np.ndarray) -> np.ndarray:
    """The prediction with an id for each pixel of its background."""
    own = 100 + np.arange(predicted.size).reshape(predicted.shape)
    return np.where(predicted == 0, own, predicted)


def test_a_perfect_segmentation_is_one():
    truth = np.array([[1, 1, 0, 2, 2]])
    assert v_rand(truth, truth) == 1
    assert v_info(overlaps(truth, truth)) == 1


def test_what_is_predicted_on_the_membrane_does_not_count():
    truth, predicted = np.array([[1, 1, 0, 0, 2, 2]]), np.array([[1, 1, 1, 2, 2, 2]])
    assert v_rand(truth, predicted) == 1
    assert v_info(overlaps(truth, predicted)) == 1


def test_two_cells_merged_by_hand():
    truth, predicted = np.array([[1, 1, 2, 2]]), np.array([[3, 3, 3, 3]])
    assert v_rand(truth, predicted) == 2 * 8 / (8 + 16)
    assert v_info(overlaps(truth, predicted)) == 0  # knowing the prediction tells nothing


def test_one_cell_split_by_hand():
    truth, predicted = np.array([[1, 1, 1, 1]]), np.array([[1, 1, 2, 2]])
    assert v_rand(truth, predicted) == 2 * 8 / (16 + 8)
    assert v_info(overlaps(truth, predicted)) == 0


def test_background_pixels_are_objects_of_their_own_by_hand():
    truth, predicted = np.array([[1, 1, 2, 2]]), np.array([[1, 1, 0, 0]])
    assert v_rand(truth, predicted) == 2 * (4 + 1 + 1) / (8 + 6)
    # H(T) = 1 bit, H(S) = 1.5 bits, and S tells T.
    assert v_info(overlaps(truth, predicted)) == pytest.approx(2 * 1 / (1 + 1.5))


def test_one_cell_that_is_found_whole_is_perfect():
    truth = np.array([[0, 1, 1]])
    assert v_info(overlaps(truth, truth)) == 1


def test_without_cells_there_is_no_value():
    assert math.isnan(v_info(overlaps(np.zeros((2, 2), int), np.ones((2, 2), int))))


@settings(max_examples=100, deadline=None)
@given(maps, maps)
def test_equals_the_tables_of_skimage(truth, predicted):
    if not truth.any():
        return
    single = singled(predicted)
    table = contingency_table(truth, single, ignore_labels=[0]).toarray()
    squares = [(x.astype(float) ** 2).sum() for x in (table, table.sum(axis=1), table.sum(axis=0))]
    assert v_rand_counts(overlaps(truth, predicted)) == tuple(squares)

    splits, merges = variation_of_information(truth, single, ignore_labels=[0])  # H(S|T), H(T|S)
    shares = table.sum(axis=1)[table.sum(axis=1) > 0] / table.sum()
    reference = -(shares * np.log2(shares)).sum()
    shared = reference - merges
    total = reference + shared + splits  # H(T) + H(S)
    expected = 2 * shared / total if total > 1e-12 else 1.0
    assert v_info(overlaps(truth, predicted)) == pytest.approx(expected, abs=1e-9)
