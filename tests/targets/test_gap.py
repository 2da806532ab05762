from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from segkit.targets.distance import separate_objects

maps = hnp.arrays(
    np.uint16,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([0, 0, 1, 2, 3, 400]),
)
TURNS = [lambda x, k=k, f=f: np.rot90(x.T if f else x, k) for k in range(4) for f in (0, 1)]


def apart(ids):
    """Distances between all pixels of objects, infinite between those of one object."""
    where = np.argwhere(ids > 0)
    of = ids[ids > 0]
    return np.where(of[:, None] == of, np.inf, cdist(where, where))


@given(maps, st.integers(0, 4))
def test_objects_are_gap_pixels_apart_and_nothing_else_is_taken(ids, gap):
    kept = separate_objects(ids, gap)
    assert kept.dtype == np.uint16
    assert set(np.unique(kept[kept != ids])) <= {0}
    assert apart(kept).min(initial=np.inf) >= gap + 1
    near = apart(ids).min(axis=1, initial=np.inf) < gap + 1
    taken = (kept != ids)[ids > 0]
    assert not (taken & ~near).any()


@given(maps, st.integers(1, 3), st.sampled_from(TURNS))
def test_turning_the_map_turns_the_gap(ids, gap, turn):
    turned = np.ascontiguousarray(turn(ids))
    assert np.array_equal(turn(separate_objects(ids, gap)), separate_objects(turned, gap))


@pytest.mark.parametrize("gap", [1, 2, 3, 4, 5])
def test_the_gap_of_a_straight_seam_is_as_wide_as_asked(gap):
    ids = np.zeros((9, 40), np.uint16)
    ids[:, 2:18], ids[:, 18:38] = 9, 4
    row = separate_objects(ids, gap)[4]
    assert (row[2:38] == 0).sum() == gap
    # the smaller one, 9, gives one pixel less where the gap is odd
    assert (row == 9).sum() == 16 - gap // 2
    assert (row == 4).sum() == 20 - (gap + 1) // 2


def test_a_natural_gap_counts():
    ids = np.zeros((5, 12), np.uint16)
    ids[:, :5], ids[:, 7:] = 1, 2
    assert np.array_equal(separate_objects(ids, 2), ids)
    assert (separate_objects(ids, 3) == 0).sum() == 5 * 3


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_a_tiny_object_beside_a_large_one_keeps_a_pixel(gap):
    for shape in ((1, 1), (1, 2), (2, 2), (1, 4)):
        ids = np.zeros((20, 20), np.uint16)
        ids[:, 8:] = 1
        ids[8 : 8 + shape[0], 8 - shape[1] : 8] = 2
        kept = separate_objects(ids, gap)
        assert {1, 2} <= set(np.unique(kept))
        assert apart(kept).min() >= gap + 1


def test_a_thin_object_is_not_lost_between_smaller_ones():
    ids = np.zeros((40, 9), np.uint16)
    ids[:, 4] = 5  # of the most pixels, so that it gives in the first round
    for row in range(0, 40, 8):
        ids[row : row + 5, :4] = 10 + row
        ids[row + 3 : row + 8, 5:] = 11 + row
    assert np.bincount(ids.ravel())[1:].argmax() == 5 - 1
    for gap in (1, 2, 3):
        kept = separate_objects(ids, gap)
        assert set(np.unique(kept)) == set(np.unique(ids))
        assert apart(kept).min() >= gap + 1


def test_of_three_lines_of_one_pixel_the_outer_two_stay():
    line = np.repeat(np.array([[1], [3], [2]], np.uint16), 30, axis=1)
    assert separate_objects(line, 1)[:, 0].tolist() == [1, 0, 2]


def test_of_two_pixels_one_stays():
    assert separate_objects(np.array([[1, 2]], np.uint16), 1).tolist() == [[1, 0]]


def test_without_touching_objects_nothing_changes():
    for ids in (np.zeros((4, 4), np.uint16), np.full((4, 4), 3, np.uint16)):
        assert np.array_equal(separate_objects(ids, 5), ids)
