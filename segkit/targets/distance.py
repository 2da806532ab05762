"""Exact Euclidean distances around and inside objects, computed in small windows.

All distances are in pixels, from centre to centre: a pixel beside a region is 1 away from it. What
lies beyond the image is unknown, so its border is no contour, and neither is a pixel that is not
labelled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Window = tuple[slice, slice]


def distance_to(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The distance of each pixel to the nearest pixel of a region, infinite where there is none.

    OpenCV computes it in float32 and is a few 1e-5 off. Squares of distances are integers, so that
    rounding them makes it the nearest float32 to the exact distance, up to 2000 pixels.

    Args:
        region: (H, W).

    Returns:
        (H, W).
    """
    away = cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if away.flat[0] > 1e9:  # what it gives for an empty region
        return np.full(region.shape, np.inf, np.float32)
    np.multiply(away, away, out=away)
    np.rint(away, out=away)
    return np.sqrt(away, out=away)


def disc(radius_squared: int) -> NDArray[np.uint8]:
    """Which pixels of a square are that near to its middle: 1 where dx^2 + dy^2 <= r^2."""
    reach = int(radius_squared**0.5)
    step = np.arange(-reach, reach + 1)
    return (step[:, None] ** 2 + step**2 <= radius_squared).astype(np.uint8)


def two_nearest(
    objects: NDArray[np.integer], reach: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The distances of each pixel to the nearest and to the second nearest object.

    The distance of a pixel to its own object is 0. Each object is looked at in its window only,
    widened by ``reach``, so that the time grows with the objects' areas, not with their number
    times the area of the image.

    Args:
        objects: (H, W) ids; 0 is no object.
        reach: Distances up to it are exact; a larger one may be infinite instead.

    Returns:
        d1 and d2, (H, W), infinite where there is no object, or no second one, within reach.
    """
    d1 = np.full(objects.shape, np.inf, np.float32)
    d2 = d1.copy()
    for number, window in windows(objects, int(np.ceil(reach))):
        d = distance_to(objects[window] == number)
        near, far = d1[window], d2[window]
        np.minimum(far, np.maximum(near, d), out=far)
        np.minimum(near, d, out=near)
    return d1, d2


def depths(
    objects: NDArray[np.integer],
    unknown: NDArray[np.bool_],
    only: Collection[int] | None = None,
) -> Iterator[tuple[Window, NDArray[np.bool_], NDArray[np.float32]]]:
    """How deep the pixels of each object lie in it.

    Args:
        objects: (H, W) ids; 0 is no object.
        unknown: (H, W) pixels that are not labelled: neither of an object nor its contour.
        only: The ids to do, all where it is None.

    Yields:
        For each object its window, which pixels of the window are its own, and the distance of
        these to the nearest pixel that is labelled and not its own: 1 at the contour, infinite if
        the whole map has no such pixel. What the distance is at other pixels means nothing.
    """
    shape, any_unknown = objects.shape, bool(unknown.any())
    for number, window in windows(objects, 0):
        if only is not None and number not in only:
            continue
        pad = 1  # the nearest pixel outside of an object touches it ...
        while True:
            wide = widened(window, pad, shape)
            d = distance_to((objects[wide] != number) & ~unknown[wide])
            seen_all = not any_unknown or d.shape == shape or not unknown[wide].any()
            top, left = (w.start - v.start for w, v in zip(window, wide, strict=True))
            inside = objects[window] == number
            d = d[top : top + inside.shape[0], left : left + inside.shape[1]]
            if seen_all or d[inside].max() <= pad:
                break
            pad *= 4  # ... unless that is not labelled
        yield window, inside, d


def windows(objects: NDArray[np.integer], reach: int) -> Iterator[tuple[int, Window]]:
    """Each object's id and the smallest window around it, widened by ``reach``, in the image."""
    for number, window in enumerate(ndimage.find_objects(objects), start=1):
        if window is not None:
            yield number, widened(window, reach, objects.shape)


def widened(window: Window, by: int, shape: tuple[int, ...]) -> Window:
    """A window that is larger by that many pixels on each side, as far as the image reaches."""
    rows, columns = window
    return (
        slice(max(0, rows.start - by), min(shape[0], rows.stop + by)),
        slice(max(0, columns.start - by), min(shape[1], columns.stop + by)),
    )
