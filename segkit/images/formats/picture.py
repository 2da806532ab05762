"""PNG, JPEG, BMP, WebP, GIF and JPEG 2000: one picture a file, of an animation the first frame."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import imagecodecs
import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from segkit.images.formats.base import ImageFormat, Pages
from segkit.images.lossy import is_lossy_jpeg2000, is_lossy_webp
from segkit.images.raster import (
    NO_PIXELS,
    ORIENTATION,
    Array,
    Extent,
    Raster,
    parse_orientation,
)

_PLAIN = ("1", "L", "LA", "RGB", "RGBA", "I", "F")
"""Pillow's modes whose values are the ones in the file."""
_PNG_PLAIN = frozenset(b"IHDR IDAT IEND tEXt pHYs gAMA cHRM sRGB iCCP sBIT bKGD tIME".split())
"""Chunks of a PNG that change no pixel. Others may hold an orientation, a palette, frames ..."""
_CODESTREAM = b"\xff\x4f\xff\x51"
"""Start of the pixels of a JPEG 2000, whose size follows."""


class _Picture(Pages):
    """The picture of a file that is read whole.

    Pillow's classes are used directly: Image.open would refuse large images.
    """

    opens: ClassVar[type[ImageFile]]

    def __init__(self, file: Path | bytes) -> None:
        self._file = file

    @cached_property
    def _data(self) -> bytes:
        return self._file if isinstance(self._file, bytes) else self._file.read_bytes()

    def __len__(self) -> int:
        return 1

    def read(self, page: int) -> Raster:
        """Decode it."""
        data = self._data
        with self._open(data) as image:
            self._require_whole(data)
            image.load()
            raster = self._decode(data, image)
            orientation = read_orientation(image)
        is_lossy = self._is_lossy(data)
        return raster._replace(orientation=orientation, is_lossy=is_lossy, is_painted=True)

    def read_extent(self, page: int) -> Extent:
        """Its size."""
        with self._open(self._data) as image:
            return Extent(image.height, image.width, len(image.getbands()))

    def read_size(self, page: int) -> tuple[int, int, int]:
        """Its size and orientation."""
        with self._open(self._data) as image:
            return image.height, image.width, read_orientation(image)

    def read_palette(self, page: int) -> Array | None:
        """The palette in its header."""
        with self._open(self._data) as image:
            return read_palette(image)

    def _open(self, data: bytes) -> ImageFile:
        return self.opens(io.BytesIO(data))

    def _require_whole(self, data: bytes) -> None:
        """Raise a ValueError where Pillow would not miss the end of a file."""

    def _decode(self, data: bytes, image: ImageFile) -> Raster:
        return convert_picture(image)

    def _is_lossy(self, data: bytes) -> bool:
        return False


class _PngPicture(_Picture):
    opens = PngImageFile

    def read(self, page: int) -> Raster:
        """Decode it: what holds only pixels without Pillow, in two thirds of its time."""
        data = self._data
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
            raster = _decode_png(data)
            if colour == 2 and raster.alpha:  # made of the colour that is transparent
                values = raster.values
                return raster._replace(
                    values=values[..., :3], alpha="", missing=values[..., 3] == 0
                )
            return raster
        raster = convert_picture(image)
        values = raster.values
        if bits == 16 and image.mode == "I":  # older Pillow
            values = values.astype(np.uint16)
        if image.mode == "L" and bits in (2, 4):  # Pillow has spread them to 0..255
            values = values // np.uint8(255 // (2**bits - 1))
            raster = raster._replace(bits=bits)
        key = dict(_list_chunks(data)).get(b"tRNS") if colour == 0 else None
        if key is not None:  # one grey, as stored: Pillow spreads it only for 1 bit
            grey = int.from_bytes(data[key : key + 2], "big")
            raster = raster._replace(missing=values[..., 0] == grey)
        return raster._replace(values=values)


class _JpegPicture(_Picture):
    opens = JpegImageFile

    def _is_lossy(self, data: bytes) -> bool:
        return True


class _BmpPicture(_Picture):
    opens = BmpImageFile

    def _decode(self, data: bytes, image: ImageFile) -> Raster:
        is_of_os2 = data[14:18] == b"\x0c\0\0\0"  # with a header that has no number of colours
        bits = int.from_bytes(data[28:30], "little")
        if image.mode == "1" and bits > 1 and not is_of_os2:
            # Black and white in more than one bit, which Pillow reads as one.
            every_colour = data[:46] + bytes(4) + data[50:]  # with more than two it reads a palette
            with self._open(every_colour) as indices:
                return Raster(np.array(indices)[..., None] > 0)
        return convert_picture(image)


class _WebPPicture(_Picture):
    opens = WebPImageFile

    def _is_lossy(self, data: bytes) -> bool:
        return is_lossy_webp(data)


class _GifPicture(_Picture):
    opens = GifImageFile


class _Jpeg2000Picture(_Picture):
    """The components of its codestream, as stored.

    OpenJPEG would apply palettes, and imagecodecs colour profiles, which change the values.
    """

    def read(self, page: int) -> Raster:
        """Decode it."""
        data = self._data
        boxes, palette = _list_boxes(data), _read_palette_box(data)
        edited = bytearray(data)
        for kind, start, _ in boxes:
            is_profile = kind == b"colr" and data[start] == 2
            if is_profile or (palette is not None and kind in (b"pclr", b"cmap")):
                edited[start - 4 : start] = b"free"  # which decoders skip
        if _is_cut_short(data):
            raise ValueError("it is cut short")
        values: Array = imagecodecs.jpeg2k_decode(bytes(edited))
        values = values.reshape(*values.shape[:2], -1)
        # Channel definition: a channel of type 1 is opacity, 2 is premultiplied opacity.
        alpha = 0
        for kind, start, end in boxes:
            if kind == b"cdef":
                kinds = [data[at + 2 : at + 4] for at in range(start + 2, end, 6)]
                alpha = int.from_bytes(kinds[-1], "big") if kinds else 0
        colours = values.shape[2] - (alpha in (1, 2))
        return Raster(
            values,
            palette=palette,
            is_rgb=colours == 3,
            alpha="straight" if alpha == 1 else "premultiplied" if alpha == 2 else "",
            is_lossy=is_lossy_jpeg2000(data),
        )

    def read_extent(self, page: int) -> Extent:
        """Its size, which Pillow reads only where there are at most four components."""
        data = self._data
        at = data.find(_CODESTREAM)
        if at < 0 or len(data) < at + 42:
            raise ValueError("it is damaged: it has no header of a codestream")
        right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
        return Extent(bottom - top, right - left, int.from_bytes(data[at + 40 : at + 42], "big"))

    def read_size(self, page: int) -> tuple[int, int, int]:
        """Its size."""
        extent = self.read_extent(page)
        return extent.height, extent.width, 1

    def read_palette(self, page: int) -> Array | None:
        """The palette in its header."""
        return _read_palette_box(self._data)


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
    starts = (b"\0\0\0\x0cjP  \r\n\x87\n", _CODESTREAM)
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
    return all(
        kind in _PNG_PLAIN and not (kind == b"tEXt" and data.startswith(b"Raw profile", at))
        for kind, at in _list_chunks(data)
    )


def _list_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The kind of each chunk of a PNG, and where its content starts."""
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 8
        at += 12 + size


Box = tuple[bytes, int, int]
"""The kind of a box of JPEG 2000, and where its content starts and ends."""


def _list_boxes(data: bytes, at: int = 0, end: int | None = None) -> list[Box]:
    """The boxes of a JP2 and those in its header; none of a bare codestream."""
    boxes: list[Box] = []
    end = len(data) if end is None else end
    while at + 8 <= end and not data.startswith(_CODESTREAM):
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        stop = at + size if size else end  # 0 is the rest of the file
        if stop < start:
            break
        boxes.append((kind, start, stop))
        if kind == b"jp2h":
            boxes += _list_boxes(data, start, min(stop, end))
        at = stop
    return boxes


def _is_cut_short(data: bytes) -> bool:
    """Whether a codestream ends before all its tiles do, which OpenJPEG would leave black."""
    start = data.find(_CODESTREAM)
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", data, start + 8)
    count = -(-(right - left) // width) * -(-(bottom - top) // height)
    at, tiles = start + 2, set()
    while at + 12 <= len(data):
        marker, size, number = struct.unpack_from(">2sHH", data, at)
        if marker == b"\xff\xd9":
            break
        if marker == b"\xff\x90":  # start of a part of a tile; 0 bytes are all that follow
            tiles.add(number)
            size = int.from_bytes(data[at + 6 : at + 10], "big") or len(data) - at
            at += max(size, 12)
        else:
            at += 2 + size
    return at > len(data) or len(tiles) < count


def _read_palette_box(data: bytes) -> Array | None:
    """The palette (K, 3) of a JP2 that consists of indices of 8 bits into colours of 8 bits."""
    boxes = {kind: data[start:end] for kind, start, end in _list_boxes(data)}
    box, at = boxes.get(b"pclr", b""), data.find(_CODESTREAM)
    count = int.from_bytes(box[:2], "big")
    is_plain = box[2:6] == b"\3\7\7\7" and len(box) == 6 + 3 * count and 0 < count <= 256
    order = bytes.fromhex("000001000000010100000102")  # red, green and blue
    is_in_order = boxes.get(b"cmap") == order and b"cdef" not in boxes
    if not (is_plain and is_in_order and data[at + 41 : at + 43] == b"\1\7"):
        return None
    return np.frombuffer(box, np.uint8, offset=6).reshape(-1, 3)


def read_orientation(image: Image) -> int:
    """The orientation in the EXIF data of a picture; 1, upright, without them."""
    with suppress(Exception):  # damaged EXIF is no reason to refuse the pixels
        return parse_orientation(image.getexif().get(ORIENTATION, 1))
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
