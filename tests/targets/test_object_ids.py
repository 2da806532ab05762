from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import segkit.targets.objects
from segkit.core.errors import SegkitError
from segkit.targets.objects import (
    MOST_OBJECTS,
    label_regions,
    number_objects,
    number_regions,
)


def test_the_examples_run():
    result = doctest.testmod(segkit.targets.objects)
    assert result.attempted > 0
    assert result.failed == 0


def test_values_may_be_ignored_or_background():
    assert number_objects(np.array([[0, 3]]), {0: 255, 3: 0}).tolist() == [[255, 0]]
    assert number_objects(np.array([[True, False]])).tolist() == [[1, 0]]
    assert number_objects(np.zeros((0, 4), np.int32)).shape == (0, 4)
    huge = np.array([[2**62, 0, 2**62 + 1, 255]])  # too large for a table
    assert number_objects(huge, {255: 255}).tolist() == [[1, 0, 2, 255]]
    for dtype in (np.uint8, np.int16, np.uint32, np.uint64):
        assert number_objects(np.array([[0, 5, 100]]).astype(dtype)).tolist() == [[0, 1, 2]]
    mask = np.array([[-1, 0, 7], [255, 8, 7]])
    assert number_objects(mask, {-1: 255, 255: 255, 8: 0, 7: 3}).tolist() == [
        [255, 0, 1],
        [255, 0, 1],
    ]


@given(hnp.arrays(np.int64, (5, 6), elements=st.sampled_from([0, 1, 254, 255, 256, 2**20, 2**40])))
def test_two_pixels_are_of_one_object_exactly_if_their_values_are_equal(mask):
    ids = number_objects(mask)
    same = mask.ravel()[:, None] == mask.ravel()
    assert np.array_equal(ids.ravel()[:, None] == ids.ravel(), same)
    assert np.array_equal(ids == 0, mask == 0)
    assert 255 not in ids


def test_a_negative_value_is_an_error_with_a_remedy():
    with pytest.raises(SegkitError, match=r"negative value -2.*label_map.*\{-2: 255\}"):
        number_objects(np.array([[-2, -1, 3]]), {-1: 255})


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.zeros((2, 2, 3), np.uint8)])
def test_only_maps_of_integers_are_ids(mask):
    with pytest.raises(SegkitError, match=r"a map .* of integers"):
        number_objects(mask)


def test_there_are_as_many_objects_as_ids_and_no_more():
    most = np.arange(MOST_OBJECTS + 1).reshape(1, -1)
    ids = number_objects(most)
    assert ids.max() == 65534  # the last one is GUESS
    assert len(np.unique(ids)) == MOST_OBJECTS + 1
    with pytest.raises(SegkitError, match="65534 objects, more than the 65533"):
        number_objects(np.arange(MOST_OBJECTS + 2).reshape(1, -1))


def test_regions_touch_at_an_edge_and_never_cross_classes():
    labels = np.array([[1, 0, 2, 2], [0, 1, 1, 2], [255, 0, 0, 2]], np.uint8)
    assert label_regions(labels).tolist() == [[1, 0, 3, 3], [0, 2, 2, 3], [0, 0, 0, 3]]


def test_ids_of_regions_keep_unlabelled_pixels():
    labels = np.zeros((1, 1001), np.uint8)
    labels[0, ::2] = 1
    labels[0, 6] = 255
    ids = number_regions(labels)
    assert ids.dtype == np.uint16
    assert np.array_equal(ids == 255, labels == 255)
    assert len(np.unique(ids)) == 1 + 500 + 1
    assert ids[0, 8] == 4
