"""Where a crop is cut so that it holds some of the foreground."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.targets import IGNORE_INDEX

Window = tuple[slice, slice]
"""Rows and columns."""


def foreground_window(
    labels: NDArray[Any],
    size: tuple[int, int],
    margin: tuple[int, int],
    background: int | None,
    rng: np.random.Generator,
) -> Window | None:
    """A random window that holds a pixel of the foreground.

    One of the classes that are present is drawn evenly, or in a map of ids one of the objects, so
    that a rare class comes as often as a frequent one; then one of its pixels, then a place of the
    window around the pixel.

    Args:
        labels: (H, W) classes or ids; (H, W, N) of 0 and 1, in which each layer is a class.
        size: Height and width of the window; it is cut to those of the labels.
        margin: How far inside the window the pixel lies at least, in rows and in columns; it is as
            far as the border of the labels allows.
        background: The label that is no foreground, None where each label is.
        rng: What to draw with.

    Returns:
        The window, or None where there is no foreground.
    """
    position = _draw_pixel(labels, background, rng)
    if position is None:
        return None
    rows, columns = (
        _around(p, length, side, inner, rng)
        for p, length, side, inner in zip(position, labels.shape[:2], size, margin, strict=True)
    )
    return rows, columns


def _draw_pixel(
    labels: NDArray[Any], background: int | None, rng: np.random.Generator
) -> tuple[int, int] | None:
    """Row and column of a pixel of a class that is drawn evenly among those present."""
    if labels.ndim == 3:
        present = np.flatnonzero((labels == 1).any(axis=(0, 1)))
    else:
        present = np.flatnonzero(np.bincount(labels.ravel()))
        present = present[(present != IGNORE_INDEX) & (present != background)]
    if not len(present):
        return None
    chosen = rng.choice(present)
    pixels = np.flatnonzero(labels == chosen if labels.ndim == 2 else labels[..., chosen] == 1)
    row, column = divmod(int(rng.choice(pixels)), labels.shape[1])
    return row, column


def _around(position: int, length: int, side: int, margin: int, rng: np.random.Generator) -> slice:
    """A random stretch of at most ``side`` that holds a position, inside ``length``."""
    if length <= side:
        return slice(0, length)
    first, last = max(0, position - side + 1 + margin), min(length - side, position - margin)
    if first > last:  # too near to the border for the margin
        start = 0 if position < length // 2 else length - side
    else:
        start = int(rng.integers(first, last + 1))
    return slice(start, start + side)
