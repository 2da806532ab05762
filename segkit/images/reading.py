"""Image and mask files to arrays and back.

The first bytes of a file tell its format, not its suffix. An *image* is read as a viewer shows it:
palettes become colours, 1 bit black and white, white-is-zero is turned round. A *mask* is read as
the numbers in the file: palettes stay indices, 1 bit stays 0 and 1. The EXIF (or TIFF) orientation
is followed in both, because whoever drew the mask saw the turned picture.

In a TIFF the samples of one page are channels, interleaved or plane by plane. Several pages are
channels of one image only where the file's own metadata (OME, ImageJ or tifffile's) calls that
axis C; all others are pages, of which the reader names one. Overviews and transparency masks do not
count. A folder that is a zarr is read too; `segkit.images.zarr_store` says how.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segkit.core.errors import SegkitError
from segkit.images.raster import Array, Raster, decode, native, shown
from segkit.images.tiff import STARTS, count_tiff_pages, read_tiff
from segkit.images.writing import write_image, write_mask
from segkit.images.zarr_store import count_zarr_pages, is_zarr, read_zarr

__all__ = [
    "IMAGE_SUFFIXES",
    "File",
    "count_pages",
    "is_zarr",
    "read_image",
    "read_mask",
    "write_image",
    "write_mask",
]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
"""Suffixes of the files that can be read; compare them in lower case."""


File = str | Path | bytes
"""The path of a file or a zarr, or a file's content, which error messages call "the file"."""


def count_pages(file: File) -> int:
    """How many pages a TIFF or zarr has, see the head of this module; 1 for every other format.

    Raises:
        SegkitError: where the file cannot be read.
    """
    with naming(file):
        if not isinstance(file, bytes) and is_zarr(file):
            return count_zarr_pages(file)
        return count_tiff_pages(_seekable(file)) if start_of(file) in STARTS else 1


def read_image(file: File, page: int | None = None) -> Array:
    """Read one image as (H, W, C), in the order R, G, B(, A) where it has colours.

    Returns:
        uint8, uint16 or float32 with the values as stored; only grey of 1, 2 or 4 bits is spread to
        0..255. Signed and 32- or 64-bit integers and other floats become float32 with the same
        numbers (rounded above 2^24). A CMYK JPEG becomes RGB, an animation gives its first frame.

    Args:
        file: its path, or its content.
        page: which page, from 0; may be left out where there is one.

    Raises:
        SegkitError: where the file is missing, no image, cut short or damaged, where it has several
            pages and none was named, or no such page.
    """
    return shown(_read(file, page))


def read_mask(path: str | Path, page: int | None = None) -> Array:
    """Read one mask as (H, W), or as (H, W, C) where the channels differ in meaning or in value.

    A palette gives its indices. An RGB file whose channels are equal is grey and so becomes (H, W);
    a coloured one stays (H, W, 3). A wholly opaque alpha channel is dropped.

    Returns:
        uint8 and uint16 as stored; 1 bit as uint8 0 and 1; all else int32.

    Args:
        path: the file.
        page: which page, from 0; may be left out where there is one.

    Raises:
        SegkitError: as `read_image` does, and for values that are no whole numbers or beyond int32.
    """
    raster = _read(Path(path), page)
    values = raster.values
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if raster.has_alpha and values.shape[2] in (2, 4):
        opaque = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
        if (values[..., -1] == opaque).all():
            values = values[..., :-1]
    if raster.is_rgb and values.shape[2] == 3 and (values[..., 1:] == values[..., :1]).all():
        values = values[..., :1]
    if values.shape[2] == 1:
        values = values[..., 0]
    if values.dtype not in (np.uint8, np.uint16):
        values = _whole(Path(path), values)
    return np.ascontiguousarray(values)


def _read(file: File, page: int | None) -> Raster:
    with naming(file):
        if not isinstance(file, bytes) and is_zarr(file):
            raster = read_zarr(file, page)
        elif start_of(file) in STARTS:
            raster = read_tiff(_seekable(file), page)
        elif page in (None, 0):
            raster = decode(file if isinstance(file, bytes) else Path(file).read_bytes())
        else:
            raise SegkitError(f"there is no page {page}, the file has one, page 0.")
    return native(raster)


def _whole(path: Path, values: Array) -> npt.NDArray[np.int32]:
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    if values.dtype.kind == "f":
        values = values.astype(np.float64)  # holds every int32, unlike float32
        if not (values == np.trunc(values)).all():  # NaN equals nothing
            raise SegkitError(f"{path}: a mask must hold whole numbers, not fractions or NaN.")
    if values.dtype.kind not in "iuf" or not ((values >= low) & (values <= high)).all():
        raise SegkitError(f"{path}: a mask must hold 32-bit integers; {values.dtype} goes beyond.")
    return values.astype(np.int32)


@contextmanager
def naming(file: File) -> Iterator[None]:
    """Whatever a decoder raises becomes one SegkitError with the path; the decoders keep quiet."""
    name = "the file" if isinstance(file, bytes) else file
    try:
        with _quiet:
            yield
    except MemoryError:
        raise
    except SegkitError as error:
        raise SegkitError(f"{name}: {error}") from error
    except Exception as error:  # decoders raise anything: struct.error, zlib.error, IndexError ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SegkitError(f"{name}: cannot be read: {reason.rstrip('.')}.") from error


_opencv_log: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 moved it there
_SILENT = 0


class _Quiet:
    """Keeps the decoders from printing for as long as any thread reads."""

    def __init__(self) -> None:
        self._lock, self._readers = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._log = logging.getLogger("tifffile")
                self._before = self._log.disabled, _opencv_log.getLogLevel()
                self._log.disabled = True
                _opencv_log.setLogLevel(_SILENT)
            self._readers += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._log.disabled = self._before[0]
                _opencv_log.setLogLevel(self._before[1])


_quiet = _Quiet()


def _seekable(file: File) -> Path | io.BytesIO:
    # Without a name, so that no metadata of an upload can lead a decoder to other files.
    return io.BytesIO(file) if isinstance(file, bytes) else Path(file)


def start_of(file: File) -> bytes:
    """The first four bytes."""
    if isinstance(file, bytes):
        return file[:4]
    if Path(file).is_dir():
        raise ValueError("it is a folder and no zarr, in which zarr.json, .zarray or .zgroup lies")
    with Path(file).open("rb") as opened:
        return opened.read(4)
