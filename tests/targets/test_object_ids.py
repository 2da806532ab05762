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
    make_ids,
    number_objects,
    number_regions,
)


def test_the_examples_run():
    result = doctest.testmod(segkit.targets.objects)
    assert result.attempted > 0
    assert result.failed == 0


def test_ids_are_compact_in_the_order_of_the_values():
    ids = number_objects(np.array([[9, 0, 4], [4, 255, 300]], np.uint16))
    assert ids.dtype == np.uint16
    assert ids.tolist() == [[2, 0, 1], [1, 3, 4]]


def test_no_object_has_the_id_255():
    ids = number_objects(np.arange(401).reshape(1, -1))
    assert ids[0, 0] == 0
    assert 255 not in ids
    assert len(np.unique(ids)) == 401
    assert ids.max() == 401


def test_values_may_be_ignored_or_background():
    mask = np.array([[-1, 0, 7], [255, 8, 7]])
    assert number_objects(mask, ignored={-1, 255}, background=[8]).tolist() == [
        [255, 0, 1],
        [255, 0, 1],
    ]


def test_zero_may_be_what_is_ignored():
    assert number_objects(np.array([[0, 3]]), ignored=[0], background=[3]).tolist() == [[255, 0]]


def test_bool_is_one_object():
    assert number_objects(np.array([[True, False]])).tolist() == [[1, 0]]


def test_an_image_without_pixels_has_no_objects():
    assert number_objects(np.zeros((0, 4), np.int32)).shape == (0, 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_every_integer_type_is_read(dtype):
    mask = np.array([[0, 5, 100]]).astype(dtype)
    assert number_objects(mask).tolist() == [[0, 1, 2]]


def test_large_values_are_no_reason_for_a_table():
    mask = np.array([[2**62, 0, 2**62 + 1, 255]])
    assert number_objects(mask, ignored=[255]).tolist() == [[1, 0, 2, 255]]


@given(hnp.arrays(np.int64, (5, 6), elements=st.sampled_from([0, 1, 254, 255, 256, 2**20, 2**40])))
def test_two_pixels_are_of_one_object_exactly_if_their_values_are_equal(mask):
    ids = number_objects(mask)
    same = mask.ravel()[:, None] == mask.ravel()
    assert np.array_equal(ids.ravel()[:, None] == ids.ravel(), same)
    assert np.array_equal(ids == 0, mask == 0)
    assert 255 not in ids


def test_a_negative_value_is_an_error_that_says_how_to_mend_it():
    with pytest.raises(SegkitError, match=r"negative value -2.*data\.label_map=\{-2: 255\}"):
        number_objects(np.array([[-2, -1, 3]]), ignored=[-1])


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.zeros((2, 2, 3), np.uint8)])
def test_only_maps_of_integers_are_ids(mask):
    with pytest.raises(SegkitError, match=r"a map .* of integers"):
        number_objects(mask)


def test_as_many_objects_as_there_are_numbers_and_no_more():
    most = np.arange(MOST_OBJECTS + 1).reshape(1, -1)
    ids = number_objects(most)
    assert ids.max() == 65535
    assert len(np.unique(ids)) == MOST_OBJECTS + 1
    with pytest.raises(SegkitError, match="65535 objects, more than the 65534"):
        number_objects(np.arange(MOST_OBJECTS + 2).reshape(1, -1))


def test_numbers_leave_out_255():
    assert make_ids(3).tolist() == [1, 2, 3]
    assert make_ids(256)[252:].tolist() == [253, 254, 256, 257]


def test_components_touch_by_an_edge_and_never_cross_classes():
    labels = np.array([[1, 0, 2, 2], [0, 1, 1, 2], [255, 0, 0, 2]], np.uint8)
    assert label_regions(labels).tolist() == [[1, 0, 3, 3], [0, 2, 2, 3], [0, 0, 0, 3]]


def test_components_as_ids_keep_what_is_not_labelled():
    labels = np.zeros((1, 1001), np.uint8)
    labels[0, ::2] = 1
    labels[0, 6] = 255
    ids = number_regions(labels)
    assert ids.dtype == np.uint16
    assert np.array_equal(ids == 255, labels == 255)
    assert len(np.unique(ids)) == 1 + 500 + 1
    assert ids[0, 8] == 4
