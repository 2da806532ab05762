"""Masks and probabilities of any size, written by windows: TIFF and zarr, whole or not at all."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from segkit.core.errors import SegkitError
from segkit.core.files import name_temporary, wrap_write_errors, written_whole
from segkit.images.formats.zarr_store import is_zarr
from segkit.images.place import Place, to_tiff_options
from segkit.images.raster import Array

TOP = 512
"""The longest side of the smallest level of a pyramid, in pixels."""
TILE = 512
"""The side of a TIFF's tiles, in pixels."""
CHUNK = 1024
"""The side of a zarr's chunks, in pixels."""

_CLASSIC = 2**32 - 2**26  # bytes that fit into a TIFF with 32-bit offsets, less its own tables

Window = tuple[int, int, int, int]
"""Top, left, bottom and right; the last two are outside."""


class Scratch:
    """Layers of pixels in a nameless file, which disappears even if the program is killed.

    It is written and read as a plain file: a mapped one counts as memory of the program, and kills
    the program where the disk is full.

    All methods raise an OSError where the disk is full.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self.folder, self.shape, self.dtype = folder, shape, dtype
        self._lock = threading.Lock()
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - close() closes it
        self._file.truncate(math.prod(shape) * dtype.itemsize)

    def write(self, top: int, left: int, block: Array, layer: int = 0) -> None:
        """Put a block (h, w) in its place in a layer, or (N, h, w) into that layer and the next."""
        _, H, W = self.shape
        block = np.ascontiguousarray(block, self.dtype).reshape(-1, *block.shape[-2:])
        with self._lock:
            for number, rows in enumerate(block, layer):
                for y, row in enumerate(rows, top):
                    self._file.seek(((number * H + y) * W + left) * self.dtype.itemsize)
                    rest = row.view(np.uint8).data
                    while rest:
                        rest = rest[self._file.write(rest) :]

    def read_bands(self, layer: int, rows: int) -> Iterator[tuple[int, Array]]:
        """The pixels of a layer, (rows, W) at a time, with the number of the first row."""
        _, H, W = self.shape
        for top in range(0, H, rows):
            band = np.empty((min(rows, H - top), W), self.dtype)
            rest = band.reshape(-1).view(np.uint8).data
            with self._lock:
                self._file.seek((layer * H + top) * W * self.dtype.itemsize)
                while rest:
                    rest = rest[self._file.readinto(rest) :]
            yield top, band

    def close(self) -> None:
        """Free the space on the disk."""
        self._file.close()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class WindowFile:
    """A file that is filled window by window; memory does not grow with the image's height.

    It appears under its name when the ``with`` block ends, whole, in place of an old one. After an
    error nothing is left of it, and an old one stays. Until then the pixels lie unpacked in a
    nameless file in the same folder, so the disk must have room for them.

    A TIFF has tiles of 512 x 512, packed with deflate, and is a BigTIFF if necessary. It has N
    pages, as `write_mask` writes them; with a pyramid it is an OME-TIFF of N channels with the
    levels as SubIFDs. A zarr is an array in zarr 3 with chunks of 1024 x 1024 and the axes (c,) y,
    x; with a pyramid an OME-Zarr 0.5 image. The levels of a pyramid halve down to 512 pixels:
    integers by every second pixel, floats by the mean of 2 x 2.

    Args:
        path: ends in .tif, .tiff or .zarr; folders above it are created.
        shape: (H, W) or (N, H, W), not empty.
        dtype: uint8, uint16, int32 or float32.
        pyramid: whether to add smaller levels, for viewers.
        place: where the pixels lie, which is written too; of a zarr the size of a pixel.
        nodata: the value of pixels without data, stated in a GeoTIFF.

    Raises:
        SegkitError: on entering, where the folder cannot be written to, the disk is too full, or
            something else has the file's name.

    Example:
        >>> with WindowFile("mask.tif", (20_000, 20_000), "uint8", pyramid=True) as file:
        ...     for top, left, labels in predicted:  # labels: (h, w) uint8
        ...         file.write(top, left, labels)
    """

    def __init__(
        self,
        path: str | Path,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        pyramid: bool = False,
        place: Place | None = None,
        nodata: int | None = None,
    ) -> None:
        self.path, self.shape, self.dtype = Path(path), tuple(shape), np.dtype(dtype)
        self._pyramid, self._place = pyramid, place
        self._options = to_tiff_options(place, nodata)
        self._is_zarr = self.path.suffix.lower() == ".zarr"
        self._layers = self.shape[0] if len(self.shape) == 3 else 1
        self._scratch: Scratch | None = None
        self._written: set[Window] = set()

    def write(self, top: int, left: int, block: Array) -> None:
        """Write a window. Windows may come in any order, from several threads, and overlap.

        The block is (h, w) or (N, h, w), like the file, of its dtype or one that fits into it.
        """
        assert self._scratch is not None, "windows are written inside the with block"
        H, W = self.shape[-2:]
        height, width = block.shape[-2:]
        fits = block.shape == (*self.shape[:-2], height, width) and block.size > 0
        inside = 0 <= top <= H - height and 0 <= left <= W - width
        if not (fits and inside and np.can_cast(block.dtype, self.dtype)):
            raise SegkitError(
                f"{self.path}: a window of {block.shape} {block.dtype} at row {top}, column {left} "
                f"does not fit into {self.shape} {self.dtype}."
            )
        with wrap_write_errors(self.path):
            self._scratch.write(top, left, block)
        self._written.add((top, left, top + height, left + width))

    def __enter__(self) -> WindowFile:
        with wrap_write_errors(self.path):
            folder = self.path.parent
            folder.mkdir(parents=True, exist_ok=True)
            self._check_name()
            H, W = self.shape[-2:]
            needed = math.prod(self.shape) * self.dtype.itemsize
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise SegkitError(
                    f"{self.path}: the disk has {free / 1e9:.1f} GB left, but the image needs "
                    f"{needed / 1e9:.1f} GB there until it is packed. Choose another folder."
                )
            self._scratch = Scratch(folder, (self._layers, H, W), self.dtype)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._scratch is not None
        with self._scratch as scratch, wrap_write_errors(self.path):
            self._scratch = None
            if kind is None:
                self._finish(scratch)

    def _finish(self, scratch: Scratch) -> None:
        H, W = self.shape[-2:]
        gap = find_gap(H, W, self._written)
        if gap is not None:
            top, left, bottom, right = gap
            raise SegkitError(
                f"{self.path}: no window has covered the rows {top} to {bottom - 1}, columns "
                f"{left} to {right - 1}, so the file is not written."
            )
        sizes = list_level_sizes(H, W) if self._pyramid else [(H, W)]
        if not self._is_zarr:
            self._write_tiff(scratch, sizes)
            return
        temporary = name_temporary(self.path)
        try:
            self._write_zarr(temporary, scratch, sizes)
            self._check_name()
            _replace_folder(temporary, self.path)
        except BaseException:
            _wait_for_zarr()
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write_tiff(self, scratch: Scratch, sizes: list[tuple[int, int]]) -> None:
        big = needs_bigtiff(self._layers, sizes, self.dtype)
        with (
            written_whole(self.path) as file,
            tifffile.TiffWriter(file, bigtiff=big, ome=self._pyramid) as tif,
        ):
            if not self._pyramid:
                for layer in range(self._layers):
                    write_tiles(tif, scratch, sizes[0], [layer], **self._options)
                return
            axes = "CYX" if len(self.shape) == 3 else "YX"
            for level, pixels in enumerate(make_levels(scratch, sizes)):
                write_tiles(
                    tif,
                    pixels,
                    (*self.shape[:-2], *sizes[level]),
                    subifds=0 if level else len(sizes) - 1,
                    subfiletype=int(level > 0),
                    metadata=None if level else {"axes": axes, **_describe_pixel(self._place)},
                    **({} if level else self._options),
                )

    def _write_zarr(self, path: Path, scratch: Scratch, sizes: list[tuple[int, int]]) -> None:
        import zarr  # takes most of a second

        stack = self.shape[:-2]
        axes = ["c", "y", "x"][-len(self.shape) :]
        if self._pyramid:
            scales = _describe_levels(axes, sizes, self.dtype.kind == "f", self._place)
            attributes: Any = {"ome": {"version": "0.5", "multiscales": [scales]}}
            zarr.create_group(path, zarr_format=3, attributes=attributes)
        for level, pixels in enumerate(make_levels(scratch, sizes)):
            array: Any = zarr.create_array(
                path,
                name=str(level) if self._pyramid else None,
                zarr_format=3,
                shape=(*stack, *sizes[level]),
                chunks=(*(1 for _ in stack), *(min(CHUNK, side) for side in sizes[level])),
                dtype=self.dtype,
                dimension_names=axes,
                fill_value=0,
            )
            for layer in range(self._layers):
                for top, band in pixels.read_bands(layer, CHUNK):
                    array[(*(layer for _ in stack), slice(top, top + len(band)))] = band
        for file in path.rglob("*"):
            if file.is_file():
                with file.open("rb+") as opened:  # as in `written_whole`
                    os.fsync(opened.fileno())

    def _check_name(self) -> None:
        """Only an old file of the same kind may be replaced."""
        if self._is_zarr:
            is_taken, kind = self.path.exists() and not is_zarr(self.path), "not a zarr"
        else:
            is_taken, kind = self.path.is_dir(), "a folder"
        if is_taken:
            raise SegkitError(f"{self.path}: already exists and is {kind}. Choose another name.")


def make_levels(scratch: Scratch, sizes: list[tuple[int, int]]) -> Iterator[Scratch]:
    """The levels of a pyramid of these sizes; the first is given."""
    yield scratch
    if len(sizes) > 1:
        layers = scratch.shape[0]
        with Scratch(scratch.folder, (layers, *sizes[1]), scratch.dtype) as smaller:
            for layer in range(layers):
                for top, band in scratch.read_bands(layer, TILE):
                    smaller.write(top // 2, 0, halve(band), layer)
            yield from make_levels(smaller, sizes[1:])


def list_level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The sizes of a pyramid's levels, from the full one to one of at most 512 pixels a side.

    Example:
        >>> list_level_sizes(2000, 1001)
        [(2000, 1001), (1000, 501), (500, 251)]
    """
    sizes = [(height, width)]
    while max(sizes[-1]) > TOP:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def halve(values: Array) -> Array:
    """Halve the height and width, rounded up.

    Integers are labels, which must not be mixed: every second pixel. Floats are the mean of 2 x 2.
    """
    if values.dtype.kind != "f":
        return values[::2, ::2]
    odd = [(0, side % 2) for side in values.shape]
    even = np.pad(values, odd, mode="edge")  # a single pixel at the border is its own mean
    mean: Array = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    return mean


def find_gap(height: int, width: int, windows: set[Window]) -> Window | None:
    """A part of an image that no window covers, if there is one."""
    ys = sorted({0, height}.union(*((top, bottom) for top, _, bottom, _ in windows)))
    xs = sorted({0, width}.union(*((left, right) for _, left, _, right in windows)))
    rows, columns = ({at: i for i, at in enumerate(line)} for line in (ys, xs))
    gaps = np.ones((len(ys) - 1, len(xs) - 1), np.bool_)
    for top, left, bottom, right in windows:
        gaps[rows[top] : rows[bottom], columns[left] : columns[right]] = False
    if not gaps.any():
        return None
    row, column = np.argwhere(gaps)[0]
    return ys[row], xs[column], ys[row + 1], xs[column + 1]


def needs_bigtiff(layers: int, sizes: list[tuple[int, int]], dtype: np.dtype[Any]) -> bool:
    """Whether tiles of images of these sizes may not fit into a TIFF with 32-bit offsets."""
    tiles = sum(math.prod(-(-side // TILE) for side in size) for size in sizes)
    # What deflate cannot pack grows by less than 1 %.
    return 1.01 * tiles * TILE**2 * layers * dtype.itemsize > _CLASSIC


def write_tiles(
    tif: tifffile.TiffWriter,
    scratch: Scratch,
    shape: tuple[int, ...],
    layers: Sequence[int] | None = None,
    **options: Any,
) -> None:
    """Write all or some layers into a TIFF, in tiles that several threads pack with deflate."""

    def cut_tiles() -> Iterator[Array]:
        for layer in range(scratch.shape[0]) if layers is None else layers:
            for _, band in scratch.read_bands(layer, TILE):
                for left in range(0, band.shape[1], TILE):
                    yield band[:, left : left + TILE]

    tif.write(
        cut_tiles(),
        shape=shape,
        dtype=scratch.dtype,
        tile=(TILE, TILE),
        compression="zlib",
        photometric="minisblack",
        maxworkers=min(8, os.cpu_count() or 1),
        buffersize=2**24,
        **{"metadata": None, **options},
    )


def _describe_pixel(place: Place | None) -> dict[str, Any]:
    """OME's metadata of the size of a pixel, as tifffile takes them."""
    if place is None or place.pixel_size is None:
        return {}
    height, width = place.pixel_size
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    return {"PhysicalSizeX": width, "PhysicalSizeY": height, **units}


def _describe_levels(
    axes: list[str], sizes: list[tuple[int, int]], smooth: bool, place: Place | None
) -> dict[str, Any]:
    """OME-Zarr's metadata of a pyramid, in micrometres or in pixels of its full size."""
    kinds = {"c": "channel", "y": "space", "x": "space"}
    has_size = place is not None and place.pixel_size is not None
    height, width = place.pixel_size if place and place.pixel_size else (1.0, 1.0)
    unit = {"unit": "micrometer"} if has_size else {}
    datasets = []
    for level in range(len(sizes)):
        full = {"c": 1.0, "y": height * 2.0**level, "x": width * 2.0**level}
        scale = [full[axis] for axis in axes]
        changes: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if smooth and level:  # to the centre of the averaged pixels
            first = {"c": 1.0, "y": height, "x": width}
            shift = [(s - first[axis]) / 2 for s, axis in zip(scale, axes, strict=True)]
            changes.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(level), "coordinateTransformations": changes})
    return {
        "axes": [
            {"name": axis, "type": kinds[axis], **(unit if axis != "c" else {})} for axis in axes
        ],
        "datasets": datasets,
        "type": "mean" if smooth else "nearest",
    }


def _wait_for_zarr() -> None:
    """Wait until zarr's threads are done: after an error they go on with other chunks."""
    from zarr.core.sync import sync  # takes most of a second

    async def wait() -> None:
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.gather(*others, return_exceptions=True)

    sync(wait())


def _replace_folder(new: Path, target: Path) -> None:
    """Rename a folder to a name that another one may have; on failure that one stays."""
    if not target.exists():
        new.rename(target)
        return
    old = name_temporary(target)
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
