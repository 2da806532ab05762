from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from segkit.targets.distance import (
    iterate_windows,
    make_disc,
    measure_depths,
    measure_distance,
    measure_two_nearest,
)

maps = hnp.arrays(
    np.uint16,
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    elements=st.sampled_from([0, 0, 0, 1, 2, 7, 300]),
)


def exact(region):
    """The distance to a region, infinite where there is none."""
    if not region.any():
        return np.full(region.shape, np.inf)
    return ndimage.distance_transform_edt(~region)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_distances_are_the_nearest_float32_to_the_exact_ones(region):
    found = measure_distance(region)
    assert found.dtype == np.float32
    assert np.array_equal(found, exact(region).astype(np.float32))


@pytest.mark.parametrize("share", [0.3, 0.001, 0.00001])
def test_distances_are_exact_in_large_images(share):
    region = np.random.default_rng(0).random((700, 900)) < share
    region[350, 450] = True
    assert np.array_equal(measure_distance(region), exact(region).astype(np.float32))


def test_a_disc_has_what_is_within_its_radius():
    assert make_disc(0).tolist() == [[1]]
    assert make_disc(1).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert make_disc(3).tolist() == [[1, 1, 1]] * 3
    assert make_disc(16).shape == (9, 9)
    assert make_disc(16).sum() == 49


@given(maps)
def test_the_two_nearest_objects_are_those_of_the_whole_image(ids):
    all_distances = [exact(ids == number) for number in np.unique(ids) if number]
    far = [np.full(ids.shape, np.inf)] * 2
    expected = np.sort(np.stack([*all_distances, *far]), axis=0).astype(np.float32)
    d1, d2 = measure_two_nearest(ids, reach=40)
    assert np.array_equal(d1, expected[0])
    assert np.array_equal(d2, expected[1])


@given(maps, st.floats(0, 6))
def test_beyond_its_reach_a_distance_may_be_infinite_but_never_too_small(ids, reach):
    full, cut = measure_two_nearest(ids, 40), measure_two_nearest(ids, reach)
    for whole, found in zip(full, cut, strict=True):
        assert np.array_equal(found[whole <= reach], whole[whole <= reach])
        assert (found >= whole).all()


@given(maps, st.data())
def test_depths_are_those_of_the_whole_image(ids, data):
    unknown = data.draw(hnp.arrays(np.bool_, ids.shape))
    objects = np.where(unknown, 0, ids)
    found = np.full(ids.shape, np.nan)
    for window, inside, d in measure_depths(objects, unknown):
        assert np.isnan(found[window][inside]).all()  # each object once
        found[window][inside] = d[inside]
    expected = np.full(ids.shape, np.nan)
    for number in set(np.unique(objects)) - {0}:
        own = objects == number
        expected[own] = exact(~own & ~unknown)[own].astype(np.float32)
    assert np.array_equal(found, expected, equal_nan=True)


def test_depth_looks_past_what_is_not_labelled():
    objects = np.zeros((1, 60), np.uint16)
    unknown = np.zeros((1, 60), np.bool_)
    objects[0, :10], unknown[0, 10:40] = 4, True
    ((_, inside, d),) = measure_depths(objects, unknown)
    assert d[inside].tolist() == list(range(40, 30, -1))


def test_depths_of_some_objects_only():
    objects = np.array([[1, 1, 0, 2, 0, 5]], np.uint16)
    done = [window for window, _, _ in measure_depths(objects, objects > 9, only={2, 5})]
    assert [columns.start for _, columns in done] == [3, 5]


def test_windows_are_widened_as_far_as_the_image_reaches():
    objects = np.zeros((20, 20), np.uint16)
    objects[3:5, 10:12] = 6
    assert list(iterate_windows(objects, 4)) == [(6, (slice(0, 9), slice(6, 16)))]
