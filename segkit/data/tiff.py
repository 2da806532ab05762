"""TIFF: which pages of a file are one image, and their pixels as they are stored."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL.TiffImagePlugin import TiffImageFile

from segkit.data.raster import (
    ORIENTATION,
    Array,
    Raster,
    decode_with_opencv,
    from_pillow,
    upright,
)
from segkit.errors import SegkitError

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of a TIFF: of either byte order, classic and BigTIFF."""


def count_tiff_pages(path: Path) -> int:
    """How many images a TIFF holds that a reader can name."""
    with tifffile.TiffFile(path) as tif:
        return len(_pages(tif))


def read_tiff(path: Path, page: int | None) -> Raster:
    """One image of a TIFF; raises whatever the decoders raise."""
    with tifffile.TiffFile(path) as tif:
        pages = _pages(tif)
        count = len(pages)
        if not count:
            raise ValueError("it holds no page, or is cut short")
        if page is None and count > 1:
            raise SegkitError(
                f"{path}: the file has {count} pages, name one of 0 to {count - 1}. Channels of "
                "one image belong into one page (samples) or into an axis that the file calls C."
            )
        if not 0 <= (page or 0) < count:
            raise SegkitError(f"{path}: there is no page {page}, the file has 0 to {count - 1}.")
        rasters = [_decode_page(path, part.aspage()) for part in pages[page or 0]]
    if len(rasters) == 1:
        return rasters[0]
    return Raster(
        np.concatenate([raster.values for raster in rasters], axis=2),
        white_is_zero=rasters[0].white_is_zero,
    )


def _pages(tif: tifffile.TiffFile) -> list[list[Any]]:
    """For each page that a reader can name, the pages of the file that are its channels."""
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


def _decode_page(path: Path, page: Any) -> Raster:
    ends = (at + size for at, size in zip(page.dataoffsets, page.databytecounts, strict=True))
    if max(ends, default=math.inf) > path.stat().st_size:
        raise ValueError("it is cut short")
    if page.photometric == tifffile.PHOTOMETRIC.YCBCR:
        return _decode_elsewhere(path, page)
    try:
        values = page.asarray()
    except (ValueError, KeyError, RuntimeError) as error:
        # imagecodecs is a package that we do not depend on; older versions do not name it
        if not any(sign in str(error) for sign in ("imagecodecs", "not supported")):
            raise
        return _decode_elsewhere(path, page)
    if page.axes not in ("YX", "YXS", "SYX"):
        raise ValueError(f"a page with the axes {page.axes} is no image")
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    palette = None
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        palette = (page.colormap.T >> 8).astype(np.uint8)
    orientation = page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1
    return Raster(
        upright(values.reshape(*values.shape[:2], -1), int(orientation)),
        palette=palette,
        is_rgb=page.photometric == tifffile.PHOTOMETRIC.RGB,
        has_alpha=bool(page.extrasamples) and int(page.extrasamples[-1]) in (1, 2),
        white_is_zero=page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
    )


def _decode_elsewhere(path: Path, page: Any) -> Raster:
    """What tifffile alone cannot unpack, as LZW; Pillow and OpenCV turn it upright themselves."""
    data, bits, channels = path.read_bytes(), int(page.bitspersample), int(page.samplesperpixel)
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
