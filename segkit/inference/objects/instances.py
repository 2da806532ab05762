"""Tell objects apart in a whole prediction: decoders, and operations on maps of object ids.

Each target has decoders that fit it; see :attr:`Target.decoders`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from segkit.config.settings import WAIST
from segkit.core.errors import SegkitError
from segkit.core.labels import Decoder, Mode
from segkit.targets.distance import make_disc, measure_distance
from segkit.targets.objects import label_regions

Ids = NDArray[np.int32]
Height = NDArray[np.float32]

BY_WAIST = ("watershed", "distance")
"""The decoders that cut objects at their waists."""


class Maps(NamedTuple):
    """The input of a decoder; see :func:`decode`."""

    probabilities: Height | None
    labels: NDArray[Any]
    ids: Ids | None
    waist: float
    min_size: int


def decode(
    name: Decoder,
    probabilities: Height | None,
    labels: NDArray[Any],
    mode: Mode,
    *,
    ids: Ids | None = None,
    gap: int = 0,
    min_size: int = 0,
    waist: float = WAIST,
    fill_holes: bool = False,
) -> Ids:
    """Tell objects apart in a prediction.

    - ``components``: the connected regions of each class but 0. For objects that do not touch, or
      with a gap drawn in training.
    - ``watershed``: the regions of ``components``, cut at their waists. Flooded from the maxima of
      the distance to the contour. For touching objects, with any target of one class.
    - ``border_core``: grown from the connected regions of class 1, the cores, over class 2, the
      borders. For the target ``border_core``.
    - ``distance``: flooded from the maxima of the normalized distance, the mean of the
      probabilities, over layer 0. For the target ``distance``.
    - ``queries``: those that the queries of the network have told apart. For the target
      ``objects``.

    Pixels are connected by edges, not by corners. A flooded region without a seed becomes an
    object.

    Args:
        name: The decoder.
        probabilities: (C, H, W) of the whole image; not needed for ``queries``.
        labels: The labels decided from them, (H, W); for a multilabel model (N, H, W).
        mode: The mode of the head.
        ids: For ``queries``: (H, W), from :class:`segkit.inference.objects.merging.ObjectMerger`.
        gap: Pixels between touching objects that training removed. Objects grow back over them,
            see :func:`close_gaps`.
        min_size: Objects of fewer pixels, counted after growing, are dropped. ``watershed``,
            ``border_core`` and ``distance`` join one that touches others to the one that it is
            least divided from: it is more often a wrong seed than an object. ``watershed`` also
            ignores smaller holes, which would turn a large maximum into many small ones.
        waist: For ``watershed`` and ``distance``: two parts are one object if the waist between
            them is at least this share as wide (as high, in the normalized distance) as the smaller
            part. Values near 1 cut more.
        fill_holes: Whether background enclosed by a single object joins it.

    Returns:
        (H, W) ids 1, 2, ... without gaps, 0 the background.

    Raises:
        SegkitError: The decoder is unknown, or does not fit such predictions.
    """
    _check(name, probabilities, labels, mode, ids)
    if not 0 < waist <= 1:
        raise SegkitError(f"waist is {waist}: give a share above 0, up to 1.")
    found = DECODERS[name](Maps(probabilities, labels, ids, waist, min_size))
    if gap > 0:
        found = close_gaps(found, gap)
    if fill_holes:
        found = close_holes(found)
    return renumber(found, min_size)


def _decode_components(maps: Maps) -> Ids:
    return label_regions(maps.labels)


def _decode_watershed(maps: Maps) -> Ids:
    found = np.zeros(maps.labels.shape, np.int32)
    for label in range(1, int(maps.labels.max(initial=0)) + 1):
        inside = maps.labels == label
        if inside.any():
            solid = close_holes(_label(inside), maps.min_size) > 0
            depth = measure_distance(~solid)
            depth[np.isinf(depth)] = 1  # the object fills the image
            regions = _flood(depth, inside, maps)
            found = np.where(inside, regions + found.max(), found)
    return found


def _decode_border_core(maps: Maps) -> Ids:
    assert maps.probabilities is not None
    inside, height = maps.labels > 0, maps.probabilities[1]
    regions = watershed(-height, _label(maps.labels == 1), mask=inside).astype(np.int32)
    coreless = _label(inside & (regions == 0))
    regions = np.where(coreless > 0, coreless + regions.max(), regions)
    return merge_small(regions, height, maps.min_size)


def _decode_distance(maps: Maps) -> Ids:
    assert maps.probabilities is not None
    return _flood(maps.probabilities.mean(0), maps.labels[0] > 0, maps)


def _decode_queries(maps: Maps) -> Ids:
    assert maps.ids is not None
    return maps.ids


def _flood(height: Height, inside: NDArray[np.bool_], maps: Maps) -> Ids:
    """Flood from the maxima, then merge regions that do not divide objects."""
    # Noise makes maxima of single pixels: they cost time, and waists between them mean nothing.
    height = np.where(inside, cv2.GaussianBlur(height, (0, 0), 1), 0)  # (H, W)
    ringed = np.pad(height, 1)  # lower than every maximum
    seeds = _label(local_maxima(ringed, connectivity=1)[1:-1, 1:-1])
    regions = watershed(-height, seeds, mask=inside).astype(np.int32)
    return merge_small(merge_waists(regions, height, maps.waist), height, maps.min_size)


def _label(inside: NDArray[np.bool_]) -> Ids:
    return label_regions(inside.astype(np.uint8))


DECODERS: dict[Decoder, Callable[[Maps], Ids]] = {
    "components": _decode_components,
    "watershed": _decode_watershed,
    "border_core": _decode_border_core,
    "distance": _decode_distance,
    "queries": _decode_queries,
}


def _check(
    name: str, probabilities: Height | None, labels: NDArray[Any], mode: Mode, ids: Ids | None
) -> None:
    if name not in DECODERS:
        raise SegkitError(f"instances is '{name}', which is not one of {', '.join(DECODERS)}.")
    if name == "queries":
        if ids is None or ids.shape != labels.shape:
            raise SegkitError(
                "instances=queries takes the objects that the network has told apart: train with"
                " target=objects and head=queries, or use another decoder."
            )
        return
    if probabilities is None:
        raise SegkitError(f"instances={name} finds objects in probabilities: give them too.")
    channels = len(probabilities)
    if name == "distance":
        if mode != "multilabel" or channels < 2:
            raise SegkitError(
                "instances=distance reads the layers of a normalized distance: train with"
                " target=distance and head=multilabel, or use another decoder."
            )
    elif mode == "multilabel":
        raise SegkitError(
            f"instances={name} needs one label for each pixel, not those of a multilabel head: use"
            " instances=distance for a model of target=distance."
        )
    elif name == "border_core" and (mode != "multiclass" or channels != 3):
        raise SegkitError(
            "instances=border_core reads the classes background, core and border: train with"
            " target=border_core and head=multiclass, or use instances=watershed."
        )
    expected = probabilities.shape if mode == "multilabel" else probabilities.shape[1:]
    if probabilities.ndim != 3 or labels.shape != expected:
        raise SegkitError(
            "probabilities (C, H, W) and the labels decided from them do not fit: they are"
            f" {probabilities.shape} and {labels.shape}."
        )


def merge_waists(regions: Ids, height: Height, waist: float) -> Ids:
    """Merge regions that are not divided by a real waist.

    Two regions meet at a saddle: the highest pass between them. With p the lower of their peaks,
    they are one object if saddle >= waist p. Saddles are taken from the highest to the lowest, so
    merged regions count with their highest peak. This equals flooding from h-maxima with h relative
    to the peak, so it does not depend on the size of objects.

    Args:
        regions: (H, W) ids, 0 the background.
        height: (H, W), above 0 in the regions.
        waist: Share of the lower peak, above 0, up to 1.
    """
    peak = np.zeros(int(regions.max(initial=0)) + 1, np.float32)
    np.maximum.at(peak, regions.ravel(), height.ravel())
    peaks = peak.tolist()
    sets = DisjointSet(range(len(peaks)))
    for saddle, a, b in _find_saddles(regions, height):
        one, two = sets[a], sets[b]
        if saddle >= waist * min(peaks[one], peaks[two]):
            sets.merge(one, two)
            peaks[sets[one]] = max(peaks[one], peaks[two])
    return _merge_sets(regions, sets)


def merge_small(regions: Ids, height: Height, min_size: int) -> Ids:
    """Merge regions of fewer than ``min_size`` pixels with the neighbour at the highest saddle.

    A small region without neighbours stays.
    """
    areas = np.bincount(regions.ravel()).tolist()
    if min(areas[1:], default=min_size) >= min_size:
        return regions
    sets = DisjointSet(range(len(areas)))
    for _, a, b in _find_saddles(regions, height):
        one, two = sets[a], sets[b]
        if min(areas[one], areas[two]) < min_size and sets.merge(one, two):
            areas[sets[one]] = areas[one] + areas[two]
    return _merge_sets(regions, sets)


def close_gaps(regions: Ids, gap: int) -> Ids:
    """Grow regions back over the narrow background between two of them.

    The pixels of a gap (see :func:`segkit.targets.distance.separate_objects`) lie between two
    regions: d1 + d2 is below gap + 2, with the distances to the nearest and to the second nearest
    of them. So do the notches at both ends of it; they differ in that a disc of the radius
    gap / 2 + 1 fits into them. Such pixels go to the nearest region, and to the larger of two at
    the same distance, because the middle of an odd gap was taken from it. Other contours stay.
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
    """Give background that a single region encloses to that region.

    Background that touches the border of the image or several regions stays, and so do holes of
    ``below`` pixels and more.
    """
    count, ground, stats, _ = cv2.connectedComponentsWithStats(
        (regions == 0).astype(np.uint8), connectivity=8
    )  # holes connect by corners, because objects connect by edges
    least = np.full(count, np.iinfo(np.int32).max, np.int32)
    most = np.zeros(count, np.int32)
    for (hole, region), (next_hole, next_region) in _pair_neighbours(ground, regions):
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


def renumber(regions: Ids, min_size: int = 0) -> Ids:
    """Renumber ids to 1, 2, ... in their order; regions of fewer pixels become background."""
    keep = np.bincount(regions.ravel(), minlength=1) >= max(1, min_size)
    keep[0] = False
    return (np.cumsum(keep) * keep)[regions].astype(np.int32)


def _find_saddles(regions: Ids, height: Height) -> Iterator[tuple[float, int, int]]:
    """Pairs of touching regions and their highest pass, (saddle, a, b), the highest first."""
    pairs, heights = [], []
    for (a, p), (b, q) in _pair_neighbours(regions, height):
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


def _pair_neighbours(
    *maps: NDArray[Any],
) -> Iterator[tuple[tuple[NDArray[Any], ...], tuple[NDArray[Any], ...]]]:
    """The maps at pixels and at their neighbours: to the right, then below."""
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        yield tuple(m[here] for m in maps), tuple(m[there] for m in maps)


def _merge_sets(regions: Ids, sets: DisjointSet) -> Ids:
    """Give the regions of a set the smallest of their ids."""
    merged = np.arange(len(sets), dtype=np.int32)
    for ids in sets.subsets():
        merged[list(ids)] = min(ids)
    return merged[regions]
