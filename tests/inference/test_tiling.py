from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.inference.tiles.tiling import Windows, find_overlap, mirror_indices, plan_grid

WINDOWS = st.builds(
    lambda step, smallest, more: Windows(smallest + more * step, step, smallest),
    st.integers(1, 32),
    st.integers(1, 40),
    st.integers(0, 6),
)
OVERLAPS = st.floats(0, 0.95)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 700), WINDOWS, OVERLAPS)
def test_windows_cover_the_image_and_their_weights_sum_to_one(size, windows, overlap):
    for flips in (False, True):
        axis = plan_grid(size, 1, windows, overlap, flips).rows
        assert list(axis.starts) == sorted(axis.starts)
        total = np.zeros(size)
        for start, weights in zip(axis.starts, axis.weights, strict=True):
            assert (weights > 0).all()
            first, end = max(0, start), min(size, start + axis.window)
            total[first:end] += weights[first - start : end - start]
        np.testing.assert_allclose(total, 1, rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 700), WINDOWS, OVERLAPS)
def test_flipped_windows_are_those_of_the_mirrored_image(size, windows, overlap):
    straight = plan_grid(size, 1, windows, overlap).rows
    axis = plan_grid(size, 1, windows, overlap, flips=True).rows
    seen = [axis.find_pixels(number).tolist() for number in range(len(axis.starts))]
    mirrored = sorted([size - 1 - pixel for pixel in pixels] for pixels in seen)
    assert mirrored == sorted(seen)
    for number in range(len(straight.starts)):
        assert straight.find_pixels(number).tolist() in seen


@pytest.mark.parametrize(
    ("windows", "overlap", "found"),
    [
        (Windows(64, 32, 64), 0.25, 0.25),  # 0.5 in fact
        (Windows(64, 32, 64), 0.9, 0.5),
        (Windows(1024, 32, 64), 0.9, 0.9),
        (Windows(8, 32, 64), 0.6, 0.5),
        (Windows(224, 16, fixed=(224, 64)), 0.8, 0.75),
    ],
)
def test_the_overlap_that_is_possible(windows, overlap, found):
    assert find_overlap(windows, overlap) == pytest.approx(found)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 700), WINDOWS, OVERLAPS)
def test_windows_are_on_the_grid_and_overlap_by_as_much_as_asked(size, windows, overlap):
    axis = plan_grid(1, size, windows, overlap).columns
    assert axis.window <= windows.largest
    assert (axis.window - windows.smallest) % windows.step == 0
    assert all(start % windows.step == 0 for start in axis.starts)
    between = np.diff(axis.starts)
    assert (between > 0).all()
    # by less only where the step of the grid is longer
    assert (between <= max(windows.step, axis.window * (1 - overlap))).all()
    assert axis.starts[-1] < size


def test_as_few_tiles_as_do_and_these_as_small_as_they_may_be():
    windows = Windows(1024, 64, 64)
    small = plan_grid(7, 520, windows, 0.25)
    assert (small.rows.window, small.rows.starts) == (64, (0,))
    assert (small.columns.window, small.columns.starts) == (576, (0,))
    # 1500 pixels in two of 896 rather than in two of 1024
    axis = plan_grid(1500, 1, windows, 0.25).rows
    assert (axis.window, axis.starts) == (896, (0, 640))
    assert len(plan_grid(20_000, 1, windows, 0.25).rows.starts) == 26


def test_the_paper_s_tiles():
    """572 x 572 pixels are seen, 388 x 388 decided, 92 on each side mirrored or seen."""
    windows = Windows(388, 16, 4, 92)
    grid = plan_grid(388, 700, windows, 0)
    assert (grid.rows.window, grid.columns.window) == (388, 356)
    seen = grid.rows.find_pixels(0)
    assert len(seen) == 572
    assert seen[:93].tolist() == [*range(91, -1, -1), 0]
    assert seen[-93:].tolist() == [387, *range(387, 295, -1)]


def test_a_network_of_one_size_gets_that_size():
    grid = plan_grid(100, 500, Windows(224, 16, fixed=(224, 192)), 0.25)
    assert (grid.rows.window, grid.rows.starts) == (224, (0,))
    assert grid.columns.window == 192
    assert grid.columns.starts[-1] + 192 >= 500


def test_mirrored_indices():
    assert mirror_indices(-2, 5, 3).tolist() == [1, 0, 0, 1, 2, 2, 1]
    assert mirror_indices(-3, 4, 1).tolist() == [0] * 7


@pytest.mark.parametrize(("size", "fits"), [(1, 4), (4, 4), (5, 20), (388, 388), (389, 404)])
def test_the_smallest_window_that_holds_so_many_pixels(size, fits):
    assert Windows(1000, 16, 4, 92).fit(size) == fits
