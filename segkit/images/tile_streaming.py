"""Tiles of a scratch file into a TIFF or a zarr, with the smaller levels of a pyramid."""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from segkit.images.raster import Array
from segkit.images.tile_scratch import Tile, TileScratch

TOP = 512
"""No side of the smallest level of a pyramid is longer, in pixels."""

_CLASSIC = 2**32 - 2**26  # bytes that a TIFF with 32-bit offsets holds, less its own tables
_WORKERS = min(8, os.cpu_count() or 1)


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The sizes of a pyramid's levels, from the full one to one of at most 512 pixels a side.

    Example:
        >>> level_sizes(2000, 1001)
        [(2000, 1001), (1000, 501), (500, 251)]
    """
    sizes = [(height, width)]
    while max(sizes[-1]) > TOP:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def halve(values: Array) -> Array:
    """Half as high and wide, rounded up.

    Integers are labels, which must not be mixed: every second pixel. Floats are the mean of 2 x 2.
    """
    if values.dtype.kind != "f":
        return values[::2, ::2]
    odd = [(0, side % 2) for side in values.shape]
    even = np.pad(values, odd, mode="edge")  # a pixel alone at the border is its own mean
    mean: Array = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    return mean


def stream_tiff(
    path: Path, scratch: TileScratch, folder: Path, *, stack: bool, pyramid: bool
) -> None:
    """Write a tiled TIFF, packed with deflate: pages, or one OME image with levels in SubIFDs.

    Args:
        path: the file, which must not exist.
        scratch: the pixels.
        folder: for the scratch files of further levels.
        stack: whether the layers are an axis of the image, and not a single one.
        pyramid: whether to add the smaller levels.
    """
    layers, height, width = scratch.shape
    sizes = level_sizes(height, width) if pyramid else [(height, width)]
    # Tiles are filled up at the border, and what deflate cannot pack grows by less than 1 %.
    total = sum(_padded(size, scratch.side) for size in sizes) * layers * scratch.dtype.itemsize
    big = total + total // 100 > _CLASSIC
    with (
        path.open("xb") as file,
        ThreadPoolExecutor(_WORKERS) as pool,
        tifffile.TiffWriter(file, bigtiff=big, ome=pyramid) as tif,
    ):
        for level, size, tiles in _levels(scratch, sizes, folder):
            packed, options = _packed(tiles, pool), _options(scratch)
            if pyramid:
                tif.write(
                    packed,
                    shape=(layers, *size) if stack else size,
                    subifds=0 if level else len(sizes) - 1,
                    subfiletype=int(level > 0),
                    metadata=None if level else {"axes": "CYX" if stack else "YX"},
                    **options,
                )
                continue
            count = _padded(size, scratch.side) // scratch.side**2  # tiles of a page
            for _ in range(layers):
                tif.write(islice(packed, count), shape=size, metadata=None, **options)
    _sync(path)


def stream_page(tif: tifffile.TiffWriter, scratch: TileScratch) -> None:
    """Write one more page of a TIFF, tiled; several layers become its samples, plane by plane.

    Args:
        tif: the file.
        scratch: the pixels.
    """
    layers, *size = scratch.shape
    with ThreadPoolExecutor(_WORKERS) as pool:
        tif.write(
            _packed(scratch.tiles(), pool),
            shape=scratch.shape if layers > 1 else tuple(size),
            planarconfig="separate" if layers > 1 else None,
            metadata=None,
            **_options(scratch),
        )


def stream_zarr(
    path: Path, scratch: TileScratch, folder: Path, *, stack: bool, pyramid: bool
) -> None:
    """Write a zarr 3: an array, or an OME-Zarr 0.5 image with its levels. As `stream_tiff`."""
    import zarr

    layers, height, width = scratch.shape
    sizes = level_sizes(height, width) if pyramid else [(height, width)]
    axes = ["c", "y", "x"] if stack else ["y", "x"]
    group = None
    if pyramid:
        smooth = scratch.dtype.kind == "f"
        described = {"ome": {"version": "0.5", "multiscales": [_multiscale(axes, sizes, smooth)]}}
        group = zarr.create_group(store=path, zarr_format=3, attributes=described)
    for level, size, tiles in _levels(scratch, sizes, folder):
        block = tuple(min(scratch.side, length) for length in size)
        options: dict[str, Any] = {
            "shape": (layers, *size) if stack else size,
            "chunks": (1, *block) if stack else block,
            "dtype": scratch.dtype,
            "dimension_names": axes,
            "fill_value": 0,
        }
        if group is None:
            array = zarr.create_array(store=path, zarr_format=3, **options)
        else:
            array = group.create_array(str(level), **options)
        for layer, top, left, values in tiles:
            inside = values[: size[0] - top, : size[1] - left]
            place = slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1])
            array[(layer, *place) if stack else place] = inside
    for file in path.rglob("*"):
        if file.is_file():
            _sync(file)


def _options(scratch: TileScratch) -> dict[str, Any]:
    """What all pages of a TIFF are written with."""
    return {
        "dtype": scratch.dtype,
        "tile": (scratch.side, scratch.side),
        "compression": "zlib",
        "photometric": "minisblack",
    }


def _multiscale(axes: list[str], sizes: list[tuple[int, int]], smooth: bool) -> dict[str, Any]:
    """What OME-Zarr says of a pyramid, in pixels of its full size."""
    kinds = {"c": "channel", "y": "space", "x": "space"}
    datasets = []
    for level in range(len(sizes)):
        step = 2.0**level
        shift = (step - 1) / 2 if smooth else 0.0  # the middle of the pixels that a mean is of
        changes = [{"type": "scale", "scale": [1.0 if axis == "c" else step for axis in axes]}]
        if shift:
            moved = [0.0 if axis == "c" else shift for axis in axes]
            changes.append({"type": "translation", "translation": moved})
        datasets.append({"path": str(level), "coordinateTransformations": changes})
    return {
        "axes": [{"name": axis, "type": kinds[axis]} for axis in axes],
        "datasets": datasets,
        "type": "mean" if smooth else "nearest",
    }


def _levels(
    scratch: TileScratch, sizes: list[tuple[int, int]], folder: Path
) -> Iterator[tuple[int, tuple[int, int], Iterator[Tile]]]:
    """The tiles of each level; while those of one are taken, the next level is made of them."""
    with ExitStack() as opened:
        for level, size in enumerate(sizes):
            smaller = None
            if level + 1 < len(sizes):
                shape = scratch.shape[0], *sizes[level + 1]
                smaller = TileScratch(folder, shape, scratch.dtype, scratch.side)
                opened.enter_context(smaller)
            yield level, size, _and_halve(scratch, smaller)
            if smaller is not None:
                scratch = smaller


def _and_halve(scratch: TileScratch, smaller: TileScratch | None) -> Iterator[Tile]:
    _, height, width = scratch.shape
    for tile in scratch.tiles():
        if smaller is not None:
            inside = tile.values[: height - tile.top, : width - tile.left]
            smaller.write(tile.layer, tile.top // 2, tile.left // 2, halve(inside))
        yield tile


def _packed(tiles: Iterator[Tile], pool: ThreadPoolExecutor) -> Iterator[bytes]:
    """Tiles packed by several threads, in order, a few ahead."""
    waiting: deque[Future[bytes]] = deque()
    for tile in tiles:
        waiting.append(pool.submit(_pack, tile.values))
        if len(waiting) > 2 * _WORKERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _pack(values: Array) -> bytes:
    """With deflate; the effort is what pays for labels, and for the noise of floats."""
    if values.dtype.kind != "f":
        return zlib.compress(values.data, 3)
    sample = np.ascontiguousarray(values[::16])
    repeats = len(zlib.compress(sample.data, 1)) < 0.6 * sample.nbytes
    # Where values hardly repeat, searching for it takes two thirds of the time and saves nothing.
    strategy = zlib.Z_DEFAULT_STRATEGY if repeats else zlib.Z_RLE
    packer = zlib.compressobj(1, strategy=strategy)
    return packer.compress(values.data) + packer.flush()


def _padded(size: tuple[int, int], side: int) -> int:
    rows, columns = (-(-length // side) for length in size)
    return rows * columns * side * side


def _sync(path: Path) -> None:
    """Wait for the disk, else a power cut may leave the new name on an empty file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
