"""A gap between touching objects, so that a map of foreground tells them apart."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.targets.distance import disc

_NONE = 2**16 - 1  # the precedence of what is no object


def separate(objects: NDArray[np.uint16], gap: int) -> NDArray[np.uint16]:
    """Take pixels off objects until any two of them are ``gap`` pixels apart.

    Afterwards the centres of two pixels of different objects are at least gap + 1 apart, so that
    ``gap`` pixels fit between: with gap 1 no two objects touch, not even by a corner; with gap 0
    nothing changes. Only pixels that are nearer than that to another object are taken: contours
    towards the background stay, and so do those at pixels that are not labelled.

    The gap grows in rounds r = 1 ... gap. In round r a pixel goes if a pixel of another object is
    nearer than r + 1 to it and that object comes first: the smaller one in odd rounds, the larger
    one in even rounds (of equal ones that with the smaller id). So of two touching objects the
    larger one gives the pixels of a gap of 1, and each gives one of a gap of 2. Turning or
    mirroring the map turns or mirrors the result.

    An object that would lose its last pixel in a round comes before those that would not, so that
    they make room instead. It is only lost where objects that would all be lost are that near to
    each other; the first of them, in the round's order, stays.

    Args:
        objects: (H, W) ids; 0 is no object.
        gap: Pixels, 0 or more.

    Returns:
        (H, W) ids, those that were taken 0.
    """
    areas = np.bincount(objects.ravel())
    present = 1 + np.flatnonzero(areas[1:])
    if len(present) < 2:
        return objects
    order = present[np.lexsort((present, areas[present]))]  # by area, then by id
    for reach in range(1, gap + 1):
        objects = _round(objects, order if reach % 2 else order[::-1], reach)
    return objects


def _round(objects: NDArray[np.uint16], order: NDArray[np.intp], reach: int) -> NDArray[np.uint16]:
    """Make room of ``reach`` pixels; of two objects that which comes later in the order gives."""
    near = disc((reach + 1) ** 2 - 1)
    last = int(order.max())
    before = np.bincount(objects.ravel(), minlength=last + 1) > 0
    first = np.zeros(last + 1, np.bool_)  # those that are not to be lost
    while True:
        precedence = np.full(last + 1, _NONE, np.uint16)
        ordered = np.concatenate([order[first[order]], order[~first[order]]])
        precedence[ordered] = np.arange(len(ordered))
        own = precedence[objects]
        kept = np.where(cv2.erode(own, near) < own, 0, objects)
        lost = before & (np.bincount(kept.ravel(), minlength=last + 1) == 0)
        lost[0] = False
        if not (lost & ~first).any():
            return kept
        first |= lost
