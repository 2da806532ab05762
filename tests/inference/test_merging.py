"""Objects of tiles become objects of the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.measure import label

from segkit.inference.objects.merging import ObjectMerger
from segkit.inference.tiles.tiling import Windows, plan_grid
from segkit.targets.objects import label_regions


def merge_tiles(truth, side: int, overlap: float = 0.25, seed: int = 0, flips: bool = False):
    """Cut a map of ids into tiles, number the objects of each anew, and merge them."""
    rng = np.random.default_rng(seed)
    rows, columns = plan_grid(*truth.shape, Windows(side, 1, 1), overlap, flips)
    merger = ObjectMerger(*truth.shape)
    for i, top in enumerate(rows.starts):
        for j, left in enumerate(columns.starts):
            tile = np.zeros((rows.window, columns.window), truth.dtype)
            part = truth[max(0, top) :, max(0, left) :][: rows.window, : columns.window]
            tile[: part.shape[0], : part.shape[1]] = part
            values = np.unique(tile)
            numbers = 1 + rng.permutation(len(values))
            numbers[values == 0] = 0
            numbered = numbers[np.searchsorted(values, tile)]
            weights = rows.weights[i][:, None] * columns.weights[j]
            merger.add(top, left, numbered.astype(np.float32), weights)
    return merger.finish()


def are_same(one, other) -> bool:
    """Whether two maps of ids hold the same objects."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(pairs[0]) == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))


def draw_large_objects() -> np.ndarray:
    """A ring, a U and its mirror image, a snake and dots, all but the dots larger than a tile."""
    y, x = np.mgrid[:200, :200]
    ids = np.zeros((200, 200), np.int32)
    radius = np.hypot(y - 60, x - 60)
    ids[(radius > 35) & (radius < 50)] = 1
    ids[120:190, 10:16] = ids[120:190, 60:66] = ids[184:190, 10:66] = 2
    ids[120:190, 80:86] = ids[120:190, 120:126] = ids[120:126, 80:126] = 3
    ids[10:190:20, 140:190] = ids[10:191, 140:144] = 4
    for number, row in enumerate(range(125, 180, 9)):
        ids[row : row + 4, 35:40] = 10 + number
    return ids


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("side", [32, 48, 64, 200, 256])
def test_objects_larger_than_the_overlap_stay_whole(side, flips):
    truth = draw_large_objects()
    found = merge_tiles(truth, side, flips=flips)
    assert are_same(truth, found)
    assert found.max() == len(np.unique(truth)) - 1
    assert found.dtype == np.int32


@given(seed=st.integers(0, 200), side=st.integers(12, 40), overlap=st.sampled_from([0.25, 0.5]))
def test_objects_that_touch_stay_apart(seed, side, overlap):
    """Cells that fill the image: nothing but their numbers tells them apart."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 60, (12, 2))
    y, x = np.mgrid[:50, :60]
    truth = 1 + np.hypot(y[..., None] - points[:, 0], x[..., None] - points[:, 1]).argmin(-1)
    truth[:, 30] = 0
    truth = label(truth, connectivity=1).astype(np.int32)
    assert are_same(truth, merge_tiles(truth, side, overlap, seed))


def test_a_wrong_object_at_the_border_of_a_tile_joins_nothing():
    """A tile that takes two cells, cut by its border, for one does not merge them."""
    merger = ObjectMerger(10, 30)
    left, right = np.zeros((10, 20), np.float32), np.zeros((10, 20), np.float32)
    left[2:8, 15:20] = 1
    right[2:5, 5:15], right[5:8, 5:15] = 1, 2
    falling = np.linspace(1, 0.1, 20)[None].repeat(10, 0)
    merger.add(0, 0, left, falling)
    merger.add(0, 10, right, falling[:, ::-1])
    found = merger.finish()
    assert found[3, 22] != found[6, 22]
    assert 0 not in (found[3, 22], found[6, 22])


def test_numbers_follow_the_rows_and_begin_at_1():
    merger = ObjectMerger(2, 6)
    merger.add(0, 0, np.float32([[0, 9, 0, 4, 4, 0], [7, 0, 0, 0, 0, 0]]), np.ones((2, 6)))
    assert merger.finish().tolist() == [[0, 1, 0, 2, 2, 0], [3, 0, 0, 0, 0, 0]]
    assert ObjectMerger(3, 2).finish().tolist() == [[0, 0]] * 3


def test_any_numbers_are_taken():
    """Of a file that returns what it likes."""
    merger = ObjectMerger(1, 6)
    merger.add(0, 0, np.float32([[1e30, np.nan, -5, np.inf, 0.5, 1e30]]), np.ones((1, 6)))
    assert merger.finish().tolist() == [[1, 0, 0, 2, 3, 1]]


def test_a_tile_may_reach_beyond_the_image():
    truth = label_regions(np.eye(4, dtype=np.uint8))
    merger, tile = ObjectMerger(4, 4), np.zeros((9, 9))
    tile[2:6, 3:7] = truth
    merger.add(-2, -3, tile, np.ones((9, 9)))
    merger.add(5, 0, np.ones((9, 9)), np.ones((9, 9)))
    assert are_same(truth, merger.finish())
