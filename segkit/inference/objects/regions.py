"""Regions of a flooded map: joining those that are one object, numbering those that stay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.targets.distance import make_disc

Ids = NDArray[np.int32]
Height = NDArray[np.float32]


def merge_waists(regions: Ids, height: Height, waist: float) -> Ids:
    """Join regions that no real waist divides.

    Two regions meet at a saddle: the highest pass from one to the other. With p the lower one of
    their peaks, they are one object where saddle >= waist p. Saddles are taken from the highest to
    the lowest, so that what was joined counts with its highest peak: it is what a flooding from
    h-maxima gives, with h relative to the peak and so for any size of objects.

    Args:
        regions: (H, W) ids, 0 the background.
        height: (H, W), above 0 in the regions.
        waist: Share of the lower peak, above 0, up to 1.

    Returns:
        (H, W) ids of the joined regions: those of one of their parts.
    """
    peak = np.zeros(int(regions.max(initial=0)) + 1, np.float32)
    np.maximum.at(peak, regions.ravel(), height.ravel())
    peaks = peak.tolist()
    union = _Union(len(peaks))
    for saddle, a, b in _saddles(regions, height):
        one, two = union.root(a), union.root(b)
        if saddle >= waist * min(peaks[one], peaks[two]):
            peaks[union.join(one, two)] = max(peaks[one], peaks[two])
    return union.roots()[regions]


def merge_small(regions: Ids, height: Height, min_size: int) -> Ids:
    """Join regions of fewer than ``min_size`` pixels with the neighbour at the highest saddle.

    Args:
        regions: (H, W) ids, 0 the background.
        height: (H, W).
        min_size: Pixels. Where a small region has no neighbour it stays small.

    Returns:
        (H, W) ids of the joined regions: those of one of their parts.
    """
    areas = np.bincount(regions.ravel()).tolist()
    if min(areas[1:], default=min_size) >= min_size:
        return regions
    union = _Union(len(areas))
    for _, a, b in _saddles(regions, height):
        one, two = union.root(a), union.root(b)
        if one != two and min(areas[one], areas[two]) < min_size:
            areas[union.join(one, two)] = areas[one] + areas[two]
    return union.roots()[regions]


def close_gaps(regions: Ids, gap: int) -> Ids:
    """Grow regions back over the narrow background between two of them.

    The pixels of a gap (see :func:`segkit.targets.distance.separate_objects`) lie between two
    regions: d1 + d2 is below gap + 2, with the distances to the nearest and to the second nearest
    of them. So do the notches at both ends of it; they differ in that a disc of the radius
    gap / 2 + 1 has room in them. Such pixels of the background go to the nearest region, and of two
    that are as near to the larger one, from which the middle of an odd gap was taken. Other
    contours stay.

    Args:
        regions: (H, W) ids, 0 the background.
        gap: Pixels, above 0.
    """
    narrow = cv2.morphologyEx(
        (regions > 0).astype(np.uint8), cv2.MORPH_CLOSE, make_disc((gap + 2) ** 2 // 4)
    )
    y, x = np.nonzero((narrow > 0) & (regions == 0))  # (n,)
    areas = np.bincount(regions.ravel())
    size = np.argsort(np.lexsort((np.arange(len(areas)), areas)))  # the rank of each area
    nearest = np.zeros(len(y), np.int32)
    d1 = np.full(len(y), np.inf)
    d2 = np.full(len(y), np.inf)
    reach = gap + 1
    around = np.pad(regions, reach)
    dy, dx = np.nonzero(make_disc(reach**2))
    steps = np.hypot(dy - reach, dx - reach)
    for i in np.argsort(steps, kind="stable"):
        there = around[y + dy[i], x + dx[i]]
        other = (there > 0) & (there != nearest)
        first = other & (nearest == 0)
        d1[first] = steps[i]
        d2[other & ~first] = np.minimum(d2[other & ~first], steps[i])
        larger = other & (d1 == steps[i]) & (size[there] > size[nearest])
        nearest = np.where(first | larger, there, nearest)
    between = d1 + d2 < gap + 2
    grown = regions.copy()
    grown[y[between], x[between]] = nearest[between]
    return grown


def close_holes(regions: Ids, below: float = math.inf) -> Ids:
    """Give background that a single region encloses to this region.

    Background that reaches the border of the image, or lies between several regions, stays.

    Args:
        regions: (H, W) ids, 0 the background.
        below: Only holes of fewer pixels.
    """
    count, ground, stats, _ = cv2.connectedComponentsWithStats(
        (regions == 0).astype(np.uint8), connectivity=8
    )  # by corners too, for objects are connected by edges
    least = np.full(count, np.iinfo(np.int32).max, np.int32)
    most = np.zeros(count, np.int32)
    for (hole, region), (next_hole, next_region) in _neighbours(ground, regions):
        for one, two in ((hole, next_region), (next_hole, region)):
            beside = (one > 0) & (two > 0)
            np.minimum.at(least, one[beside], two[beside])
            np.maximum.at(most, one[beside], two[beside])
    H, W = regions.shape
    left, top, width, height, area = stats.T
    enclosed = (area < below) & (left > 0) & (top > 0) & (left + width < W) & (top + height < H)
    owner = np.where(enclosed & (least == most), most, 0)
    owner[0] = 0
    return np.where(ground > 0, owner[ground], regions)


def renumbered(regions: Ids, min_size: int = 0) -> Ids:
    """Ids 1, 2, ... without gaps, in the order of the old ones.

    Args:
        regions: (H, W) ids, 0 the background.
        min_size: Regions of fewer pixels become background.
    """
    keep = np.bincount(regions.ravel(), minlength=1) >= max(1, min_size)
    keep[0] = False
    return (np.cumsum(keep) * keep)[regions].astype(np.int32)


def _saddles(regions: Ids, height: Height) -> Iterator[tuple[float, int, int]]:
    """The regions that meet and the height where they do, (saddle, a, b), the highest first."""
    pairs, heights = [], []
    for (a, p), (b, q) in _neighbours(regions, height):
        meet = (a != b) & (a > 0) & (b > 0)
        low, high = np.minimum(a[meet], b[meet]), np.maximum(a[meet], b[meet])
        pairs.append(low.astype(np.int64) << 32 | high)
        heights.append(np.minimum(p[meet], q[meet]))
    pair, saddle = np.concatenate(pairs), np.concatenate(heights)
    order = np.lexsort((pair, -saddle))
    _, first = np.unique(pair[order], return_index=True)  # the highest point of each pair
    order = order[np.sort(first)]
    low, high = pair[order] >> 32, pair[order] & 0xFFFFFFFF
    return zip(saddle[order].tolist(), low.tolist(), high.tolist(), strict=True)


def _neighbours(
    *maps: NDArray[Any],
) -> Iterator[tuple[tuple[NDArray[Any], ...], tuple[NDArray[Any], ...]]]:
    """The maps at pixels, and at their neighbours: those to the right, then those below."""
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        yield tuple(m[here] for m in maps), tuple(m[there] for m in maps)


class _Union:
    """Sets of regions that are one (union-find); the smallest id of a set is its root."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, region: int) -> int:
        """The id that stands for the set of a region."""
        parent = self._parent
        while parent[region] != region:
            parent[region] = parent[parent[region]]
            region = parent[region]
        return region

    def join(self, one: int, two: int) -> int:
        """Make one set of those of two roots; its root."""
        low, high = min(one, two), max(one, two)
        self._parent[high] = low
        return low

    def roots(self) -> Ids:
        """The root of every region."""
        return np.array([self.root(region) for region in range(len(self._parent))], np.int32)
