"""Arrays that are images: of any number of axes, read whole or by windows.

Of the axes of an array y and x are the image's, c holds channels, and all others count pages, the
last one fastest. An array without names of axes is (H, W); (.., H, W, C) if the last axis is short:
no longer than 4, or at most 32 and a quarter of the two before it; else (.., C, H, W) if the third
axis from the end is no longer than 32; else (.., H, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from segkit.images.formats.base import Pages
from segkit.images.place import Place
from segkit.images.raster import Array, Extent, Raster, Windows, require_numbers, saves_memory


class ArrayPages(Pages):
    """The images of an array that is read where it is indexed, as of numpy, zarr or HDF5.

    Args:
        array: Has shape and dtype, and may be indexed by several threads at once.
        names: Names of its axes, if they are known.
        chunks: Shape of the pieces in which it is stored, None if it is in one.
        place: Where the pixels of every page lie.

    Raises:
        ValueError: The array is not an image, or its axes are not.
    """

    def __init__(
        self,
        array: Any,
        names: list[str] | None = None,
        chunks: Sequence[int] | None = None,
        place: Place | None = None,
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
        self._chunk = (chunks[y], chunks[x]) if chunks else self._size
        channels = shape[axes.index("c")] if "c" in axes else 1
        self._kind = Raster(np.empty((0, 0, channels), dtype.newbyteorder("=")))

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
        others = [self._array.shape[i] for i in self._others]
        place = np.unravel_index(page, others) if others else ()
        index: list[Any] = [slice(None)] * len(self._axes)
        index[self._axes.index("y")] = slice(top, top + height)
        index[self._axes.index("x")] = slice(left, left + width)
        for i, number in zip(self._others, place, strict=True):
            index[i] = int(number)
        values: Array = np.asarray(self._array[tuple(index)], self._kind.values.dtype)
        kept = [axis for axis in self._axes if axis in ("y", "x", "c")]
        if "c" not in kept:
            values, kept = values[..., None], [*kept, "c"]
        return Raster(values.transpose([kept.index(axis) for axis in "yxc"]))


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
