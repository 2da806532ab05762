"""Image and mask files to arrays.

The first bytes of a file determine its format, not its suffix. An *image* is read as a viewer shows
it: palettes become colours, 1 bit black and white, and white-is-zero is inverted. A *mask* is read
as the numbers in the file: palettes stay indices, and 1 bit is 0 and 1, where 1 is white. The EXIF
(or TIFF) orientation applies to both, because the mask was drawn over the rotated image.

In a TIFF the samples of one page are channels, interleaved or plane by plane. Several pages are
channels of one image only where the file's own metadata (OME, ImageJ or tifffile's) name that axis
C; all others are pages, from which the caller chooses. Overviews and transparency masks do not
count. A folder that is a zarr is read too, see `segkit.images.zarr_store`.
"""

from __future__ import annotations

import io
import logging
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL.BmpImagePlugin import BmpImageFile
from PIL.Image import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from segkit.core.errors import SegkitError
from segkit.images.raster import (
    NO_PIXELS,
    ORIENTATION,
    Array,
    Extent,
    Raster,
    is_opaque,
    rotate_upright,
)
from segkit.images.tiff import TIFF_STARTS, TiffImages
from segkit.images.zarr_store import ZarrImages

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
"""Suffixes of the files that can be read, in lower case."""

File = str | Path | bytes
"""The path of a file or zarr, or the content of a file, which error messages call "the file"."""

_OPENERS: dict[bytes, Callable[[io.BytesIO], ImageFile]] = {
    b"\x89PNG": PngImageFile,
    b"\xff\xd8": JpegImageFile,
    b"BM": BmpImageFile,
    b"RIFF": WebPImageFile,
}
"""Pillow's classes by the first bytes of their files. Image.open would refuse large images."""


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
    return data.startswith((*_OPENERS, *TIFF_STARTS))


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
            self._source = open_source(file)

    def __len__(self) -> int:
        return len(self._source)

    def read_image(self, page: int | None = None) -> Array:
        """Read one page, see `segkit.images.reading.read_image`."""
        with wrap_errors(self.file):
            return render(self._source.read(choose_page(page, len(self))))

    def read_mask(self, page: int | None = None) -> Array:
        """Read one page, see `segkit.images.reading.read_mask`."""
        with wrap_errors(self.file):
            return _simplify_mask(self._source.read(choose_page(page, len(self))))

    def read_extent(self, page: int | None = None) -> Extent:
        """Read the size of one page, see `segkit.images.reading.read_extent`."""
        with wrap_errors(self.file):
            return self._source.read_extent(choose_page(page, len(self)))

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._source.close()

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_source(file: File) -> TiffImages | ZarrImages | RasterFile:
    """Open the images of a file, in the format that its first bytes tell."""
    if isinstance(file, bytes):
        start = file[:4]
    elif Path(file).is_dir():
        return ZarrImages(Path(file))
    else:
        with Path(file).open("rb") as opened:
            start = opened.read(4)
    if start in TIFF_STARTS:
        # Bytes get no name, so that no metadata of an upload can point a decoder to other files.
        return TiffImages(io.BytesIO(file) if isinstance(file, bytes) else Path(file))
    return RasterFile(file)


def choose_page(page: int | None, count: int) -> int:
    """The page to read of a file with that many pages.

    Raises:
        SegkitError: There are several pages and none was chosen, or there is no such page.
        ValueError: There are no pages.
    """
    if not count:
        raise ValueError("it has no pages, or is truncated")
    if page is None and count > 1:
        raise SegkitError(
            f"the file has {count} pages; choose one of 0 to {count - 1}. To store the channels of"
            " one image, put them into one page (as samples) or into an axis named C."
        )
    if not 0 <= (page or 0) < count:
        raise SegkitError(f"there is no page {page}; the file has pages 0 to {count - 1}.")
    return page or 0


class RasterFile:
    """The one image of a PNG, JPEG, BMP or WebP."""

    def __init__(self, file: File) -> None:
        self._file = file

    def __len__(self) -> int:
        return 1

    def read(self, page: int) -> Raster:
        """Decode it; errors of the decoders are passed on."""
        data = self._read_bytes()
        with _open_image(data) as image:
            is_png = isinstance(image, PngImageFile)
            if is_png and b"IEND" not in data:  # Pillow does not miss the end
                raise ValueError("it is cut short")
            image.load()
            bits, colour = (data[24], data[25]) if is_png else (8, 0)  # PNG colour type: 0 is grey
            if bits == 16 and colour:  # Pillow would reduce it to 8 bits
                values: Array = imagecodecs.png_decode(data)
                raster = Raster(values, is_rgb=colour != 4, has_alpha=values.shape[2] in (2, 4))
            else:
                raster = _convert_image(image, bits)
            orientation = 1
            with suppress(Exception):  # damaged EXIF is no reason to refuse the pixels
                orientation = image.getexif().get(ORIENTATION, 1)
        if orientation == 1:
            return raster
        return raster._replace(values=rotate_upright(raster.values, orientation))

    def read_extent(self, page: int) -> Extent:
        """Its size."""
        with _open_image(self._read_bytes()) as image:
            return Extent(image.height, image.width, len(image.getbands()))

    def open_windows(self, page: int) -> None:
        """Return None: it can only be read whole."""

    def close(self) -> None:
        """Do nothing: the file is read at once."""

    def _read_bytes(self) -> bytes:
        return self._file if isinstance(self._file, bytes) else Path(self._file).read_bytes()


def _open_image(data: bytes) -> ImageFile:
    """Read the header of a PNG, JPEG, BMP or WebP."""
    opener = next((opens for start, opens in _OPENERS.items() if data.startswith(start)), None)
    if opener is None:
        raise ValueError("it is not a PNG, JPEG, TIFF, BMP or WebP" if data else "it is empty")
    if opener is PngImageFile and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        if not (width and height):  # Pillow would not give the reason
            raise ValueError(NO_PIXELS.format(height, width))
    return opener(io.BytesIO(data))


def _convert_image(image: Image, bits: int) -> Raster:
    """The pixels of a loaded image with that many bits per channel."""
    if image.mode == "P":
        colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(colours)] = colours
        return Raster(np.array(image)[..., None], palette=palette)
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "I", "F") and image.mode[:4] != "I;16":
        image = image.convert("RGB")
    values = np.array(image)
    if bits == 16 and image.mode == "I":  # older Pillow
        values = values.astype(np.uint16)
    is_packed = image.mode == "L" and bits in (2, 4)
    if is_packed:  # Pillow has spread them to 0..255
        values = values // np.uint8(255 // (2**bits - 1))
    return Raster(
        values.reshape(*values.shape[:2], -1),
        is_rgb=image.mode in ("RGB", "RGBA"),
        has_alpha=image.mode in ("LA", "RGBA"),
        bits=bits if is_packed else 0,
    )


def render(raster: Raster) -> Array:
    """The image as a viewer shows it, (H, W, C) uint8, uint16 or float32; see `read_image`."""
    values = raster.values
    if raster.palette is not None:
        return np.take(raster.palette, values[..., 0], axis=0)  # bool for 1 bit
    if raster.white_is_zero and values.dtype == np.bool_:
        values = ~values
    elif raster.white_is_zero and values.dtype.kind == "u":
        values = values.dtype.type(2 ** (raster.bits or 8 * values.itemsize) - 1) - values
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    elif raster.bits in (2, 4):
        values = values * np.uint8(255 // (2**raster.bits - 1))
    elif values.dtype not in (np.uint8, np.uint16):
        values = values.astype(np.float32)
    return np.ascontiguousarray(values)


def _simplify_mask(raster: Raster) -> Array:
    """Drop channels that tell nothing, and convert to uint8, uint16 or int32."""
    values = raster.values
    if values.dtype == np.bool_:
        values = (values ^ raster.white_is_zero).astype(np.uint8)
    if raster.has_alpha and values.shape[2] in (2, 4) and is_opaque(values):
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
    """Turn all errors of decoders into a SegkitError that names the file; hide their warnings."""
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
        remedy = " Save it again with deflate or LZW." if "not supported" in reason else ""
        raise SegkitError(f"{name}: cannot be read: {reason.rstrip('.')}.{remedy}") from error
    finally:
        _thread.is_reading = before


_thread = threading.local()
logging.getLogger("tifffile").addFilter(lambda _: not getattr(_thread, "is_reading", False))
