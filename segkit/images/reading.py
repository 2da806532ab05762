"""Image and mask files to arrays.

The first bytes of a file determine its format, not its suffix. An *image* is read as a viewer shows
it: palettes become colours, 1 bit black and white, and white-is-zero is inverted. A *mask* is read
as the numbers in the file: palettes stay indices, 1 bit stays 0 and 1. The EXIF (or TIFF)
orientation applies to both, because the mask was drawn over the rotated image.

In a TIFF the samples of one page are channels, interleaved or plane by plane. Several pages are
channels of one image only where the file's own metadata (OME, ImageJ or tifffile's) name that axis
C; all others are pages, from which the caller chooses. Overviews and transparency masks do not
count. A folder that is a zarr is read too, see `segkit.images.zarr_store`.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segkit.core.errors import SegkitError
from segkit.images.raster import (
    RASTER_STARTS,
    Array,
    Extent,
    Raster,
    choose_page,
    decode,
    open_raster,
    render,
)
from segkit.images.tiff import TIFF_STARTS, TiffImages
from segkit.images.writing import write_image, write_mask
from segkit.images.zarr_store import ZarrImages, is_zarr

__all__ = [
    "IMAGE_SUFFIXES",
    "File",
    "ImageReader",
    "count_pages",
    "has_known_start",
    "is_zarr",
    "read_extent",
    "read_image",
    "read_mask",
    "write_image",
    "write_mask",
]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
"""Suffixes of the files that can be read, in lower case."""

File = str | Path | bytes
"""The path of a file or zarr, or the content of a file, which error messages call "the file"."""


def count_pages(file: File) -> int:
    """Count the pages of a TIFF or zarr, as this module's docstring defines them; else 1.

    Raises:
        SegkitError: The file cannot be read.
    """
    with ImageReader(file) as reader:
        return len(reader)


def read_image(file: File, page: int | None = None) -> Array:
    """Read one image as (H, W, C), in the order R, G, B(, A) if it has colours.

    To read many pages of a file, open it once with `ImageReader`.

    Returns:
        uint8, uint16 or float32 with the values as stored; only grey of 1, 2 or 4 bits is spread to
        0..255. Signed and 32- or 64-bit integers and other floats become float32 with the same
        numbers (rounded above 2^24). A CMYK JPEG becomes RGB, an animation gives its first frame.

    Args:
        file: its path, or its content.
        page: which page, from 0; may be omitted if there is only one.

    Raises:
        SegkitError: The file is missing, not an image, truncated or damaged, has several pages and
            none was chosen, or has no such page.
    """
    with ImageReader(file) as reader:
        return reader.read_image(page)


def read_mask(path: str | Path, page: int | None = None) -> Array:
    """Read one mask as (H, W), or as (H, W, C) if its channels differ in meaning or in value.

    Returns:
        uint8 and uint16 as stored; 1 bit as uint8 0 and 1; everything else as int32.

    Args:
        path: the file.
        page: which page, from 0; may be omitted if there is only one.

    Raises:
        SegkitError: as `read_image`, and for values that are not whole numbers or exceed int32.
    """
    with ImageReader(path) as reader:
        return reader.read_mask(page)


def read_extent(file: File, page: int | None = None) -> Extent:
    """Read how large an image would be in memory, without decoding it.

    A file of a few kilobytes can hold gigapixels: files from strangers are checked with this first.
    Tiles of a TIFF that are larger than the image count in full.

    Raises:
        SegkitError: as `read_image`, as far as the header shows.
    """
    with ImageReader(file) as reader:
        return reader.read_extent(page)


def has_known_start(data: bytes) -> bool:
    """Whether the content of a file starts like one of the formats that can be read."""
    return data.startswith((*RASTER_STARTS, *TIFF_STARTS))


class ImageReader:
    """An open image file or zarr, whose pages are read one after the other.

    Example:
        >>> with ImageReader("stack.tif") as reader:
        ...     images = [reader.read_image(page) for page in range(len(reader))]
    """

    def __init__(self, file: File) -> None:
        """Open a file.

        Raises:
            SegkitError: The file is missing, not an image, truncated or damaged.
        """
        self.file = file
        with wrap_errors(file):
            self._source = _open_source(file)

    def __len__(self) -> int:
        return len(self._source)

    def read_image(self, page: int | None = None) -> Array:
        """Read one page, see `segkit.images.reading.read_image`."""
        with wrap_errors(self.file):
            return render(self._source.read(page))

    def read_mask(self, page: int | None = None) -> Array:
        """Read one page, see `segkit.images.reading.read_mask`."""
        with wrap_errors(self.file):
            return _simplify_mask(self._source.read(page))

    def read_extent(self, page: int | None = None) -> Extent:
        """Read the size of one page, see `segkit.images.reading.read_extent`."""
        with wrap_errors(self.file):
            return self._source.read_extent(page)

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._source.close()

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _RasterFile:
    """A PNG, JPEG, BMP or WebP."""

    def __init__(self, file: File) -> None:
        self._file = file

    def __len__(self) -> int:
        return 1

    def read(self, page: int | None) -> Raster:
        return decode(self._content(page))

    def read_extent(self, page: int | None) -> Extent:
        with open_raster(self._content(page)) as image:
            return Extent(image.height, image.width, len(image.getbands()))

    def close(self) -> None:
        """Do nothing: the file is read at once."""

    def _content(self, page: int | None) -> bytes:
        choose_page(page, 1)
        return self._file if isinstance(self._file, bytes) else Path(self._file).read_bytes()


def _open_source(file: File) -> TiffImages | ZarrImages | _RasterFile:
    if not isinstance(file, bytes) and is_zarr(file):
        return ZarrImages(file)
    if read_start(file) in TIFF_STARTS:
        # Bytes get no name, so that no metadata of an upload can point a decoder to other files.
        return TiffImages(io.BytesIO(file) if isinstance(file, bytes) else Path(file))
    return _RasterFile(file)


def read_start(file: File) -> bytes:
    """Read the first four bytes."""
    if isinstance(file, bytes):
        return file[:4]
    if Path(file).is_dir():
        raise ValueError("it is a folder but not a zarr: it has no zarr.json, .zarray or .zgroup")
    with Path(file).open("rb") as opened:
        return opened.read(4)


def _simplify_mask(raster: Raster) -> Array:
    """Drop channels that tell nothing, and convert to uint8, uint16 or int32."""
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
        values = _to_int32(values)
    return np.ascontiguousarray(values)


def _to_int32(values: Array) -> npt.NDArray[np.int32]:
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    if values.dtype.kind == "f":
        values = values.astype(np.float64)  # holds every int32, unlike float32
        if not (values == np.trunc(values)).all():  # NaN equals nothing
            raise SegkitError("a mask must hold whole numbers, not fractions or NaN.")
    if values.dtype.kind not in "iuf" or not ((values >= low) & (values <= high)).all():
        raise SegkitError(f"a mask must hold 32-bit integers; its {values.dtype} exceed them.")
    return values.astype(np.int32)


@contextmanager
def wrap_errors(file: File) -> Iterator[None]:
    """Turn whatever a decoder raises into a SegkitError that names the file, and keep it quiet."""
    name = "the file" if isinstance(file, bytes) else file
    before = getattr(_thread, "is_reading", False)
    _thread.is_reading = True
    try:
        yield
    except MemoryError:
        raise
    except SegkitError as error:
        raise SegkitError(f"{name}: {error}") from error
    except Exception as error:  # decoders raise anything: struct.error, zlib.error, IndexError ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SegkitError(f"{name}: cannot be read: {reason.rstrip('.')}.") from error
    finally:
        _thread.is_reading = before


_thread = threading.local()
logging.getLogger("tifffile").addFilter(lambda _: not getattr(_thread, "is_reading", False))
