"""Arrays that are images: of any number of axes, read whole or by windows.

Of the axes of an array y and x are the image's, c holds channels, and all others count pages, the
last one fastest. An array without names of axes is (H, W); (.., H, W, C) if the last axis is short:
no longer than 4, or at most 32 and a quarter of the two before it; else (.., C, H, W) if the third
axis from the end is no longer than 32; else (.., H, W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from segkit.images.formats.base import Pages
from segkit.images.place import Place
from segkit.images.raster import (
    Array,
    Extent,
    Raster,
    Windows,
    require_numbers,
    require_room,
    saves_memory,
)


class Packing(NamedTuple):
    """How the numbers of an array are meant, by the CF conventions of netCDF.

    https://cfconventions.org, sections 2.5.1 and 8.1
    """

    nodata: float | None  # before scaling
    scale: float
    offset: float

    @property
    def scales(self) -> bool:
        """Whether values are not the numbers themselves."""
        return (self.scale, self.offset) != (1, 0)

    def unpack(self, numbers: Array) -> Raster:
        """The values (H, W, C): float32 if they are scaled."""
        if not self.scales:
            return Raster(numbers, nodata=self.nodata)
        missing = None if self.nodata is None else (numbers == self.nodata).all(axis=2)
        values = (numbers.astype(np.float64) * self.scale + self.offset).astype(np.float32)
        return Raster(values, missing=missing)


def read_packing(attributes: Mapping[str, Any]) -> Packing:
    """The packing that attributes of an array tell, such as ``scale_factor``."""

    def read(*names: str) -> float | None:
        for name in names:
            with suppress(KeyError, IndexError, TypeError, ValueError):
                return float(np.ravel(attributes[name])[0])
        return None

    scale, offset = read("scale_factor"), read("add_offset")
    nodata = read("_FillValue", "missing_value")
    return Packing(nodata, 1.0 if scale is None else scale, offset or 0.0)


AS_THEY_ARE = Packing(None, 1.0, 0.0)


class ArrayPages(Pages):
    """The images of an array that is read where it is indexed, as of numpy, zarr or HDF5.

    Args:
        array: Has shape and dtype, and may be indexed by several threads at once.
        names: Names of its axes, if they are known.
        chunks: Shape of the pieces in which it is stored, None if it is in one.
        place: Where the pixels of every page lie.
        packing: How its numbers are meant, if not as they are.

    Raises:
        ValueError: The array is not an image, or its axes are not.
    """

    def __init__(
        self,
        array: Any,
        names: list[str] | None = None,
        chunks: Sequence[int] | None = None,
        place: Place | None = None,
        packing: Packing = AS_THEY_ARE,
    ) -> None:
        shape, dtype = tuple(array.shape), np.dtype(array.dtype)
        axes = name_axes(names, shape)
        if 0 in shape:
            raise ValueError(f"it is empty: its shape is {shape}")
        require_numbers(dtype)
        if names is None and len(shape) > 2:
            letters = {"y": "H", "x": "W", "c": "C"}
            reading = ", ".join(letters.get(axis, "pages") for axis in axes)
            self.guess = f"({reading})", shape
        self._array, self._axes, self._place = array, axes, place
        self._others = [i for i, axis in enumerate(axes) if axis not in ("y", "x", "c")]
        y, x = axes.index("y"), axes.index("x")
        self._size = shape[y], shape[x]
        self._piece = tuple(chunks or shape)  # what is decoded at once
        self._chunk = self._piece[y], self._piece[x]
        channels = shape[axes.index("c")] if "c" in axes else 1
        self._dtype, self._packing = dtype.newbyteorder("="), packing
        self._kind = packing.unpack(np.empty((0, 0, channels), self._dtype))

    def __len__(self) -> int:
        return math.prod(self._array.shape[i] for i in self._others)

    def read(self, page: int) -> Raster:
        """One image."""
        return self._read_window(page, 0, 0, *self._size)

    def read_extent(self, page: int) -> Extent:
        """The size of an image."""
        return Extent(*self._size, self._kind.values.shape[2])

    def read_place(self, page: int) -> Place | None:
        """Where the pixels of every image lie."""
        return self._place

    def open_windows(self, page: int) -> Windows | None:
        """Windows of one image; None where they would save little memory."""
        if not saves_memory(self._size, self._chunk):
            return None
        return Windows(self._size, self._kind, partial(self._read_window, page))

    def _read_window(self, page: int, top: int, left: int, height: int, width: int) -> Raster:
        require_room(self._piece)
        others = [self._array.shape[i] for i in self._others]
        place = np.unravel_index(page, others) if others else ()
        index: list[Any] = [slice(None)] * len(self._axes)
        index[self._axes.index("y")] = slice(top, top + height)
        index[self._axes.index("x")] = slice(left, left + width)
        for i, number in zip(self._others, place, strict=True):
            index[i] = int(number)
        values: Array = np.asarray(self._array[tuple(index)], self._dtype)
        kept = [axis for axis in self._axes if axis in ("y", "x", "c")]
        if "c" not in kept:
            values, kept = values[..., None], [*kept, "c"]
        return self._packing.unpack(values.transpose([kept.index(axis) for axis in "yxc"]))


def name_axes(names: list[str] | None, shape: tuple[int, ...]) -> list[str]:
    """The axes of an array as this module's docstring tells them.

    Raises:
        ValueError: The names do not fit, or the array has fewer than two axes.
    """
    if names is not None:
        if len(names) != len(shape) or not {"y", "x"} <= set(names) or len(set(names)) < len(names):
            raise ValueError(f"the axes {', '.join(names)} do not fit an image of {shape}")
        return names
    if len(shape) < 2:
        raise ValueError(f"an array of the shape {shape} is not an image")
    last = ["y", "x"]
    if len(shape) > 2:
        if shape[-1] <= 4 or (shape[-1] <= 32 and 4 * shape[-1] <= min(shape[-3:-1])):
            last = ["y", "x", "c"]
        elif shape[-3] <= 32:
            last = ["c", "y", "x"]
    return [f"axis {i}" for i in range(len(shape) - len(last))] + last
