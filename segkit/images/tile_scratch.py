"""Pixels on their way into a file: written by windows in any order, taken out by tiles."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from segkit.images.raster import Array


class Tile(NamedTuple):
    """A square of one layer; at the lower and right border filled up with zeros."""

    layer: int
    top: int
    left: int
    values: Array  # (side, side)


class TileScratch:
    """Layers of pixels in a file that has no name and so is gone whatever happens to the program.

    A plain file and not a mapped one, whose pages would count as memory of the program. It is laid
    out in tiles, so that neither a window nor a tile needs more memory in a wider image.

    Args:
        folder: on the disk that is to hold it: as many bytes as the pixels have, not packed.
        shape: (N, H, W).
        dtype: of the pixels.
        side: of the tiles in pixels.

    Raises:
        OSError: from here and from every method, as where the disk is full.
    """

    def __init__(
        self, folder: Path, shape: tuple[int, int, int], dtype: np.dtype[Any], side: int
    ) -> None:
        self.shape, self.dtype, self.side = shape, dtype, side
        self._rows, self._columns = (-(-length // side) for length in shape[1:])
        self._bytes = side * side * dtype.itemsize
        self._lock = threading.Lock()
        # open for as long as this object is, see close()
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._file.truncate(shape[0] * self._rows * self._columns * self._bytes)

    def write(self, layer: int, top: int, left: int, block: Array) -> None:
        """Put a block (h, w) into a layer; it lies inside of the image."""
        side = self.side
        bottom, right = top + block.shape[0], left + block.shape[1]
        for y in range(top // side * side, bottom, side):
            for x in range(left // side * side, right, side):
                first_y, last_y = max(y, top), min(y + side, bottom)
                first_x, last_x = max(x, left), min(x + side, right)
                part = block[first_y - top : last_y - top, first_x - left : last_x - left]
                with self._lock:
                    if part.shape == (side, side):
                        self._put(layer, y, x, part.astype(self.dtype, order="C", copy=False))
                        continue
                    tile = self._get(layer, y, x)
                    tile[first_y - y : last_y - y, first_x - x : last_x - x] = part
                    self._put(layer, y, x, tile)

    def tiles(self) -> Iterator[Tile]:
        """All tiles, layer by layer, row by row."""
        for layer in range(self.shape[0]):
            for row in range(self._rows):
                for column in range(self._columns):
                    top, left = row * self.side, column * self.side
                    with self._lock:
                        values = self._get(layer, top, left)
                    yield Tile(layer, top, left, values)

    def close(self) -> None:
        """Give the space on the disk back."""
        self._file.close()

    def __enter__(self) -> TileScratch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _seek(self, layer: int, top: int, left: int) -> None:
        row, column = top // self.side, left // self.side
        self._file.seek(((layer * self._rows + row) * self._columns + column) * self._bytes)

    def _get(self, layer: int, top: int, left: int) -> Array:
        self._seek(layer, top, left)
        values = np.empty((self.side, self.side), self.dtype)
        rest = _bytes_of(values)
        while rest:
            count = self._file.readinto(rest)
            if not count:
                raise OSError("the scratch file is cut short")
            rest = rest[count:]
        return values

    def _put(self, layer: int, top: int, left: int, values: Array) -> None:
        self._seek(layer, top, left)
        rest = _bytes_of(values)
        while rest:
            rest = rest[self._file.write(rest) :]


def _bytes_of(values: Array) -> memoryview:
    return values.reshape(-1).view(np.uint8).data


class Uncovered:
    """The part of an image that no window has covered yet, as rectangles without overlap."""

    def __init__(self, height: int, width: int) -> None:
        self._rectangles = [(0, 0, height, width)]  # top, left, bottom, right

    def remove(self, top: int, left: int, bottom: int, right: int) -> None:
        """Take a window out."""
        rest = []
        for rectangle in self._rectangles:
            first_y, first_x, last_y, last_x = rectangle
            if top >= last_y or bottom <= first_y or left >= last_x or right <= first_x:
                rest.append(rectangle)
                continue
            upper, lower = max(first_y, top), min(last_y, bottom)
            pieces = [
                (first_y, first_x, upper, last_x),
                (upper, first_x, lower, left),
                (upper, right, lower, last_x),
                (lower, first_x, last_y, last_x),
            ]
            rest += [(t, x, b, r) for t, x, b, r in pieces if t < b and x < r]
        self._rectangles = rest

    def first(self) -> tuple[int, int, int, int] | None:
        """Top, left, bottom and right of one such rectangle."""
        return min(self._rectangles, default=None)
