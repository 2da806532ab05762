"""Corners of outlines, from what annotation files contain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.data.labels.base import Polygon, Polygons, Ring

CORNERS = 128
"""Of the polygon that stands for an ellipse: it is 0.03 % of the radius inside at most."""

_LARGEST = 1e12


def read_coordinates(values: Any) -> Ring:
    """The corners of ``[x1, y1, x2, y2, ...]``.

    Raises:
        SegkitError: What is wrong with them, as the end of a sentence.
    """
    numbers = _read_numbers(values)
    if numbers.ndim != 1:
        raise SegkitError("its coordinates are not a list of numbers")
    if len(numbers) % 2:
        raise SegkitError(f"it has an odd number of coordinates ({len(numbers)})")
    return check_ring(numbers.reshape(-1, 2))


def read_points(values: Any) -> Ring:
    """The corners of ``[[x1, y1], [x2, y2], ...]``; a third coordinate is dropped.

    Raises:
        SegkitError: What is wrong with them, as the end of a sentence.
    """
    return check_ring(read_pairs(values))


def read_pairs(values: Any) -> Ring:
    """Any number of points ``[[x1, y1], [x2, y2], ...]``; raises as :func:`read_points`."""
    points = check_numbers(_read_numbers(values))
    if points.size == 0:
        return np.zeros((0, 2))
    if points.ndim != 2 or points.shape[1] < 2:
        raise SegkitError("its points are not pairs of numbers")
    return np.ascontiguousarray(points[:, :2])


def check_ring(ring: Ring) -> Ring:
    """Return the corners without a repeated first one at the end.

    Raises:
        SegkitError: There are less than three, or a coordinate is no usable number.
    """
    check_numbers(ring)
    if len(ring) > 1 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    if len(ring) < 3:
        points = "1 point" if len(ring) == 1 else f"{len(ring)} points"
        raise SegkitError(f"its outline has {points}, but a region needs 3")
    return np.ascontiguousarray(ring)


def check_numbers(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers that can be coordinates.

    Raises:
        SegkitError: One is not finite, or so large that areas overflow.
    """
    if not np.isfinite(numbers).all():
        raise SegkitError("a coordinate is NaN or infinite")
    if numbers.size and np.abs(numbers).max() > _LARGEST:
        raise SegkitError(f"a coordinate is larger than {_LARGEST:.0e}")
    return numbers


def make_box(left: float, top: float, right: float, bottom: float) -> Ring:
    """The corners of a rectangle."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return check_ring(np.array(corners, np.float64))


def make_ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Ring:
    """Corners on an ellipse around a point."""
    check_numbers(np.array([x, y, radius_x, radius_y]))
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    corners = np.column_stack((x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)))
    return check_ring(corners)


def rotate_ring(ring: Ring, degrees: float, x: float, y: float) -> Ring:
    """Turn corners around a point, clockwise as the image is seen (y points down)."""
    if not degrees:
        return ring
    if not np.isfinite(degrees):
        raise SegkitError("its rotation is no number")
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    center = np.array([x, y])
    return check_ring((ring - center) @ matrix.T + center)


def fill_ring(ring: Ring) -> Polygons:
    """The region inside one outline."""
    return Polygons((Polygon(ring),))


def clip_ring(ring: Ring, low: tuple[float, float], high: tuple[float, float]) -> Ring:
    """The part of an outline inside a rectangle; edges along its border join what falls apart.

    Sutherland and Hodgman (1974), https://doi.org/10.1145/360767.360802
    """
    for axis in (0, 1):
        for bound, sign in ((low[axis], 1.0), (high[axis], -1.0)):
            if not len(ring):
                return ring
            inside = sign * (ring[:, axis] - bound) >= 0
            corners = []
            for here, there, is_in, was_in in zip(
                ring, np.roll(ring, 1, axis=0), inside, np.roll(inside, 1), strict=True
            ):
                if is_in != was_in:
                    share = (bound - there[axis]) / (here[axis] - there[axis])
                    corners.append(there + share * (here - there))
                if is_in:
                    corners.append(here)
            ring = np.array(corners).reshape(-1, 2)
    return ring


def _read_numbers(values: Any) -> NDArray[np.float64]:
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise SegkitError("its coordinates are not a list of numbers") from None
