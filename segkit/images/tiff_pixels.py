"""The pixels of a page of a TIFF, as stored: whole, or windows of them.

tifffile and imagecodecs decode. Windows of packed images are cut from strips or tiles in a cache of
our own, because zarr over tifffile takes 2 to 18 times as long (400 windows of 512 x 512: deflated
tiles 0.6 against 0.1 s, deflated strips 2.4 against 0.1 s).
"""

from __future__ import annotations

import io
import math
import struct
import threading
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import tifffile
from PIL.TiffImagePlugin import TiffImageFile

from segkit.images.lossy import is_lossy_jpeg2000, is_lossy_jpegxl, is_lossy_lerc, is_lossy_webp
from segkit.images.place import GDAL_NODATA
from segkit.images.raster import (
    ORIENTATION,
    Array,
    Raster,
    parse_orientation,
    require_numbers,
    rotate_upright,
    saves_memory,
)
from segkit.images.stated_size import require_room_for_picture

CACHE = 256 * 2**20
"""Bytes of decoded strips or tiles that an image opened for windows keeps at most."""
CACHED_ROWS = 1024
"""Rows of an image whose strips or tiles are kept, if they fit."""

_AXES = ("YX", "YXS", "SYX")
"""tifffile's names for the axes of a page that is one image."""
_JPEG = (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.JPEG_2000_LOSSY)
_LOSSY = (6, 7, 22610, 33007, 34892, 34934)  # JPEG in four ways, JPEG XR in two
_LERC = 34887
_MAYBE_LOSSY = {
    **dict.fromkeys((33003, 33004, 33005, 34712), is_lossy_jpeg2000),
    **dict.fromkeys((34927, 50001), is_lossy_webp),
    **dict.fromkeys((50002, 52546), is_lossy_jpegxl),
    _LERC: is_lossy_lerc,
}
_PICTURES = frozenset((*tifffile.TIFF.IMAGE_COMPRESSIONS, _LERC, 34927))
"""Compressions with a header of their own."""
_HEADER = 2**16
"""Bytes of a strip or tile that tell whether it is lossy, at most; of LERC all may be packed."""
_GREY = ("MINISWHITE", "MINISBLACK", "MASK", "DEPTH_MAP")
_RGB = ("RGB", "YCBCR", "LINEAR_RAW")
_ALPHA: dict[int, Literal["straight", "premultiplied"]] = {1: "premultiplied", 2: "straight"}
_INK_SET, _SUBSAMPLING = 332, 530
_LAYOUT = frozenset((*range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 317, 320))
_LAYOUT |= {322, 323, 324, 325, _INK_SET, 338, 339, 347, _SUBSAMPLING}
"""Tags without which pixels would be read wrong."""

Part = Any
"""A tifffile.TiffPage or TiffFrame, which tifffile does not type."""


def require_data(part: Part) -> None:
    """Raise a ValueError where the file ends before the pixels do, or does not describe them."""
    page, tiff, file = part.keyframe, part.keyframe.parent.tiff, part.keyframe.parent.filehandle
    file.seek(page.offset)
    (count,) = struct.unpack(tiff.tagnoformat, file.read(tiff.tagnosize))
    for _ in range(count):
        (code,) = struct.unpack_from(tiff.byteorder + "H", file.read(tiff.tagsize))
        if code in _LAYOUT and code not in page.tags:  # tifffile goes on without it
            raise ValueError(f"it is damaged, or cut short: its tag {code} cannot be read")
    if len(part.dataoffsets) != len(part.databytecounts):
        raise ValueError("it is damaged: its strips or tiles have no place or no size")
    ends = map(sum, zip(part.dataoffsets, part.databytecounts, strict=True))
    if max(ends, default=math.inf) > part.parent.filehandle.size:
        raise ValueError("it is cut short")


def read_orientation(page: Part) -> int:
    """The orientation of a page, 1 to 8; 1 where it states none."""
    return parse_orientation(page.tags.valueof(ORIENTATION, 1))


def _describe(part: Part, values: Array) -> Raster:
    """Pixels of a page, (h, w, C) in native byte order, with how to display them.

    Raises:
        ValueError: Its colours are of a kind that is not converted.
    """
    page = part.keyframe
    require_numbers(page.dtype)
    kind = tifffile.PHOTOMETRIC(page.photometric).name
    is_cmyk = kind == "SEPARATED" and page.tags.valueof(_INK_SET, 1) == 1
    if kind not in (*_GREY, *_RGB, "PALETTE", "SEPARATED"):
        raise ValueError(f"its colours are {kind}, which is not converted: save it as RGB")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    is_grey = kind in _GREY and values.dtype.kind == "u"
    return Raster(
        values,
        palette=read_palette(page),
        is_rgb=kind in _RGB,
        is_cmyk=is_cmyk and values.shape[2] >= 4,
        alpha=_ALPHA.get(int(page.extrasamples[-1]), "") if page.extrasamples else "",
        white_is_zero=kind == "MINISWHITE",
        bits=page.bitspersample if is_grey and page.bitspersample < page.dtype.itemsize * 8 else 0,
        nodata=read_nodata(page),
        is_lossy=_is_lossy(part),
    )


def _is_lossy(part: Part) -> bool:
    """Whether a page is compressed so that values have changed, by its first strip or tile."""
    compression = int(part.keyframe.compression)
    tell = _MAYBE_LOSSY.get(compression)
    if tell is None:
        return compression in _LOSSY
    for offset, count in zip(part.dataoffsets, part.databytecounts, strict=True):
        if offset and count:
            part.parent.filehandle.seek(offset)
            size = count if compression == _LERC else min(count, _HEADER)
            return tell(part.parent.filehandle.read(size))
    return False


def read_palette(page: Part) -> Array | None:
    """The colours of a page's values, (K, 3) uint8; None if it has no palette."""
    if page.photometric != tifffile.PHOTOMETRIC.PALETTE:
        return None
    colours = page.colormap.T
    # old writers store 8 bits instead of 16, as libtiff assumes too
    palette: Array = (colours >> 8 if colours.max(initial=0) > 255 else colours).astype(np.uint8)
    return palette


def read_nodata(page: Part) -> float | None:
    """The value that GDAL's tag gives to pixels without data; NaN needs none."""
    try:
        value = float(str(page.tags.valueof(GDAL_NODATA, "")).strip("\0 "))
    except ValueError:
        return None
    if page.dtype.kind == "f":  # written with more digits than it has, or for 64 bits
        most = float(np.finfo(page.dtype).max)
        value = float(page.dtype.type(min(max(value, -most), most)))
    return None if math.isnan(value) else value


def _is_plain_ycbcr(page: Part) -> bool:
    """Whether it holds luma and chroma without JPEG, which tifffile does not convert."""
    return page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression not in _JPEG


def decode_part(part: Part) -> Raster:
    """All pixels of a page or frame, (H, W, C).

    Raises:
        ValueError: They are missing, or of a kind that is not converted; decoders raise others.
    """
    require_data(part)
    page = part.keyframe
    if _is_plain_ycbcr(page):
        return _decode_with_pillow(part)
    if page.axes not in _AXES:
        raise ValueError(f"a page with the axes {page.axes} is not an image")
    if page.compression in _PICTURES:
        file = part.parent.filehandle
        for offset, count in zip(part.dataoffsets, part.databytecounts, strict=True):
            file.seek(offset)
            require_room_for_picture(file.read(count))
    values = part.asarray()
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    raster = _describe(part, values.reshape(*values.shape[:2], -1))
    return raster._replace(orientation=read_orientation(page))


def _decode_with_pillow(part: Part) -> Raster:
    page, file = part.keyframe, part.parent.filehandle
    if page.compression == 1 and tuple(page.tags.valueof(_SUBSAMPLING, (2, 2))) != (1, 1):
        raise ValueError("it holds uncompressed YCbCr with subsampled chroma: save it as RGB")
    file.seek(0)
    with TiffImageFile(io.BytesIO(file.read())) as image:
        image.seek(part.index)
        turned = read_orientation(page)
        # Pillow gives it upright: turn it back
        stored = rotate_upright(np.array(image.convert("RGB")), {6: 8, 8: 6}.get(turned, turned))
    return Raster(stored, is_rgb=True, orientation=turned)


def join_channels(rasters: list[Raster]) -> Raster:
    """One image of one that is complete, or of several that are its channels."""
    if len(rasters) == 1:
        return rasters[0]
    values = np.concatenate([raster.values for raster in rasters], axis=2)
    first = rasters[0]
    return Raster(
        values,
        white_is_zero=first.white_is_zero,
        nodata=first.nodata,
        is_lossy=first.is_lossy,
        orientation=first.orientation,
    )


class WindowReader:
    """Reads windows of one image from its parts. Several threads may read at once.

    Attributes:
        size: Height and width of the image.
        kind: What is stored, without pixels.
    """

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        pages = [part.keyframe for part in parts]
        page = pages[0]
        self.size = page.imagelength, page.imagewidth
        self._dtype = np.dtype(page.dtype).newbyteorder("=")
        empty = [np.empty((0, 0, page.samplesperpixel), self._dtype) for page in pages]
        self.kind = join_channels(list(map(_describe, parts, empty)))
        self._segment = _segment_size(page)
        self._lock = threading.Lock()
        rows = CACHED_ROWS + self._segment[0]
        row_bytes = self.size[1] * self.kind.values.shape[2] * self._dtype.itemsize
        segment_bytes = math.prod(self._segment) * page.shaped[-1] * self._dtype.itemsize
        count = min(rows * row_bytes, CACHE) // segment_bytes
        # not a bound method: it would keep the reader, and so itself, alive
        self._decode = lru_cache(max(count, 4))(partial(_decode_segment, self._lock))

    def read(self, top: int, left: int, height: int, width: int) -> Raster:
        """A window as stored."""
        values = np.empty((height, width, self.kind.values.shape[2]), self._dtype)
        first = 0
        for part in self._parts:
            planes, *_, samples = part.keyframe.shaped
            read = self._read_rows if part.keyframe.is_final else self._read_segments
            for plane in range(planes):
                read(part, plane, top, left, values[..., first : first + samples])
                first += samples
        return self.kind._replace(values=values)

    def _read_rows(self, part: Part, plane: int, top: int, left: int, out: Array) -> None:
        """Fill a window from pixels that lie row after row in the file, and not packed."""
        page, (height, width) = part.keyframe, self.size
        stored = np.empty(out.shape, part.parent.byteorder + page.dtype.char)
        rows = stored.reshape(len(out), -1).view(np.uint8)
        pixel, file = out.shape[2] * stored.itemsize, part.parent.filehandle
        offset = part.dataoffsets[0] + ((plane * height + top) * width + left) * pixel
        with self._lock:
            for y, row in enumerate(rows):
                file.seek(offset + y * width * pixel)
                if file.readinto(row) < row.nbytes:
                    raise ValueError("it is cut short")
        out[:] = stored

    def _read_segments(self, part: Part, plane: int, top: int, left: int, out: Array) -> None:
        """Fill a window from the strips or tiles that it touches."""
        h, w = self._segment
        columns = -(-self.size[1] // w)
        first = plane * columns * -(-self.size[0] // h)
        bottom, right = top + out.shape[0], left + out.shape[1]
        for row in range(top // h, (bottom - 1) // h + 1):
            for column in range(left // w, (right - 1) // w + 1):
                segment = self._decode(part, first + row * columns + column)
                y, x = row * h, column * w
                first_y, last_y = max(top, y), min(bottom, y + h)
                first_x, last_x = max(left, x), min(right, x + w)
                out[first_y - top : last_y - top, first_x - left : last_x - left] = segment[
                    first_y - y : last_y - y, first_x - x : last_x - x
                ]


def _decode_segment(lock: threading.Lock, part: Part, index: int) -> Array:
    """Decode a strip or tile, (h, w, samples)."""
    page = part.keyframe
    offset, count = part.dataoffsets[index], part.databytecounts[index]
    data = None
    if offset and count:
        with lock:
            part.parent.filehandle.seek(offset)
            data = part.parent.filehandle.read(count)
        if len(data) < count:
            raise ValueError("it is cut short")
        if page.compression in _PICTURES:
            require_room_for_picture(data)
    options = {"jpegtables": part.jpegtables, "jpegheader": page.jpegheader}
    given = {name: value for name, value in options.items() if value is not None}
    segment, _, shape = page.decode(data, index, **given)
    if segment is None:  # left out of a sparse file
        return np.full(shape[1:], page.nodata, page.dtype)
    return np.asarray(segment[0])


def has_windows(part: Part, one: Part) -> bool:
    """Whether windows of a part can be read, in the same pieces as those of another part."""
    page, first = part.keyframe, one.keyframe
    size, segment = (page.imagelength, page.imagewidth), _segment_size(page)
    return (
        page.axes in _AXES
        and not _is_plain_ycbcr(page)
        and read_orientation(page) == 1
        and page.shape == first.shape
        and page.dtype == first.dtype
        and segment == _segment_size(first)
        and len(part.dataoffsets) > 0
        and (page.is_final or saves_memory(size, segment))
    )


def _segment_size(page: Part) -> tuple[int, int]:
    """Height and width of the strips or tiles."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth
