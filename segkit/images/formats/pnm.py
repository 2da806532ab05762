"""PBM, PGM and PPM of Netpbm: bits, greys and colours, as bytes or as text."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from segkit.images.formats.base import ImageFormat, Pages
from segkit.images.raster import NO_PIXELS, Array, Extent, Raster

_GAP = rb"(?:\s|#[^\n]*\n)+"
"""Between the numbers of a header."""
_HEADER = re.compile(rb"P([14])" + 2 * (_GAP + rb"(\d+)") + rb"(?:#[^\n]*\n)?\s")
_DEEP_HEADER = re.compile(rb"P([2356])" + 3 * (_GAP + rb"(\d+)") + rb"(?:#[^\n]*\n)?\s")


class _Picture(Pages):
    """The first picture of a file; programs do not write more."""

    def __init__(self, data: bytes) -> None:
        found = _HEADER.match(data) or _DEEP_HEADER.match(data)
        if found is None:
            raise ValueError("its header is damaged")
        self._kind, self._width, self._height, *rest = map(int, found.groups())
        if not (self._width and self._height):
            raise ValueError(NO_PIXELS.format(self._height, self._width))
        self._largest = rest[0] if rest else 1
        if not 0 < self._largest < 2**16:
            raise ValueError(f"its largest value is {self._largest}, not one of 1 to 65535")
        self._channels = 3 if self._kind in (3, 6) else 1
        self._data, self._start = data, found.end()

    def __len__(self) -> int:
        return 1

    def read(self, page: int) -> Raster:
        """The values as stored, which go up to the largest one that the header states."""
        shape = self._height, self._width, self._channels
        if self._kind in (1, 4):  # 1 is black
            return Raster(self._read_bits().reshape(shape).astype(np.bool_), white_is_zero=True)
        count = self._height * self._width * self._channels
        dtype = np.dtype(">u2" if self._largest > 255 else "u1")
        if self._kind in (5, 6):
            self._require(len(self._data) - self._start >= count * dtype.itemsize)
            values = np.frombuffer(self._data, dtype, count, self._start)
        else:
            numbers = self._data[self._start :].split()[:count]
            self._require(len(numbers) == count)
            if not all(map(bytes.isdigit, numbers)):
                raise ValueError("it is damaged: its values are not numbers")
            values = np.array(numbers, np.int64)
        if values.max() > self._largest:
            raise ValueError(f"it has the value {values.max()} above its largest, {self._largest}")
        stored = values.reshape(shape).astype(dtype.newbyteorder("="))
        return Raster(stored, is_rgb=self._channels == 3)

    def read_extent(self, page: int) -> Extent:
        """The size in the header."""
        return Extent(self._height, self._width, self._channels)

    def _read_bits(self) -> Array:
        if self._kind == 1:  # digits, with or without gaps
            digits = b"".join(self._data[self._start :].split())[: self._height * self._width]
            self._require(len(digits) == self._height * self._width)
            return np.frombuffer(digits, np.uint8) - np.uint8(ord("0"))
        row = -(-self._width // 8)
        self._require(len(self._data) - self._start >= row * self._height)
        rows = np.frombuffer(self._data, np.uint8, row * self._height, self._start)
        return np.unpackbits(rows.reshape(-1, row), axis=1, count=self._width)

    def _require(self, is_whole: bool) -> None:
        if not is_whole:
            raise ValueError("it is cut short")


class Pnm(ImageFormat, name="pnm"):
    """PBM, PGM and PPM."""

    title = "PNM"
    suffixes = (".pbm", ".pgm", ".ppm", ".pnm")
    takes_content = True
    has_pages = False

    @classmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Open the picture."""
        return _Picture(file if isinstance(file, bytes) else file.read_bytes())

    @classmethod
    def owns(cls, path: Path, start: bytes) -> bool:
        """Whether a file begins with a letter and digit of Netpbm and a space."""
        return re.match(rb"P[1-6][\s#]", start) is not None
