"""Exact Euclidean distances around and inside objects, and gaps between touching objects.

All distances are in pixels, from centre to centre: a pixel beside a region is 1 away from it. What
lies beyond the image is unknown, so neither its border nor an unlabelled pixel is a contour.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Window = tuple[slice, slice]


def measure_distance(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The distance of each pixel (H, W) to the nearest pixel of a region, infinite without one.

    OpenCV's float32 result is a few 1e-5 off. Squared distances are integers: rounding them gives
    the float32 nearest to the exact distance, up to 2000 pixels.
    """
    away = cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if away.flat[0] > 1e9:  # its result for an empty region
        return np.full(region.shape, np.inf, np.float32)
    np.multiply(away, away, out=away)
    np.rint(away, out=away)
    return np.sqrt(away, out=away)


def make_disc(radius_squared: int) -> NDArray[np.uint8]:
    """A disc as a square mask: 1 where dx^2 + dy^2 <= r^2."""
    reach = int(radius_squared**0.5)
    step = np.arange(-reach, reach + 1)
    return (step[:, None] ** 2 + step**2 <= radius_squared).astype(np.uint8)


def measure_two_nearest(
    objects: NDArray[np.integer], reach: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The distances of each pixel to the nearest and to the second nearest object.

    The distance of a pixel to its own object is 0. Each object is measured only in its window,
    widened by ``reach``: the time grows with the areas of the objects, not with their number times
    the area of the image.

    Args:
        objects: (H, W) ids; 0 is no object.
        reach: Distances up to it are exact; larger ones may be infinite instead.

    Returns:
        d1 and d2, (H, W), infinite where no (second) object is within reach.
    """
    d1 = np.full(objects.shape, np.inf, np.float32)
    d2 = d1.copy()
    for number, window in iterate_windows(objects, int(np.ceil(reach))):
        d = measure_distance(objects[window] == number)
        near, far = d1[window], d2[window]
        np.minimum(far, np.maximum(near, d), out=far)
        np.minimum(near, d, out=near)
    return d1, d2


def measure_depths(
    objects: NDArray[np.integer], unknown: NDArray[np.bool_]
) -> Iterator[tuple[Window, NDArray[np.bool_], NDArray[np.float32]]]:
    """Measure how deep the pixels of each object lie inside it.

    Pixels that are ``unknown`` are neither part of an object nor its contour.

    Yields:
        For each object its window, which pixels of the window belong to it, and the distance of
        these to the nearest labelled pixel that does not: 1 at the contour, infinite if the map has
        no such pixel. Distances at other pixels are undefined.
    """
    shape, any_unknown = objects.shape, bool(unknown.any())
    for number, window in iterate_windows(objects, 0):
        pad = 1  # the nearest pixel outside an object touches it ...
        while True:
            wide = widen_window(window, pad, shape)
            d = measure_distance((objects[wide] != number) & ~unknown[wide])
            seen_all = not any_unknown or d.shape == shape or not unknown[wide].any()
            top, left = (w.start - v.start for w, v in zip(window, wide, strict=True))
            inside = objects[window] == number
            d = d[top : top + inside.shape[0], left : left + inside.shape[1]]
            if seen_all or d[inside].max() <= pad:
                break
            pad *= 4  # ... unless that is unlabelled
        yield window, inside, d


def iterate_windows(objects: NDArray[np.integer], reach: int) -> Iterator[tuple[int, Window]]:
    """Yield each id and the smallest window around its object, widened by ``reach``."""
    for number, window in enumerate(ndimage.find_objects(objects), start=1):
        if window is not None:
            yield number, widen_window(window, reach, objects.shape)


def widen_window(window: Window, by: int, shape: tuple[int, ...]) -> Window:
    """Widen a window by that many pixels on each side, within the image."""
    rows, columns = window
    return (
        slice(max(0, rows.start - by), min(shape[0], rows.stop + by)),
        slice(max(0, columns.start - by), min(shape[1], columns.stop + by)),
    )


def separate_objects(objects: NDArray[np.uint16], gap: int) -> NDArray[np.uint16]:
    """Remove pixels of objects until any two objects are ``gap`` pixels apart.

    Afterwards the centres of pixels of different objects are at least gap + 1 apart, so that
    ``gap`` pixels fit between: with gap 1 no two objects touch, not even at a corner. Only pixels
    that are closer than that to another object are removed; contours towards the background and
    towards unlabelled pixels stay.

    The gap grows in rounds r = 1 ... gap. In round r a pixel is removed if a pixel of an object
    with precedence is closer than r + 1: the smaller object in odd rounds, the larger one in even
    rounds (among equals the smaller id). So of two touching objects the larger one loses the pixels
    of a gap of 1, and each loses one pixel to a gap of 2. Rotating or mirroring the map rotates or
    mirrors the result.

    An object that would lose its last pixel in a round gets precedence over those that would not.
    It is lost only if objects that would all be lost are that close to each other; the first of
    them in the round's order stays.

    Args:
        objects: (H, W) ids; 0 is no object.
        gap: Pixels, 0 or more.

    Returns:
        (H, W) ids, 0 at removed pixels.
    """
    areas = np.bincount(objects.ravel())
    present = 1 + np.flatnonzero(areas[1:])
    if len(present) < 2:
        return objects
    order = present[np.lexsort((present, areas[present]))]  # by area, then by id
    for reach in range(1, gap + 1):
        objects = _widen_gap(objects, order if reach % 2 else order[::-1], reach)
    return objects


def _widen_gap(
    objects: NDArray[np.uint16], order: NDArray[np.intp], reach: int
) -> NDArray[np.uint16]:
    """Make a gap of ``reach`` pixels; of two objects the later one in the order loses pixels."""
    near = make_disc((reach + 1) ** 2 - 1)
    last = int(order.max())
    before = np.bincount(objects.ravel(), minlength=last + 1) > 0
    first = np.zeros(last + 1, np.bool_)  # objects to keep
    while True:
        precedence = np.full(last + 1, 2**16 - 1, np.uint16)  # of the background: none
        ordered = np.concatenate([order[first[order]], order[~first[order]]])
        precedence[ordered] = np.arange(len(ordered))
        own = precedence[objects]
        kept = np.where(cv2.erode(own, near) < own, 0, objects)
        lost = before & (np.bincount(kept.ravel(), minlength=last + 1) == 0)
        lost[0] = False
        if not (lost & ~first).any():
            return kept
        first |= lost
