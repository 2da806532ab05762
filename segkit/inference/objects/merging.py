"""Merge the objects of overlapping tiles into objects of the image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet
from skimage.measure import label

Ids = NDArray[np.int32]

SAME = 0.5
"""Intersection over union above which two pieces are one."""


class ObjectMerger:
    """The objects of an image, from those of its tiles.

    Where tiles overlap, both have seen the same pixels. A connected piece of an object there that
    covers the same as a piece of an object of the tiles before, with an intersection over union
    above one half, is of the same object. So an object may be larger than tiles, and bent: each
    of its pieces counts alone. A pixel belongs to the tile that has seen most around it.
    """

    def __init__(self, height: int, width: int) -> None:
        self._ids = np.zeros((height, width), np.int32)
        self._weights = np.zeros((height, width), np.float32)
        self._sets = DisjointSet([0])

    def add(self, top: int, left: int, objects: NDArray[Any], weights: NDArray[Any]) -> None:
        """Add a tile.

        Args:
            top, left: Where it begins; it may reach beyond the image on every side.
            objects: (h, w) numbers of its objects, 0: none.
            weights: (h, w) above 0, largest where most is seen around a pixel.
        """
        height, width = self._ids.shape
        rows = slice(max(0, -top), min(objects.shape[0], height - top))
        columns = slice(max(0, -left), min(objects.shape[1], width - left))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        objects, weights = objects[rows, columns], weights[rows, columns]
        place = (
            slice(top + rows.start, top + rows.stop),
            slice(left + columns.start, left + columns.stop),
        )
        before, seen = self._ids[place], self._weights[place]
        ids = self._number(objects)
        values, where = np.unique(before, return_inverse=True)
        # those that are known to be one already: a piece may lie in several of the tiles before
        known = np.array([self._sets[value] for value in values.tolist()], np.int32)[where]
        for one, other in _find_same(known.reshape(before.shape), ids, seen > 0):
            self._sets.merge(one, other)
        better = weights > seen
        before[better], seen[better] = ids[better], weights[better]

    def _number(self, objects: NDArray[Any]) -> Ids:
        """The objects of a tile with ids that no other tile has."""
        values, where = np.unique(objects, return_inverse=True)
        ids = np.zeros(len(values), np.int32)
        for number in np.flatnonzero(values > 0):  # not so of NaN, which a file may return
            ids[number] = len(self._sets)
            self._sets.add(int(ids[number]))
        return ids[where].reshape(objects.shape)

    def finish(self) -> Ids:
        """(H, W) ids 1, 2, ... in the order of their first pixels, 0 the background."""
        merged = np.arange(len(self._sets), dtype=np.int32)
        for ids in self._sets.subsets():
            merged[list(ids)] = min(ids)
        ids = merged[self._ids]
        values, first = np.unique(ids, return_index=True)
        found = np.zeros(len(merged), np.int32)
        ordered = values[np.argsort(first)]
        ordered = ordered[ordered > 0]
        found[ordered] = np.arange(1, len(ordered) + 1)
        return found[ids]


def _find_same(before: Ids, after: Ids, both: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pairs of ids before and after that are one object, by their pieces where both were seen."""
    if not both.any():
        return []
    one, other = (label(np.where(both, ids, 0), connectivity=1) for ids in (before, after))
    meet = (one > 0) & (other > 0)
    pairs, shared = np.unique(one[meet].astype(np.int64) << 32 | other[meet], return_counts=True)
    first, second = pairs >> 32, pairs & 0xFFFFFFFF
    areas = np.bincount(one.ravel())[first] + np.bincount(other.ravel())[second] - shared
    same = shared > SAME * areas
    ids_before = _take_first(one, before)
    ids_after = _take_first(other, after)
    return [
        (int(ids_before[a]), int(ids_after[b]))
        for a, b in zip(first[same], second[same], strict=True)
    ]


def _take_first(pieces: NDArray[Any], ids: Ids) -> Ids:
    """The id of each piece."""
    found = np.zeros(int(pieces.max(initial=0)) + 1, np.int32)
    found[pieces] = ids
    return found
