from __future__ import annotations

import numpy as np
import pytest

from segkit.inference.objects.instances import (
    close_gaps,
    close_holes,
    merge_small,
    merge_waists,
    renumber,
)

# five regions in a line, each with its peak, and saddles of 6, 2, 5 and 9 between them
HEIGHT = np.array([[6, 8, 6, 6, 10, 2, 2, 4, 5, 5, 9, 12, 9, 9, 10]], np.float32)
LINE = np.array([[1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5]], np.int32)


def groups(regions: np.ndarray) -> list[set[int]]:
    """Which of the five regions are one."""
    return [set(LINE[regions == n].tolist()) for n in dict.fromkeys(regions.ravel().tolist())]


@pytest.mark.parametrize(
    ("waist", "expected"),
    [
        (1.0, [{1}, {2}, {3, 4}, {5}]),  # 5 is the height of 3 and of its pass to 4
        (0.9, [{1}, {2}, {3, 4, 5}]),  # 9 of 10
        (0.7, [{1, 2}, {3, 4, 5}]),  # 6 of 8
        (0.3, [{1, 2}, {3, 4, 5}]),
        (0.2, [{1, 2, 3, 4, 5}]),  # 2 of the 10 of what was joined, not of the 5 of region 3
    ],
)
def test_regions_are_one_where_the_neck_is_wide(waist, expected):
    assert groups(merge_waists(LINE, HEIGHT, waist)) == expected


def test_small_regions_go_over_the_highest_saddle():
    areas = np.bincount(LINE.ravel())[1:].tolist()
    assert areas == [3, 3, 3, 4, 2]
    assert groups(merge_small(LINE, HEIGHT, 2)) == [{1}, {2}, {3}, {4}, {5}]
    assert groups(merge_small(LINE, HEIGHT, 3)) == [{1}, {2}, {3}, {4, 5}]
    assert groups(merge_small(LINE, HEIGHT, 4)) == [{1, 2}, {3, 4, 5}]


def test_a_small_region_alone_stays_for_the_caller_to_drop():
    regions = np.array([[1, 0, 2, 2, 2]], np.int32)
    assert np.array_equal(merge_small(regions, np.ones((1, 5), np.float32), 3), regions)
    assert renumber(regions, 3).tolist() == [[0, 0, 1, 1, 1]]


def test_regions_meet_by_edges_only():
    regions = np.array([[1, 0], [0, 2]], np.int32)
    assert np.array_equal(merge_waists(regions, np.ones((2, 2), np.float32), 0.1), regions)


def test_numbers_have_no_gaps_and_keep_their_order():
    ids = renumber(np.array([[0, 9, 4], [4, 70, 0]], np.int32))
    assert ids.dtype == np.int32
    assert ids.tolist() == [[0, 2, 1], [1, 3, 0]]


def test_only_what_one_region_encloses_is_filled():
    regions = np.ones((12, 16), np.int32)
    regions[:, 8:] = 2
    regions[2:4, 2:4] = 0  # in region 1
    regions[5, 7:9] = 0  # between both
    regions[8:11, 10:13] = 0  # around region 3 in region 2
    regions[9, 11] = 3
    regions[0, 4] = 0  # at the border
    filled = close_holes(regions)
    assert (filled[2:4, 2:4] == 1).all()
    filled[2:4, 2:4] = 0
    assert np.array_equal(filled, regions)
    assert np.array_equal(close_holes(regions, 4), regions)
    assert (close_holes(regions, 5)[2:4, 2:4] == 1).all()


def test_a_way_out_by_a_corner_is_a_way_out():
    regions = np.ones((5, 5), np.int32)
    regions[2, 2] = regions[1, 1] = regions[0, 0] = 0
    assert np.array_equal(close_holes(regions), regions)


def test_background_without_regions_is_no_hole():
    assert (close_holes(np.zeros((4, 4), np.int32)) == 0).all()
    assert (close_holes(np.ones((4, 4), np.int32)) == 1).all()


def test_the_middle_of_an_odd_gap_goes_to_the_larger_region():
    regions = np.array([[1] * 4 + [0] * 3 + [2] * 6], np.int32).repeat(9, axis=0)
    assert close_gaps(regions, 3)[4].tolist() == [1] * 5 + [2] * 8
    assert close_gaps(regions[:, ::-1].copy(), 3)[4].tolist() == [2] * 8 + [1] * 5


def test_background_that_is_wider_than_a_gap_stays():
    regions = np.array([[1] * 4 + [0] * 3 + [2] * 6], np.int32).repeat(9, axis=0)
    assert np.array_equal(close_gaps(regions, 1), regions)


def test_a_bay_of_one_region_is_no_gap():
    regions = np.ones((9, 9), np.int32)
    regions[4, 3:] = 0
    assert np.array_equal(close_gaps(regions, 2), regions)
