"""Zarr: folders of compressed blocks, of which one array is an image, or a stack of them.

A group is read where its metadata say that it is an OME-Zarr image (versions 0.1 to 0.5): its array
of full size. The axes of an array are told by OME's metadata, else by its own names of dimensions
(zarr 3, or xarray's in zarr 2) where two of them are y and x. An array without such names is
(H, W), or (.., H, W, C) where the last axis is no longer than 4, else (.., C, H, W) where the third
from the end is no longer than 32. An axis c is channels; all others count pages, the last one
fastest.

A block that is not on the disk holds the array's fill value: the format has it so, and writers
leave empty blocks out. Zarr itself is an optional package.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segkit.core.errors import SegkitError
from segkit.images.raster import Array, Raster, choose_page

if TYPE_CHECKING:
    import zarr

_MARKS = ("zarr.json", ".zarray", ".zgroup")
_CHANNELS = {"channel": "c", "band": "c"}  # as xarray's users call that axis


def is_zarr(path: str | Path) -> bool:
    """Whether this is a folder in which a zarr array or group lies, whatever its name."""
    return Path(path).is_dir() and any(Path(path, mark).is_file() for mark in _MARKS)


def count_zarr_pages(path: str | Path) -> int:
    """How many images a zarr holds that a reader can name."""
    return ZarrImage(path).pages


def read_zarr(path: str | Path, page: int | None) -> Raster:
    """One image of a zarr; raises whatever its decoders raise."""
    image = ZarrImage(path)
    at = choose_page(page, image.pages)
    return Raster(image.region(at, slice(0, image.height), slice(0, image.width)))


class ZarrImage:
    """The array of a zarr that is an image, and which of its axes are what.

    Attributes:
        pages: how many images it holds.
        height: of each, in pixels.
        width: of each, in pixels.
        channels: of each.
        dtype: of the values as stored.
        block: the height and width of what is packed in one piece.
    """

    def __init__(self, path: str | Path) -> None:
        """Open it.

        Raises:
            SegkitError: zarr is not installed, or no array of the folder is known to be the image.
        """
        self._array, names = _open(Path(path))
        shape = self._array.shape
        axes = _axes(names, shape)
        if 0 in shape:
            raise ValueError(f"it is empty: its shape is {shape}")
        self.dtype: np.dtype[Any] = np.dtype(self._array.dtype)
        if self.dtype.kind not in "biuf":
            raise ValueError(f"values of the type {self.dtype} are no image")
        self._y, self._x = axes.index("y"), axes.index("x")
        self._c = axes.index("c") if "c" in axes else None
        self._others = [i for i, axis in enumerate(axes) if axis not in ("y", "x", "c")]
        self.pages = math.prod(shape[i] for i in self._others)
        self.height, self.width = shape[self._y], shape[self._x]
        self.channels = 1 if self._c is None else shape[self._c]
        self.block = self._array.chunks[self._y], self._array.chunks[self._x]

    def region(self, page: int, rows: slice, columns: slice) -> Array:
        """(h, w, C) of one page, as stored."""
        others = [self._array.shape[i] for i in self._others]
        place = iter(np.unravel_index(page, others) if others else ())
        index: list[Any] = [slice(None)] * self._array.ndim
        index[self._y], index[self._x] = rows, columns
        for i in self._others:
            index[i] = int(next(place))
        values: Array = np.asarray(self._array[tuple(index)])
        kept = [i for i in range(self._array.ndim) if i not in self._others]
        if self._c is None:
            values, kept = values[..., None], [*kept, -1]
        order = (self._y, self._x, -1 if self._c is None else self._c)
        return values.transpose([kept.index(axis) for axis in order])


def import_zarr() -> Any:
    """The package zarr.

    Raises:
        SegkitError: It is not installed, or is older than its version 3.
    """
    try:
        import zarr
    except ImportError:
        version = ""
    else:
        version = zarr.__version__
    if int(version.split(".")[0] or 0) < 3:
        raise SegkitError(
            "reading and writing zarr needs the package zarr in version 3, which Python 3.11 has. "
            "Install it with: pip install 'segkit-torch[zarr]'."
        )
    return zarr


def _open(path: Path) -> tuple[zarr.Array[Any], list[str] | None]:
    """The array that is the image, and the names of its axes where they are told."""
    zarr = import_zarr()
    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        return node, _dimension_names(node)
    attributes = dict(node.attrs)
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if not multiscales:
        inside = sorted(child for child in path.iterdir() if is_zarr(child))
        hint = " or ".join(f"'{child}'" for child in inside[:3])
        raise SegkitError(
            "this zarr group is no OME-Zarr image: it has no multiscales. "
            + (f"Name what is inside, such as {hint}." if inside else "Nothing is inside.")
        )
    axes = multiscales[0].get("axes", "tczyx")  # version 0.3 has names only, those before it none
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
    inner = multiscales[0]["datasets"][0]["path"]
    try:
        array = node[inner]
    except KeyError:
        array = None
    if not isinstance(array, zarr.Array):
        raise ValueError(f"its metadata name an array '{inner}', which is not there")
    return array, names


def _dimension_names(array: zarr.Array[Any]) -> list[str] | None:
    told: Any = getattr(array.metadata, "dimension_names", None)
    told = told or array.attrs.get("_ARRAY_DIMENSIONS") or []
    names = [_CHANNELS.get(str(name).lower(), str(name).lower()) for name in told]
    return names if "y" in names and "x" in names else None


def _axes(names: list[str] | None, shape: tuple[int, ...]) -> list[str]:
    if names is not None:
        if len(names) != len(shape) or not {"y", "x"} <= set(names) or len(set(names)) < len(names):
            raise ValueError(f"the axes {', '.join(names)} do not fit an image of {shape}")
        return names
    if len(shape) < 2:
        raise ValueError(f"an array of the shape {shape} is no image")
    last = ["y", "x"]
    if len(shape) > 2:
        if shape[-1] <= 4:
            last = ["y", "x", "c"]
        elif shape[-3] <= 32:
            last = ["c", "y", "x"]
    return [f"axis {i}" for i in range(len(shape) - len(last))] + last
