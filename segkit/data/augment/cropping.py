"""Where crops are cut: anywhere, or so that they hold some of the foreground; and the cut itself.

Nothing here touches more of an image than its crop, so that images can lie in memory-mapped files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.labels import IGNORE_INDEX

Window = tuple[slice, slice]
"""Rows and columns of an image, or of one with a context around it."""
_COUNTERS = 2**22
"""How many counters are held at once."""


def cut_out(
    array: NDArray[Any], window: Window, context: int = 0, fill: int | None = None
) -> NDArray[Any]:
    """A window of an image or a map with a context of so many pixels at each border.

    Args:
        array: (H, W) or (H, W, C).
        window: Rows and columns of (H + 2 context, W + 2 context).
        context: Width of the context in pixels.
        fill: What is there; None: the image itself, mirrored, for any H and W.

    Returns:
        A copy, which may be written to.
    """
    height, width = array.shape[:2]
    rows, columns = (slice(s.start - context, s.stop - context) for s in window)
    if rows.start >= 0 and columns.start >= 0 and rows.stop <= height and columns.stop <= width:
        # not np.copy, which keeps the order of what it copies
        return np.array(array[rows, columns], order="C")
    if fill is None:
        return array[np.ix_(_mirrored(rows, height), _mirrored(columns, width))]
    shape = (rows.stop - rows.start, columns.stop - columns.start, *array.shape[2:])
    piece = np.full(shape, fill, array.dtype)
    (to_rows, of_rows), (to_columns, of_columns) = (
        _overlap(places, length) for places, length in ((rows, height), (columns, width))
    )
    piece[to_rows, to_columns] = array[of_rows, of_columns]
    return piece


def count_by_row(labels: NDArray[Any]) -> NDArray[np.int32]:
    """How many pixels of each value each row of a map has, to draw pixels without reading all.

    Args:
        labels: (H, W) classes or ids; (H, W, N) of 0 and 1, in which each layer is a class.

    Returns:
        (3, n): a value (or a layer), a row, and how many there are, at least one; ordered by value
        and row.
    """
    if labels.ndim == 3:
        layer, row = np.nonzero((counts := (labels == 1).sum(axis=1)).T)
        return np.stack([layer, row, counts[row, layer]]).astype(np.int32)
    values = int(labels.max(initial=0)) + 1
    height = max(1, _COUNTERS // values)
    parts = []
    for top in range(0, labels.shape[0], height):
        block = labels[top : top + height].astype(np.int64)
        block += values * np.arange(len(block))[:, None]
        row, value = divmod(np.flatnonzero(found := np.bincount(block.ravel())), values)
        parts.append(np.stack([value, row + top, found[found > 0]]))
    together = np.concatenate([np.zeros((3, 0), np.int64), *parts], axis=1)
    return together[:, np.lexsort(together[1::-1])].astype(np.int32)


def foreground_window(
    labels: NDArray[Any],
    size: tuple[int, int],
    margin: tuple[int, int],
    background: int | None,
    rng: np.random.Generator,
    context: int = 0,
    counts: NDArray[np.int32] | None = None,
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
        context: Pixels around the labels that the window may reach into, which hold no foreground.
        counts: The :func:`count_by_row` of the labels, where it is known: then one row of the
            labels is read, and the window is the same.

    Returns:
        The window, of (H + 2 context, W + 2 context), or None where there is no foreground.
    """
    if counts is None:
        position = _draw_pixel(labels, background, rng)
    else:
        position = _draw_counted(labels, counts, background, rng)
    if position is None:
        return None
    rows, columns = (
        _around(p + context, length + 2 * context, side, inner, rng)
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
    row, column = divmod(int(pixels[rng.integers(len(pixels))]), labels.shape[1])
    return row, column


def _draw_counted(
    labels: NDArray[Any],
    counts: NDArray[np.int32],
    background: int | None,
    rng: np.random.Generator,
) -> tuple[int, int] | None:
    """The same pixel as :func:`_draw_pixel`, found by the counts."""
    value, row, count = counts
    present = value[np.diff(value, prepend=-1) > 0]
    if labels.ndim == 2:
        present = present[(present != IGNORE_INDEX) & (present != background)]
    if not len(present):
        return None
    chosen = rng.choice(present)
    first, last = np.searchsorted(value, chosen), np.searchsorted(value, chosen, side="right")
    up_to = np.cumsum(count[first:last], dtype=np.int64)
    drawn = int(rng.integers(up_to[-1]))
    at = int(np.searchsorted(up_to, drawn, side="right"))
    before = int(up_to[at - 1]) if at else 0
    found = int(row[first + at])
    line = labels[found] == chosen if labels.ndim == 2 else labels[found, :, chosen] == 1
    return found, int(np.flatnonzero(line)[drawn - before])


def _overlap(places: slice, length: int) -> Window:
    """Where, of places inside and outside, those inside are; and which they are."""
    first, end = max(0, places.start), max(0, places.start, min(places.stop, length))
    return slice(first - places.start, end - places.start), slice(first, end)


def _mirrored(places: slice, length: int) -> NDArray[np.intp]:
    """The rows (or columns) that a mirror at both borders shows at places inside and outside."""
    beyond = np.arange(places.start, places.stop) % (2 * length)
    return np.minimum(beyond, 2 * length - 1 - beyond)


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
