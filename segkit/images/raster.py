"""Decoded pixels, and the decoders of PNG, JPEG, BMP and WebP."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

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

Array = npt.NDArray[Any]

ORIENTATION = 0x0112
"""The orientation tag of EXIF and TIFF."""

_OPENERS: dict[bytes, Callable[[io.BytesIO], ImageFile]] = {
    b"\x89PNG": PngImageFile,
    b"\xff\xd8": JpegImageFile,
    b"BM": BmpImageFile,
    b"RIFF": WebPImageFile,
}
RASTER_STARTS = tuple(_OPENERS)
"""The first bytes of the formats that `decode` reads."""


class Raster(NamedTuple):
    """Pixels as stored, in native byte order, and how to display them."""

    values: Array  # (H, W, C); palette indices; bool for 1 bit
    palette: Array | None = None  # (K, 3) uint8
    is_rgb: bool = False  # the first three channels are one colour
    has_alpha: bool = False  # the last channel is alpha
    white_is_zero: bool = False
    bits: int = 0  # of a grey value; 0 where it fills its dtype


class Extent(NamedTuple):
    """The size of an image as its header states it, before its orientation is applied."""

    height: int
    width: int
    channels: int

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width


def render(raster: Raster) -> Array:
    """The image as a viewer shows it, (H, W, C) uint8, uint16 or float32; see `read_image`."""
    values = raster.values
    if raster.palette is not None:
        return raster.palette[values[..., 0]]
    if raster.white_is_zero and values.dtype.kind in "bu":
        values = ~values if values.dtype.kind == "b" else _maximum(raster) - values
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    elif raster.bits in (2, 4):
        values = values * np.uint8(255 // (2**raster.bits - 1))
    elif values.dtype not in (np.uint8, np.uint16):
        values = values.astype(np.float32)
    return np.ascontiguousarray(values)


def _maximum(raster: Raster) -> Any:
    return raster.values.dtype.type(2 ** (raster.bits or 8 * raster.values.itemsize) - 1)


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


def decode(data: bytes) -> Raster:
    """Decode a PNG, JPEG, BMP or WebP."""
    with open_raster(data) as image:
        is_png = isinstance(image, PngImageFile)
        if is_png and b"IEND" not in data:  # Pillow does not miss the end
            raise ValueError("it is cut short")
        image.load()
        bits, colour = (data[24], data[25]) if is_png else (8, 0)  # PNG colour type: 0 is grey
        if bits == 16 and colour:  # Pillow would reduce it to 8 bits
            values: Array = imagecodecs.png_decode(data)
            raster = Raster(values, is_rgb=colour != 4, has_alpha=values.shape[2] in (2, 4))
        else:
            raster = convert_pillow(image, bits)
        orientation = 1
        with suppress(Exception):  # damaged EXIF is no reason to refuse the pixels
            orientation = image.getexif().get(ORIENTATION, 1)
    return raster._replace(values=rotate_upright(raster.values, orientation))


def require_pixels(height: int, width: int) -> None:
    """Raise a ValueError for an image without pixels, as faulty cropping programs leave them."""
    if height < 1 or width < 1:
        raise ValueError(f"it has no pixels, only {height} x {width}: save it again or remove it")


def open_raster(data: bytes) -> ImageFile:
    """Read the header of a PNG, JPEG, BMP or WebP."""
    # Not Image.open, which rejects large images as suspicious.
    opener = next((opens for start, opens in _OPENERS.items() if data.startswith(start)), None)
    if opener is None:
        raise ValueError("it is not a PNG, JPEG, TIFF, BMP or WebP" if data else "it is empty")
    if opener is PngImageFile and len(data) >= 24:  # Pillow would not give the reason
        require_pixels(*struct.unpack(">II", data[16:24])[::-1])
    return opener(io.BytesIO(data))


def rotate_upright(values: Array, orientation: int) -> Array:
    """Apply an EXIF orientation: 1 is upright, 6 lies on its left side."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def convert_pillow(image: Image, bits: int) -> Raster:
    """The pixels of a loaded Pillow image with that many bits per channel."""
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
    if image.mode == "L" and bits in (2, 4):  # Pillow has spread them to 0..255
        values = values // np.uint8(255 // (2**bits - 1))
    return Raster(
        values.reshape(*values.shape[:2], -1),
        is_rgb=image.mode in ("RGB", "RGBA"),
        has_alpha=image.mode in ("LA", "RGBA"),
        bits=bits if image.mode == "L" and bits < 8 else 0,
    )
