"""PNG, JPEG, BMP and WebP to pixels as they are stored."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import cv2
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
"""The tag of EXIF and of TIFF."""

_OPENERS: dict[bytes, Callable[[io.BytesIO], ImageFile]] = {
    b"\x89PNG": PngImageFile,
    b"\xff\xd8": JpegImageFile,
    b"BM": BmpImageFile,
    b"RIFF": WebPImageFile,
}
RASTER_STARTS = tuple(_OPENERS)
"""The first bytes of what `decode` takes."""


class Raster(NamedTuple):
    """Pixels as stored, and what is needed to show them."""

    values: Array  # (H, W, C); palette indices, bool for 1 bit
    palette: Array | None = None  # (K, 3) uint8
    is_rgb: bool = False  # the first three channels are one colour
    has_alpha: bool = False  # the last channel is opacity
    white_is_zero: bool = False
    step: int = 1  # from one grey level to the next when shown: 17 for 4 bits, 85 for 2


def shown(raster: Raster) -> Array:
    """The picture as a viewer shows it: (H, W, C) uint8, uint16 or float32, see `read_image`."""
    values = raster.values
    if raster.palette is not None:
        return raster.palette[values[..., 0]]
    if raster.white_is_zero and values.dtype.kind in "bu":
        values = ~values
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    elif raster.step > 1:
        values = values * np.uint8(raster.step)
    elif values.dtype not in (np.uint8, np.uint16):
        values = values.astype(np.float32)
    return np.ascontiguousarray(values)


def native(raster: Raster) -> Raster:
    """The same pixels in the byte order of this machine."""
    values = raster.values
    return raster._replace(values=values.astype(values.dtype.newbyteorder("="), copy=False))


def choose_page(page: int | None, count: int) -> int:
    """The page that a reader names, of so many.

    Raises:
        SegkitError: There are several and none was named, or no such page.
        ValueError: There is none.
    """
    if not count:
        raise ValueError("it holds no page, or is cut short")
    if page is None and count > 1:
        raise SegkitError(
            f"the file has {count} pages, name one of 0 to {count - 1}. Channels of "
            "one image belong into one page (samples) or into an axis that the file calls C."
        )
    if not 0 <= (page or 0) < count:
        raise SegkitError(f"there is no page {page}, the file has 0 to {count - 1}.")
    return page or 0


def decode(data: bytes) -> Raster:
    """PNG, JPEG, BMP or WebP."""
    with open_raster(data) as image:
        is_png = isinstance(image, PngImageFile)
        if is_png and b"IEND" not in data:  # Pillow is content without the end
            raise ValueError("it is cut short")
        image.load()
        bits, colour = (data[24], data[25]) if is_png else (8, 0)  # PNG's colour type: 0 is grey
        if bits == 16 and colour:  # Pillow would cut it to 8 bits
            values = decode_with_opencv(data, 0)
            if colour == 4:  # grey with alpha, which OpenCV makes B, G, R, A
                values = values[..., [0, 3]]
            raster = Raster(values, is_rgb=colour != 4, has_alpha=values.shape[2] in (2, 4))
        else:
            raster = from_pillow(image, bits)
        orientation = 1
        with suppress(Exception):  # damaged EXIF is no reason to refuse the pixels
            orientation = image.getexif().get(ORIENTATION, 1)
    return raster._replace(values=upright(raster.values, orientation))


def require_pixels(height: int, width: int) -> None:
    """Raises where a picture has none: such files are left by programs that crop or fail."""
    if height < 1 or width < 1:
        raise ValueError(
            f"it has no pixels, only {height} x {width}: save it again or leave it out"
        )


def open_raster(data: bytes) -> ImageFile:
    """PNG, JPEG, BMP or WebP of which only the head is read."""
    # The classes themselves and not Image.open, which refuses large pictures as suspect.
    opener = next((opens for start, opens in _OPENERS.items() if data.startswith(start)), None)
    if opener is None:
        raise ValueError("it is no PNG, JPEG, TIFF, BMP or WebP" if data else "it is empty")
    if opener is PngImageFile and len(data) >= 24:  # Pillow would not say what is wrong
        require_pixels(*struct.unpack(">II", data[16:24])[::-1])
    return opener(io.BytesIO(data))


def upright(values: Array, orientation: int) -> Array:
    """Undo an EXIF orientation: 1 is upright, 6 for example lies on its left side."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def from_pillow(image: Image, bits: int) -> Raster:
    """The pixels of a loaded picture of so many bits per channel."""
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
    step = {2: 85, 4: 17}.get(bits, 1) if image.mode == "L" else 1
    return Raster(
        (values // step if step > 1 else values).reshape(*values.shape[:2], -1),
        is_rgb=image.mode in ("RGB", "RGBA"),
        has_alpha=image.mode in ("LA", "RGBA"),
        step=step,
    )


def decode_with_opencv(data: bytes, page: int) -> Array:
    """One page as (H, W, C), RGB order."""
    buffer = np.frombuffer(data, np.uint8)
    if page == 0:  # the frames of an animation are not decoded
        picture = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    else:
        done, pages = cv2.imdecodemulti(buffer, cv2.IMREAD_UNCHANGED)
        picture = pages[page] if done and page < len(pages) else None
    if picture is None:
        raise ValueError("it is damaged or cut short")
    values: Array = picture.reshape(*picture.shape[:2], -1)
    bgr = values.shape[2] in (3, 4)
    return values[..., [2, 1, 0, 3][: values.shape[2]]] if bgr else values
