"""PNG, JPEG, BMP and WebP to pixels as they are stored."""

from __future__ import annotations

import io
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

Array = npt.NDArray[Any]

ORIENTATION = 0x0112
"""The tag of EXIF and of TIFF."""

_OPENERS: dict[bytes, Callable[[io.BytesIO], ImageFile]] = {
    b"\x89PNG": PngImageFile,
    b"\xff\xd8": JpegImageFile,
    b"BM": BmpImageFile,
    b"RIFF": WebPImageFile,
}


class Raster(NamedTuple):
    """Pixels as stored, and what is needed to show them."""

    values: Array  # (H, W, C); palette indices, bool for 1 bit
    palette: Array | None = None  # (K, 3) uint8
    is_rgb: bool = False  # the first three channels are one colour
    has_alpha: bool = False  # the last channel is opacity
    white_is_zero: bool = False
    step: int = 1  # from one grey level to the next when shown: 17 for 4 bits, 85 for 2


def decode(data: bytes) -> Raster:
    """PNG, JPEG, BMP or WebP."""
    # The classes themselves and not Image.open, which refuses large pictures as suspect.
    opener = next((opens for start, opens in _OPENERS.items() if data.startswith(start)), None)
    if opener is None:
        raise ValueError("it is no PNG, JPEG, TIFF, BMP or WebP" if data else "it is empty")
    is_png = opener is PngImageFile
    if is_png and b"IEND" not in data:  # Pillow is content without the end
        raise ValueError("it is cut short")
    with opener(io.BytesIO(data)) as image:
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
    done, pages = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if not done or page >= len(pages):
        raise ValueError("it is damaged or cut short")
    values: Array = pages[page].reshape(*pages[page].shape[:2], -1)
    bgr = values.shape[2] in (3, 4)
    return values[..., [2, 1, 0, 3][: values.shape[2]]] if bgr else values
