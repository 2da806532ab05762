"""TIFF: which pages of a file are one image, and their pixels as they are stored."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL.TiffImagePlugin import TiffImageFile

from segkit.images.raster import (
    ORIENTATION,
    Array,
    Raster,
    choose_page,
    decode_with_opencv,
    from_pillow,
    require_pixels,
    upright,
)

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of a TIFF: of either byte order, classic and BigTIFF."""

AXES = ("YX", "YXS", "SYX")
"""What a page with one picture is, in the words of tifffile."""


def count_tiff_pages(file: Path | io.BytesIO) -> int:
    """How many images a TIFF holds that a reader can name."""
    with tifffile.TiffFile(file) as tif:
        return len(_pages(tif))


def read_tiff(file: Path | io.BytesIO, page: int | None) -> Raster:
    """One image of a TIFF; raises whatever the decoders raise."""
    with tifffile.TiffFile(file) as tif:
        rasters = [_decode_page(part) for part in parts_of_page(tif, page)]
    if len(rasters) == 1:
        return rasters[0]
    return Raster(
        np.concatenate([raster.values for raster in rasters], axis=2),
        white_is_zero=rasters[0].white_is_zero,
    )


def parts_of_page(tif: tifffile.TiffFile, page: int | None) -> list[Any]:
    """The pages of the file that are the channels of the image that a reader names.

    Raises:
        SegkitError: It has several pages and none was named, or no such page.
        ValueError: It has none.
    """
    pages = _pages(tif)
    return [part.aspage() for part in pages[choose_page(page, len(pages))]]


def _pages(tif: tifffile.TiffFile) -> list[list[Any]]:
    """For each page that a reader can name, the pages of the file that are its channels."""
    if len(tif.pages):
        first = tif.pages.first
        require_pixels(first.imagelength, first.imagewidth)
    if not (tif.is_ome or tif.is_imagej or tif.is_shaped):
        aside = 1 | 4  # reduced in size, transparency mask
        whole = [page for page in tif.pages if not int(page.aspage().subfiletype) & aside]
        return [[page] for page in whole or tif.pages]
    rows: list[list[Any]] = []
    for series in tif.series:
        axes = [axis for axis in series.axes if axis not in "YXS"]
        lengths = [n for axis, n in zip(series.axes, series.shape, strict=True) if axis in axes]
        stored = [page for page in series.pages if page is not None]
        if len(stored) != math.prod(lengths):
            raise ValueError(f"{math.prod(lengths)} pictures are in {len(stored)} TIFF pages")
        order: Array = np.arange(len(stored)).reshape([*lengths, 1])
        if "C" in axes:
            order = np.moveaxis(order, axes.index("C"), -1)
        rows += [[stored[i] for i in row] for row in order.reshape(-1, order.shape[-1])]
    return rows


def check_length(page: Any) -> None:
    """Raises where the file ends before the pixels of a page do."""
    ends = (at + size for at, size in zip(page.dataoffsets, page.databytecounts, strict=True))
    if max(ends, default=math.inf) > page.parent.filehandle.size:
        raise ValueError("it is cut short")


def needs_imagecodecs(error: Exception) -> bool:
    """Whether tifffile cannot unpack a page because it lacks a package that is not required."""
    # older versions do not name the package
    return isinstance(error, (ValueError, KeyError, RuntimeError)) and any(
        sign in str(error) for sign in ("imagecodecs", "not supported")
    )


def orientation_of(page: Any) -> int:
    """1 is upright, see `segkit.images.raster.upright`."""
    return int(page.tags[ORIENTATION].value) if ORIENTATION in page.tags else 1


def as_raster(page: Any, values: Array) -> Raster:
    """Pixels of a page, (h, w, C) as stored, with what the page says of them."""
    palette = None
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        palette = (page.colormap.T >> 8).astype(np.uint8)
    return Raster(
        values,
        palette=palette,
        is_rgb=page.photometric == tifffile.PHOTOMETRIC.RGB,
        has_alpha=bool(page.extrasamples) and int(page.extrasamples[-1]) in (1, 2),
        white_is_zero=page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
    )


def _decode_page(page: Any) -> Raster:
    check_length(page)
    if page.photometric == tifffile.PHOTOMETRIC.YCBCR:
        return _decode_elsewhere(page)
    try:
        values = page.asarray()
    except Exception as error:
        if not needs_imagecodecs(error):
            raise
        return _decode_elsewhere(page)
    if page.axes not in AXES:
        raise ValueError(f"a page with the axes {page.axes} is no image")
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    values = upright(values.reshape(*values.shape[:2], -1), orientation_of(page))
    return as_raster(page, values)


def _decode_elsewhere(page: Any) -> Raster:
    """What tifffile alone cannot unpack, as LZW; Pillow and OpenCV turn it upright themselves."""
    stored = page.parent.filehandle
    stored.seek(0)
    data, bits, channels = stored.read(), int(page.bitspersample), int(page.samplesperpixel)
    try:
        if bits <= 8 or channels == 1:
            raster = _tiff_with_pillow(data, page, bits)
        else:
            values = decode_with_opencv(data, page.index)
            raster = Raster(values, is_rgb=True, has_alpha=channels == 4)
        if raster.values.dtype == page.dtype and raster.values.size == math.prod(page.shape):
            return raster
        reason = "would lose data"
    except Exception as error:
        reason = str(error)
    raise ValueError(
        f"{page.compression.name} with {channels} channels of {page.dtype} is damaged, or needs "
        f"another decoder ({reason}): pip install imagecodecs, or save the file with deflate"
    )


def _tiff_with_pillow(data: bytes, page: Any, bits: int) -> Raster:
    with TiffImageFile(io.BytesIO(data)) as image:
        image.seek(page.index)
        raster = from_pillow(image, bits)
    if page.photometric != tifffile.PHOTOMETRIC.MINISWHITE or raster.values.dtype.kind not in "bu":
        return raster
    # Pillow has turned white-is-zero round already.
    stored = ~raster.values if bits == 1 else raster.values ^ np.uint8(2**bits - 1)
    return raster._replace(values=stored, white_is_zero=True)
