"""Zarr: folders of compressed chunks. One array is an image or a stack of images.

A group is read if its metadata describe an OME-Zarr image (versions 0.1 to 0.5): the array of full
size. The axes of an array come from OME's metadata, else from its own dimension names (zarr 3, or
xarray's in zarr 2) if two of them are y and x. An array without such names is (H, W), or
(.., H, W, C) if the last axis is no longer than 4, else (.., C, H, W) if the third axis from the
end is no longer than 32. An axis c holds channels; all others count pages, the last one fastest.

A chunk that is not on the disk holds the array's fill value: writers leave empty chunks out.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segkit.core.errors import SegkitError
from segkit.images.raster import Array, Extent, Raster, Windows, saves_memory

if TYPE_CHECKING:
    import zarr

_MARKS = ("zarr.json", ".zarray", ".zgroup")
_CHANNELS = {"channel": "c", "band": "c"}  # xarray's names


def is_zarr(path: str | Path) -> bool:
    """Whether this folder holds a zarr array or group; its name does not matter."""
    return Path(path).is_dir() and any(Path(path, mark).is_file() for mark in _MARKS)


class ZarrImages:
    """The images of a zarr.

    Raises:
        SegkitError: It is a group that does not say which array is the image.
        ValueError: It is not a zarr, the array is not an image, or its metadata are wrong.
    """

    def __init__(self, path: Path) -> None:
        if not is_zarr(path):
            raise ValueError(
                "it is a folder but not a zarr: it has no zarr.json, .zarray or .zgroup"
            )
        self._array, names = _open(path)
        shape, dtype = self._array.shape, np.dtype(self._array.dtype)
        axes = _name_axes(names, shape)
        if 0 in shape:
            raise ValueError(f"it is empty: its shape is {shape}")
        if dtype.kind not in "biuf":
            raise ValueError(f"values of the type {dtype} are not an image")
        self._axes = axes
        self._others = [i for i, axis in enumerate(axes) if axis not in ("y", "x", "c")]
        y, x = axes.index("y"), axes.index("x")
        self._size, self._chunk = (
            (shape[y], shape[x]),
            (self._array.chunks[y], self._array.chunks[x]),
        )
        channels = shape[axes.index("c")] if "c" in axes else 1
        self._kind = Raster(np.empty((0, 0, channels), dtype.newbyteorder("=")))

    def __len__(self) -> int:
        return math.prod(self._array.shape[i] for i in self._others)

    def read(self, page: int) -> Raster:
        """One image; errors of the decoders are passed on."""
        return self._read_window(page, 0, 0, *self._size)

    def read_extent(self, page: int) -> Extent:
        """The size of an image."""
        return Extent(*self._size, self._kind.values.shape[2])

    def open_windows(self, page: int) -> Windows | None:
        """Windows of one image; None where they would save little memory."""
        if not saves_memory(self._size, self._chunk):
            return None
        return Windows(self._size, self._kind, partial(self._read_window, page))

    def close(self) -> None:
        """Do nothing: a zarr keeps no file open."""

    def _read_window(self, page: int, top: int, left: int, height: int, width: int) -> Raster:
        others = [self._array.shape[i] for i in self._others]
        place = np.unravel_index(page, others) if others else ()
        index: list[Any] = [slice(None)] * self._array.ndim
        index[self._axes.index("y")] = slice(top, top + height)
        index[self._axes.index("x")] = slice(left, left + width)
        for i, number in zip(self._others, place, strict=True):
            index[i] = int(number)
        values: Array = np.asarray(self._array[tuple(index)], self._kind.values.dtype)
        kept = [axis for axis in self._axes if axis in ("y", "x", "c")]
        if "c" not in kept:
            values, kept = values[..., None], [*kept, "c"]
        return Raster(values.transpose([kept.index(axis) for axis in "yxc"]))


def _open(path: Path) -> tuple[zarr.Array[Any], list[str] | None]:
    """The array that is the image, and the names of its axes if they are known."""
    import zarr  # takes most of a second

    node: Any = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        return node, _dimension_names(node)
    attributes: dict[str, Any] = dict(node.attrs)
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if not multiscales:
        inside = sorted(child for child in path.iterdir() if is_zarr(child))
        hint = " or ".join(f"'{child}'" for child in inside[:3])
        raise SegkitError(
            "this zarr group is not an OME-Zarr image: it has no multiscales. "
            + (f"Give the path of what is inside, such as {hint}." if inside else "It is empty.")
        )
    axes = multiscales[0].get("axes", "tczyx")  # version 0.3 has names only, older ones none
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
    inner = multiscales[0]["datasets"][0]["path"]
    try:
        array = node[inner]
    except KeyError:
        array = None
    if not isinstance(array, zarr.Array):
        raise ValueError(f"its metadata name an array '{inner}' that does not exist")
    return array, names


def _dimension_names(array: zarr.Array[Any]) -> list[str] | None:
    given: Any = getattr(array.metadata, "dimension_names", None)
    given = given or array.attrs.get("_ARRAY_DIMENSIONS") or []
    names = [_CHANNELS.get(str(name).lower(), str(name).lower()) for name in given]
    return names if "y" in names and "x" in names else None


def _name_axes(names: list[str] | None, shape: tuple[int, ...]) -> list[str]:
    if names is not None:
        if len(names) != len(shape) or not {"y", "x"} <= set(names) or len(set(names)) < len(names):
            raise ValueError(f"the axes {', '.join(names)} do not fit an image of {shape}")
        return names
    if len(shape) < 2:
        raise ValueError(f"an array of the shape {shape} is not an image")
    last = ["y", "x"]
    if len(shape) > 2:
        if shape[-1] <= 4:
            last = ["y", "x", "c"]
        elif shape[-3] <= 32:
            last = ["c", "y", "x"]
    return [f"axis {i}" for i in range(len(shape) - len(last))] + last
