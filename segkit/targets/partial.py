"""Images in which all objects are marked but only some are outlined."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Ids = NDArray[np.integer[Any]]
"""Outlined objects or markers, (H, W); 0 is none."""

_EIGHT = np.ones((3, 3), np.int8)
"""Pixels that share a corner are neighbours too."""


def find_unoutlined_markers(ids: Ids, markers: Ids) -> NDArray[np.bool_]:
    """The markers, (H, W), without an outline: at most half of such a marker lies on objects."""
    inverse, alone = _match_markers(ids, markers)
    return alone[inverse]


def measure_reach(ids: Ids, markers: Ids) -> float | None:
    """The largest distance in pixels of any object's pixel from the object's marker.

    The marker of an object is the one with most pixels on it; objects without any are left out.

    Returns:
        0 if markers are as large as their objects, None if no outlined object has one.
    """
    inverse, alone = _match_markers(ids, markers)
    owned = np.where(alone[inverse], 0, markers)
    _, compact = np.unique(np.append(0, ids.ravel()), return_inverse=True)
    objects = compact[1:].reshape(ids.shape).astype(np.int32)
    farthest: float | None = None
    for number, box in enumerate(ndimage.find_objects(objects), start=1):
        inside = objects[box] == number
        names, counts = np.unique(owned[box][inside & (owned[box] != 0)], return_counts=True)
        if len(names):
            marker = inside & (owned[box] == names[counts.argmax()])
            distance = ndimage.distance_transform_edt(~marker)
            farthest = max(farthest or 0.0, float(distance[inside].max()))
    return farthest


def find_uncertain_pixels(ids: Ids, alone: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """The pixels, (H, W), that may belong to an object that is marked but not outlined.

    They belong to no outlined object, are at most ``radius`` from such a marker, and connected to
    it: an object is in one piece and does not run through another.

    ``alone`` are the markers of :func:`find_unoutlined_markers`; ``radius`` is infinite if unknown.
    """
    if not alone.any():
        return np.zeros_like(alone)
    zone = ids == 0
    if np.isfinite(radius):
        zone &= ndimage.distance_transform_edt(~alone) <= radius
    pieces, _ = ndimage.label(zone, _EIGHT)
    near: NDArray[np.bool_] = zone & np.isin(pieces, np.unique(pieces[alone & zone]))
    return near


def _match_markers(ids: Ids, markers: Ids) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The index of the marker at each pixel, and which of the markers have no outline."""
    names, inverse = np.unique(markers, return_inverse=True)
    inverse = inverse.reshape(markers.shape)  # numpy 2.0 alone keeps the shape
    pixels = np.bincount(inverse.ravel(), minlength=len(names))
    covered = np.bincount(inverse[ids != 0], minlength=len(names))
    return inverse, (names != 0) & (2 * covered <= pixels)
