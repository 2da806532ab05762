"""PNG, JPEG, BMP, WebP, GIF and JPEG 2000: one picture a file, of an animation the first frame."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import cv2
import imagecodecs
import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import Image
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from segkit.images.formats.base import ImageFormat, Pages
from segkit.images.lossy import is_lossy_jpeg2000, is_lossy_webp
from segkit.images.raster import NO_PIXELS, ORIENTATION, Array, Extent, Raster

_PLAIN = ("1", "L", "LA", "RGB", "RGBA", "I", "F")
"""Pillow's modes whose values are the ones in the file."""
_PNG_PLAIN = frozenset(b"IHDR IDAT IEND tEXt pHYs gAMA cHRM sRGB iCCP sBIT bKGD tIME".split())
"""Chunks of a PNG that change no pixel. Others may hold an orientation, a palette, frames ..."""


class _Picture(Pages):
    """The picture of a file that is read whole.

    Pillow's classes are used directly: Image.open would refuse large images.
    """

    opens: ClassVar[type[ImageFile]]

    def __init__(self, file: Path | bytes) -> None:
        self._file = file

    def __len__(self) -> int:
        return 1

    def read(self, page: int) -> Raster:
        """Decode it."""
        data = self._read_bytes()
        with self._open(data) as image:
            self._require_whole(data)
            image.load()
            raster = self._decode(data, image)
            orientation = _read_orientation(image)
        is_lossy = self._is_lossy(data)
        return raster._replace(orientation=orientation, is_lossy=is_lossy, is_painted=True)

    def read_extent(self, page: int) -> Extent:
        """Its size."""
        with self._open(self._read_bytes()) as image:
            return Extent(image.height, image.width, len(image.getbands()))

    def read_size(self, page: int) -> tuple[int, int, int]:
        """Its size and orientation."""
        with self._open(self._read_bytes()) as image:
            return image.height, image.width, _read_orientation(image)

    def read_palette(self, page: int) -> Array | None:
        """The palette in its header."""
        with self._open(self._read_bytes()) as image:
            return read_palette(image)

    def _open(self, data: bytes) -> ImageFile:
        try:
            return self.opens(io.BytesIO(data))
        except SyntaxError as error:  # as of JPEGs with 12 bits
            raise ValueError(
                f"it is damaged, or of a kind that is not read ({error}): convert it to PNG or TIFF"
            ) from error

    def _require_whole(self, data: bytes) -> None:
        """Raise a ValueError where Pillow would not miss the end of a file."""

    def _decode(self, data: bytes, image: ImageFile) -> Raster:
        return convert_picture(image)

    def _is_lossy(self, data: bytes) -> bool:
        return False

    def _read_bytes(self) -> bytes:
        return self._file if isinstance(self._file, bytes) else self._file.read_bytes()


class _PngPicture(_Picture):
    opens = PngImageFile

    def read(self, page: int) -> Raster:
        """Decode it: what holds only pixels without Pillow, in two thirds of its time."""
        data = self._read_bytes()
        with self._open(data) as image:
            has_plain_mode = image.mode in ("L", "LA", "RGB", "RGBA") and data[24] >= 8
            if not (has_plain_mode and _has_only_pixels(data)):
                return super().read(page)
        self._require_whole(data)
        return _decode_png(data)

    def _open(self, data: bytes) -> ImageFile:
        if len(data) >= 24:
            width, height = struct.unpack(">II", data[16:24])
            if not (width and height):  # Pillow would not give the reason
                raise ValueError(NO_PIXELS.format(height, width))
        return super()._open(data)

    def _require_whole(self, data: bytes) -> None:
        if b"IEND" not in data:
            raise ValueError("it is cut short")

    def _decode(self, data: bytes, image: ImageFile) -> Raster:
        bits, colour = data[24], data[25]  # colour type: 0 is grey
        if bits == 16 and colour:  # Pillow would reduce it to 8 bits
            return _decode_png(data)
        raster = convert_picture(image)
        values = raster.values
        if bits == 16 and image.mode == "I":  # older Pillow
            values = values.astype(np.uint16)
        if image.mode == "L" and bits in (2, 4):  # Pillow has spread them to 0..255
            return raster._replace(values=values // np.uint8(255 // (2**bits - 1)), bits=bits)
        return raster._replace(values=values)


class _JpegPicture(_Picture):
    opens = JpegImageFile

    def _is_lossy(self, data: bytes) -> bool:
        return True


class _BmpPicture(_Picture):
    opens = BmpImageFile

    def _decode(self, data: bytes, image: ImageFile) -> Raster:
        bits = int.from_bytes(data[28:30], "little")
        if image.mode == "1" and bits > 1:  # black and white in bytes, which Pillow reads as bits
            grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
            return Raster((np.asarray(grey) > 127)[..., None])
        return convert_picture(image)


class _WebPPicture(_Picture):
    opens = WebPImageFile

    def _is_lossy(self, data: bytes) -> bool:
        return is_lossy_webp(data)


class _GifPicture(_Picture):
    opens = GifImageFile


class _Jpeg2000Picture(_Picture):
    """Pillow reads the header; it knows neither 16 bits of colour nor more than four bands."""

    opens = Jpeg2KImageFile

    def read(self, page: int) -> Raster:
        """Decode it."""
        data = self._read_bytes()
        values: Array = imagecodecs.jpeg2k_decode(data)
        values = values.reshape(*values.shape[:2], -1)
        head = data[: data.find(b"\xff\x4f\xff\x51")]
        # Channel definition: a channel of type 1 is opacity, 2 is premultiplied opacity.
        at, alpha = head.find(b"cdef"), 0
        if at >= 0:
            count = int.from_bytes(head[at + 4 : at + 6], "big")
            kinds = [head[at + 8 + 6 * i : at + 10 + 6 * i] for i in range(count)]
            alpha = int.from_bytes(kinds[-1], "big") if kinds else 0
        colours = values.shape[2] - (alpha in (1, 2))
        return Raster(
            values,
            is_rgb=colours == 3,
            alpha="straight" if alpha == 1 else "premultiplied" if alpha == 2 else "",
            is_lossy=is_lossy_jpeg2000(data),
        )


class _OnePicture:
    """Formats with one picture a file."""

    takes_content = True
    has_pages = False
    reader: ClassVar[type[_Picture]]

    @classmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Open the picture."""
        return cls.reader(file)


class Png(_OnePicture, ImageFormat, name="png"):
    """PNG of every depth and colour type; APNG."""

    title = "PNG"
    suffixes = (".png", ".apng")
    starts = (b"\x89PNG",)
    reader = _PngPicture


class Jpeg(_OnePicture, ImageFormat, name="jpeg"):
    """JPEG: grey, colour and CMYK."""

    title = "JPEG"
    suffixes = (".jpg", ".jpeg", ".jfif", ".jpe")
    starts = (b"\xff\xd8",)
    reader = _JpegPicture


class Bmp(_OnePicture, ImageFormat, name="bmp"):
    """Windows bitmaps."""

    title = "BMP"
    suffixes = (".bmp",)
    starts = (b"BM",)
    reader = _BmpPicture


class WebP(_OnePicture, ImageFormat, name="webp"):
    """WebP, lossy and lossless."""

    title = "WebP"
    suffixes = (".webp",)
    starts = (b"RIFF",)
    reader = _WebPPicture


class Gif(_OnePicture, ImageFormat, name="gif"):
    """GIF."""

    title = "GIF"
    suffixes = (".gif",)
    starts = (b"GIF8",)
    reader = _GifPicture


class Jpeg2000(_OnePicture, ImageFormat, name="jpeg2000"):
    """JPEG 2000 of any depth and number of bands."""

    title = "JPEG 2000"
    suffixes = (".jp2", ".j2k", ".jpx", ".jpf", ".j2c")
    starts = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
    reader = _Jpeg2000Picture


def _decode_png(data: bytes) -> Raster:
    values: Array = imagecodecs.png_decode(data)
    values = values.reshape(*values.shape[:2], -1)
    channels = values.shape[2]
    return Raster(
        values,
        is_rgb=channels > 2,
        alpha="straight" if channels in (2, 4) else "",
        is_painted=True,
    )


def _has_only_pixels(data: bytes) -> bool:
    """Whether no chunk of a PNG says more of its pixels than their values."""
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        is_profile = kind == b"tEXt" and data.startswith(b"Raw profile", at + 8)
        if kind not in _PNG_PLAIN or is_profile:
            return False
        at += 12 + size
    return True


def _read_orientation(image: Image) -> int:
    with suppress(Exception):  # damaged EXIF is no reason to refuse the pixels
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def read_palette(image: Image) -> Array | None:
    """The palette (K, 3) of a picture, if it has one."""
    if image.mode != "P":
        return None
    return np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)


def convert_picture(image: Image) -> Raster:
    """The pixels of a loaded image."""
    key = image.info.get("transparency")
    if image.mode == "P":
        colours = read_palette(image)
        assert colours is not None
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(colours)] = colours
        indices = np.array(image)
        opacity = np.full(256, 255, np.uint8)
        if isinstance(key, int):
            opacity[key] = 0
        elif key:
            opacity[: len(key)] = np.frombuffer(key, np.uint8)
        missing = opacity[indices] == 0
        return Raster(
            indices[..., None], palette=palette, missing=missing if missing.any() else None
        )
    if image.mode not in _PLAIN and image.mode[:4] != "I;16":
        image = image.convert("RGB")
        key = None
    values = np.array(image)
    values = values.reshape(*values.shape[:2], -1)
    missing = None
    if key is not None and image.mode in ("L", "RGB"):
        missing = (values == np.asarray(key, np.uint8)).all(axis=2)
    return Raster(
        values,
        is_rgb=image.mode in ("RGB", "RGBA"),
        alpha="straight" if image.mode in ("LA", "RGBA") else "",
        missing=missing,
    )
