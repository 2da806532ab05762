"""The contingency table of two maps of ids against skimage, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import contingency_table

from segkit.core.errors import SegkitError
from segkit.metrics.overlaps import count_overlaps


def random_maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, 6, (2, 9, 11))
    return truth, predicted


def test_equals_the_table_of_skimage():
    truth, predicted = random_maps()
    found = count_overlaps(truth, predicted)
    table = contingency_table(truth, predicted).toarray()
    assert sorted(found.reference_areas) == sorted(table[1:].sum(axis=1))
    assert sorted(found.predicted_areas) == sorted(table[:, 1:].sum(axis=0))
    assert sorted(found.shared) == sorted(table[1:, 1:][table[1:, 1:] > 0])
    assert sorted(found.missed) == sorted(table[1:, 0])
    assert sorted(found.inside) == sorted(table[1:, 1:].sum(axis=0))


def test_objects_are_numbered_as_they_appear():
    found = count_overlaps(
        np.array([[0, 9, 9, 9], [4, 4, 0, 0]]), np.array([[0, 3, 3, 0], [8, 8, 8, 8]])
    )
    assert count_overlaps(
        np.array([[8, 2, 8]]), np.zeros((1, 3), int)
    ).reference_areas.tolist() == [2, 1]
    assert found.reference_areas.tolist() == [3, 2]
    assert found.predicted_areas.tolist() == [2, 4]
    assert list(zip(found.reference, found.predicted, found.shared, strict=True)) == [
        (0, 0, 2),
        (1, 1, 2),
    ]
    assert found.union.tolist() == [3, 4]
    assert found.iou.tolist() == [2 / 3, 2 / 4]
    assert found.missed.tolist() == [1, 0]
    assert found.inside.tolist() == [2, 2]


def test_ignored_pixels_are_cut_away():
    truth = np.array([[1, 1, 255, 255, 255, 255, 255, 0]])
    predicted = np.array([[7, 7, 7, 0, 8, 8, 9, 9]])
    found = count_overlaps(truth, predicted)
    assert found.reference_areas.tolist() == [2]
    assert found.predicted_areas.tolist() == [2, 0, 1]
    assert found.spared.tolist() == [False, True, False]  # exactly half ignored is not spared
    assert found.iou.tolist() == [1.0]
    empty = count_overlaps(truth[:0], predicted[:0])
    assert empty.reference_areas.size == empty.predicted_areas.size == empty.shared.size == 0


def test_the_ignored_id_is_an_object_in_the_prediction_and_without_ignoring():
    truth, predicted = np.array([[1, 255]]), np.array([[255, 255]])
    assert count_overlaps(truth, predicted).predicted_areas.tolist() == [1]
    assert count_overlaps(truth, predicted, ignore_index=None).reference_areas.tolist() == [1, 1]
    assert count_overlaps(truth, predicted, ignore_index=1).reference_areas.tolist() == [1]


def test_huge_ids_give_the_same():
    truth, predicted = random_maps(1)
    expected = count_overlaps(truth, predicted)
    for background in (0, 1):  # with a pixel of background, and without one
        large = np.array([background * 77, 2**31 - 1, 9, 2**30, 2**20, 5])
        if background:
            expected = count_overlaps(truth + 1, predicted)
        found = count_overlaps(large[truth], predicted)
        assert found.reference_areas.tolist() == expected.reference_areas.tolist()
        assert found.reference.tolist() == expected.reference.tolist()
        assert found.shared.tolist() == expected.shared.tolist()


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "2 x 3 pixels and the prediction 3 x 2"),
        (np.zeros((1, 2, 3), int), np.zeros((2, 3), int), r"the truth has the shape \(1, 2, 3\)"),
        (np.zeros((2, 3), int), np.zeros((2, 3)), "the prediction is float64"),
        (np.zeros((2, 3), bool), np.zeros((2, 3), int), r"ndimage\.label"),
        (np.full((2, 3), -1), np.zeros((2, 3), int), "contains the id -1"),
    ],
)
def test_maps_that_are_no_ids_are_refused(truth, predicted, message):
    with pytest.raises(SegkitError, match=message):
        count_overlaps(truth, predicted)
