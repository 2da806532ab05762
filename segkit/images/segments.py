"""Parts of pictures that lie on the disk in rows, tiles or strips, without the rest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segkit.images.raster import Array

MOST_KEPT = 256 * 2**20
"""Bytes of unpacked segments that one image keeps at most."""


class Plane(Protocol):
    """Some channels of a picture, of which windows can be had."""

    def window(self, top: int, left: int, height: int, width: int) -> Array:
        """(height, width, C) as stored; the window lies inside of the picture."""


class StoredFile:
    """A file that several threads read from."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer of bytes from here on.

        Raises:
            ValueError: The file ends before.
        """
        with self._lock:
            self._file.seek(offset)
            while buffer:
                count = self._file.readinto(buffer)
                if not count:
                    raise ValueError("it is cut short")
                buffer = buffer[count:]

    def read(self, offset: int, count: int) -> bytes:
        """So many bytes from here on."""
        data = bytearray(count)
        self.read_into(memoryview(data), offset)
        return bytes(data)

    def close(self) -> None:
        """No window can be read afterwards."""
        self._file.close()


class Rows:
    """Pixels that lie on the disk row after row, and not packed."""

    def __init__(
        self, file: StoredFile, offset: int, shape: tuple[int, int, int], dtype: np.dtype[Any]
    ) -> None:
        self._file, self._offset, self._dtype = file, offset, dtype
        _, self._width, self._channels = shape

    def window(self, top: int, left: int, height: int, width: int) -> Array:
        """(height, width, C) as stored."""
        values = np.empty((height, width, self._channels), self._dtype)
        pixel = self._dtype.itemsize * self._channels
        start = self._offset + (top * self._width + left) * pixel
        buffer = values.reshape(-1).view(np.uint8).data
        if width == self._width:
            self._file.read_into(buffer, start)
        else:
            row = width * pixel
            for y in range(height):
                at = start + y * self._width * pixel
                self._file.read_into(buffer[y * row : (y + 1) * row], at)
        return values


class Segments:
    """Tiles or strips, each packed by itself.

    Those of the last window are kept, because the next one mostly lies beside it. So the memory is
    that of the windows; it grows with the picture only where segments reach across its whole width.

    Args:
        shape: (H, W, C) of the picture.
        segment: the height and width of a segment; those at the lower and right border may be cut.
        dtype: of the pixels.
        unpack: the segment of a row and a column of the grid, (h, w, C).
        most: bytes of unpacked segments to keep at most.
        unpack_many: the segments of rows and columns in one array, where that is faster.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        segment: tuple[int, int],
        dtype: np.dtype[Any],
        unpack: Callable[[int, int], Array],
        most: int = MOST_KEPT,
        unpack_many: Callable[[range, range], Array] | None = None,
    ) -> None:
        self._shape, self._segment, self._dtype = shape, segment, dtype
        self._unpack, self._most, self._unpack_many = unpack, most, unpack_many
        self._kept: OrderedDict[tuple[int, int], Array] = OrderedDict()
        self._size = 0  # bytes of what is kept
        self._lock = threading.Lock()

    def window(self, top: int, left: int, height: int, width: int) -> Array:
        """(height, width, C) as stored."""
        h, w = self._segment
        values = np.empty((height, width, self._shape[2]), self._dtype)
        rows = range(top // h, (top + height - 1) // h + 1)
        columns = range(left // w, (left + width - 1) // w + 1)
        count = len(rows) * len(columns)
        self._unpack_ahead(rows, columns)
        for row in rows:
            for column in columns:
                y, x = row * h, column * w
                first_y, last_y = max(top, y), min(top + height, y + h)
                first_x, last_x = max(left, x), min(left + width, x + w)
                segment = self._get(row, column, count)
                values[first_y - top : last_y - top, first_x - left : last_x - left] = segment[
                    first_y - y : last_y - y, first_x - x : last_x - x
                ]
        return values

    def _unpack_ahead(self, rows: range, columns: range) -> None:
        """Unpack what a window lacks in one go, where that is possible and not too much."""
        if self._unpack_many is None:
            return
        lacking = []
        with self._lock:
            for place in product(rows, columns):
                if place in self._kept:
                    self._kept.move_to_end(place)
                else:
                    lacking.append(place)
        if len(lacking) < 2:
            return
        h, w = self._segment
        ys, xs = [row for row, _ in lacking], [column for _, column in lacking]
        down, along = range(min(ys), max(ys) + 1), range(min(xs), max(xs) + 1)
        pixels = len(down) * h * len(along) * w * self._shape[2]
        if pixels * self._dtype.itemsize > self._most:
            return
        values = self._unpack_many(down, along)
        for row, column in product(down, along):
            y, x = (row - down.start) * h, (column - along.start) * w
            # a copy, because a view would keep all of them
            self._keep((row, column), values[y : y + h, x : x + w].copy(), len(rows) * len(columns))

    def _get(self, row: int, column: int, wanted: int) -> Array:
        with self._lock:
            if (row, column) in self._kept:
                self._kept.move_to_end((row, column))
                return self._kept[row, column]
        segment = self._unpack(row, column)
        self._keep((row, column), segment, wanted)
        return segment

    def _keep(self, place: tuple[int, int], segment: Array, wanted: int) -> None:
        """Afterwards no more segments are kept than the window wants that this one is for."""
        with self._lock:
            replaced = self._kept.pop(place, None)
            self._size += segment.nbytes - (0 if replaced is None else replaced.nbytes)
            self._kept[place] = segment
            while len(self._kept) > wanted or (len(self._kept) > 1 and self._size > self._most):
                self._size -= self._kept.popitem(last=False)[1].nbytes


def saves_memory(shape: tuple[int, int], segment: tuple[int, int]) -> bool:
    """Whether reading by windows takes less memory than reading a picture of so few segments."""
    rows, columns = (-(-side // part) for side, part in zip(shape, segment, strict=True))
    return rows * columns >= 4
