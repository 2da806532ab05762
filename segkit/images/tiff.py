"""TIFF: the images in a file, their pixels as stored, and windows of them.

tifffile and imagecodecs read and decode. Windows of packed images are cut from strips or tiles in
a cache of our own, because zarr over tifffile takes 2 to 18 times as long (400 windows of
512 x 512: deflated tiles 0.6 against 0.1 s, deflated strips 2.4 against 0.1 s).
"""

from __future__ import annotations

import io
import math
import re
import struct
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL.TiffImagePlugin import TiffImageFile

from segkit.images.reading import (
    ORIENTATION,
    Array,
    Extent,
    Raster,
    choose_page,
    convert_pillow,
    require_pixels,
    rotate_upright,
)

MOST_PAGES = 10**7
"""Pages that an OME-TIFF may describe."""
CACHE = 256 * 2**20
"""Bytes of decoded strips or tiles that an image opened for windows keeps at most."""
CACHED_ROWS = 1024
"""Rows of an image whose strips or tiles are kept, if they fit."""

_AXES = ("YX", "YXS", "SYX")
"""tifffile's names for the axes of a page that is one image."""
_JPEG = (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.JPEG_2000_LOSSY)


class TiffImages:
    """The images of an open TIFF.

    Attributes:
        file: tifffile's view of it.

    Raises:
        ValueError: The file is damaged, truncated, or describes images that it does not hold.
    """

    def __init__(self, file: Path | io.BytesIO) -> None:
        self.file = tifffile.TiffFile(file)
        self._directories: list[int] = []
        self._images: list[list[tuple[Any, int]]] = []  # series or None, and number of each part
        try:
            self._list_images()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._images)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def read(self, page: int | None) -> Raster:
        """One image; raises whatever the decoders raise."""
        rasters = [_decode_part(part) for part in self.parts(page)]
        if len(rasters) == 1:
            return rasters[0]
        values = np.concatenate([raster.values for raster in rasters], axis=2)
        return Raster(values, white_is_zero=rasters[0].white_is_zero)

    def read_extent(self, page: int | None) -> Extent:
        """The size of an image in memory; tiles that reach out of the image count in full."""
        pages = [part.keyframe for part in self.parts(page)]
        return Extent(
            max(max(page.imagelength, page.tilelength) * page.imagedepth for page in pages),
            max(max(page.imagewidth, page.tilewidth) for page in pages),
            sum(page.samplesperpixel for page in pages),
        )

    def parts(self, page: int | None) -> list[Any]:
        """The TIFF pages or frames that are the channels of an image.

        Raises:
            SegkitError: There are several images and none was chosen, or there is no such image.
        """
        places = self._images[choose_page(page, len(self._images))]
        return [self._load_part(series, number) for series, number in places]

    def _list_images(self) -> None:
        tif = self.file
        if not len(tif.pages):
            return
        first = tif.pages.first
        require_pixels(first.imagelength, first.imagewidth)
        if not (tif.is_ome or tif.is_imagej or tif.is_shaped):
            self._directories = _list_directories(tif)
            self._images = [[(None, number)] for number in range(len(self._directories))]
            return
        for pixels in re.findall(r"<[\w:]*Pixels[^>]*>", tif.ome_metadata or ""):
            count = math.prod(int(size) for size in re.findall(r'Size[CZT]="(\d+)"', pixels))
            if count > MOST_PAGES:  # tifffile would make a list of them
                raise ValueError(f"its OME metadata describe {count} images")
        if tif.is_imagej and tif.series[0].kind != "imagej":  # tifffile has given up on them
            images = (tif.imagej_metadata or {}).get("images", 1)
            if images > len(tif.pages):
                raise ValueError(f"it is cut short: it should hold {images} images")
        for series in tif.series:
            axes = [axis for axis in series.axes if axis not in "YXS"]
            lengths = [n for axis, n in zip(series.axes, series.shape, strict=True) if axis in axes]
            _require_images(series, math.prod(lengths))
            order: Array = np.arange(math.prod(lengths)).reshape([*lengths, 1])
            if "C" in axes:
                order = np.moveaxis(order, axes.index("C"), -1)
            rows = order.reshape(-1, order.shape[-1]).tolist()
            self._images += [[(series, number) for number in row] for row in rows]

    def _load_part(self, series: Any, number: int) -> Any:
        if series is None:
            self.file.filehandle.seek(self._directories[number])
            return tifffile.TiffPage(self.file, number)
        if series.dataoffset is None:
            return series[number].aspage()
        # One after the other in the file; there may be a single directory for all of them.
        page = series.keyframe
        return tifffile.TiffFrame(
            page.parent,
            number,
            keyframe=page,
            dataoffsets=(series.dataoffset + number * page.nbytes,),
            databytecounts=(page.nbytes,),
        )


def _require_images(series: Any, count: int) -> None:
    """Raise a ValueError where a series does not hold that many images."""
    if series.dataoffset is None:
        stored = sum(page is not None for page in series)
        if stored != count:
            raise ValueError(f"{count} images are described, but {stored} are stored")
    elif count * series.keyframe.size != series.size:
        raise ValueError(f"its pages do not fit the shape {series.shape} that it describes")
    elif series.dataoffset + series.nbytes > series.parent.filehandle.size:
        raise ValueError(f"it is cut short: it should hold {count} images")


def _list_directories(tif: tifffile.TiffFile) -> list[int]:
    """The offsets of all directories that are images, not overviews or transparency masks.

    Parsing every directory with tifffile would take 15 times as long.
    """
    file, tiff = tif.filehandle, tif.tiff
    offset, every, images = tif.pages.first.offset, dict[int, None](), list[int]()
    while offset and offset not in every:
        file.seek(offset)
        head = file.read(tiff.tagnosize)
        if len(head) < tiff.tagnosize:
            break
        size = struct.unpack(tiff.tagnoformat, head)[0] * tiff.tagsize
        tags = file.read(size + tiff.offsetsize)
        if len(tags) < size + tiff.offsetsize:
            break
        every[offset] = None
        subfile = 0
        code, kind = struct.unpack_from(tif.byteorder + "HH", tags)
        if code == 254:  # has the lowest code, so it comes first
            value = "I" if kind == 4 else "H"
            start = tiff.tagsize - tiff.offsetsize
            (subfile,) = struct.unpack_from(tif.byteorder + value, tags, start)
        if not subfile & (1 | 4):  # reduced in size, transparency mask
            images.append(offset)
        (offset,) = struct.unpack(tiff.offsetformat, tags[size:])
    return images or list(every)


def _require_data(part: Any) -> None:
    """Raise a ValueError where the file ends before the pixels do."""
    ends = (at + size for at, size in zip(part.dataoffsets, part.databytecounts, strict=True))
    if max(ends, default=math.inf) > part.parent.filehandle.size:
        raise ValueError("it is cut short")


def _orientation(page: Any) -> int:
    return int(page.tags[ORIENTATION].value) if ORIENTATION in page.tags else 1


def _describe(page: Any, values: Array) -> Raster:
    """Pixels of a page, (h, w, C) in native byte order, with how to display them."""
    palette = None
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        palette = (page.colormap.T >> 8).astype(np.uint8)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    is_grey = page.photometric in (0, 1) and values.dtype.kind == "u"
    return Raster(
        values,
        palette=palette,
        is_rgb=page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR),
        has_alpha=bool(page.extrasamples) and int(page.extrasamples[-1]) in (1, 2),
        white_is_zero=page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
        bits=page.bitspersample if is_grey and page.bitspersample < page.dtype.itemsize * 8 else 0,
    )


def _is_plain_ycbcr(page: Any) -> bool:
    """Whether it holds luma and chroma without JPEG, which tifffile does not convert."""
    return page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression not in _JPEG


def _decode_part(part: Any) -> Raster:
    _require_data(part)
    page = part.keyframe
    if _is_plain_ycbcr(page):
        return _decode_with_pillow(part)
    values = part.asarray()
    if page.axes not in _AXES:
        raise ValueError(f"a page with the axes {page.axes} is not an image")
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    values = rotate_upright(values.reshape(*values.shape[:2], -1), _orientation(page))
    return _describe(page, values)


def _decode_with_pillow(part: Any) -> Raster:
    """8 bits; Pillow also rotates them."""
    stored = part.parent.filehandle
    stored.seek(0)
    with TiffImageFile(io.BytesIO(stored.read())) as image:
        image.seek(part.index)
        return convert_pillow(image, 8)


class TiffWindows:
    """One image of a TIFF, read by windows. Several threads may read at once.

    Attributes:
        size: its height and width.
        kind: a raster without pixels, which tells how to display them.
    """

    def __init__(self, images: TiffImages, parts: list[Any]) -> None:
        self._images, self._parts = images, parts
        page = parts[0].keyframe
        self.size = page.imagelength, page.imagewidth
        self._dtype = np.dtype(page.dtype).newbyteorder("=")
        channels = sum(part.keyframe.samplesperpixel for part in parts)
        self.kind = _describe(page, np.empty((0, 0, channels), self._dtype))
        if len(parts) > 1:  # the same as `TiffImages.read`
            self.kind = Raster(self.kind.values, white_is_zero=self.kind.white_is_zero)
        self._lock = threading.Lock()
        self._segment = _segment_size(page)
        rows = CACHED_ROWS + self._segment[0]
        row_bytes = self.size[1] * channels * self._dtype.itemsize
        segment_bytes = math.prod(self._segment) * page.shaped[-1] * self._dtype.itemsize
        count = min(rows * row_bytes, CACHE) // segment_bytes
        self._decode = lru_cache(max(count, 4))(self._decode_segment)

    def close(self) -> None:
        """Close the file and free the cache."""
        self._decode.cache_clear()
        self._images.close()

    def read(self, top: int, left: int, height: int, width: int) -> Raster:
        """A window as stored."""
        values = np.empty((height, width, self.kind.values.shape[2]), self._dtype)
        first = 0
        for number, part in enumerate(self._parts):
            planes, *_, samples = part.keyframe.shaped
            for plane in range(planes):
                out = values[..., first : first + samples]
                if part.keyframe.is_final:
                    self._read_rows(part, plane, top, left, out)
                else:
                    self._read_segments(number, plane, top, left, out)
                first += samples
        return self.kind._replace(values=values)

    def _read_rows(self, part: Any, plane: int, top: int, left: int, out: Array) -> None:
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

    def _read_segments(self, number: int, plane: int, top: int, left: int, out: Array) -> None:
        """Fill a window from the strips or tiles that it touches."""
        h, w = self._segment
        columns = -(-self.size[1] // w)
        first = plane * columns * -(-self.size[0] // h)
        bottom, right = top + out.shape[0], left + out.shape[1]
        for row in range(top // h, (bottom - 1) // h + 1):
            for column in range(left // w, (right - 1) // w + 1):
                segment = self._decode(number, first + row * columns + column)
                y, x = row * h, column * w
                first_y, last_y = max(top, y), min(bottom, y + h)
                first_x, last_x = max(left, x), min(right, x + w)
                out[first_y - top : last_y - top, first_x - left : last_x - left] = segment[
                    first_y - y : last_y - y, first_x - x : last_x - x
                ]

    def _decode_segment(self, number: int, index: int) -> Array:
        part = self._parts[number]
        page = part.keyframe
        offset, count = part.dataoffsets[index], part.databytecounts[index]
        data = self._read_bytes(part, offset, count) if offset and count else None
        options = {} if part.jpegtables is None else {"jpegtables": part.jpegtables}
        segment, _, shape = page.decode(data, index, **options)
        if segment is None:  # left out of a sparse file
            return np.full(shape[1:], page.nodata, self._dtype)
        return segment[0]

    def _read_bytes(self, part: Any, offset: int, count: int) -> bytes:
        with self._lock:
            part.parent.filehandle.seek(offset)
            data: bytes = part.parent.filehandle.read(count)
        if len(data) < count:
            raise ValueError("it is cut short")
        return data


def open_tiff_windows(path: Path, page: int | None) -> TiffWindows | None:
    """Open one image of a TIFF for reading windows; None where it can only be read whole."""
    images = TiffImages(path)
    windows = None
    try:
        parts = images.parts(page)
        for part in parts:
            _require_data(part)
        if parts[0].parent is images.file and all(_has_windows(part, parts[0]) for part in parts):
            windows = TiffWindows(images, parts)
    finally:
        if windows is None:
            images.close()
    return windows


def _has_windows(part: Any, one: Any) -> bool:
    page, first = part.keyframe, one.keyframe
    size, segment = (page.imagelength, page.imagewidth), _segment_size(page)
    return (
        page.axes in _AXES
        and not _is_plain_ycbcr(page)
        and _orientation(page) == 1
        and page.parent is first.parent  # an OME-TIFF may be spread over several files
        and page.jpegheader is None  # one JPEG that is presented as tiles
        and page.shape == first.shape
        and page.dtype == first.dtype
        and segment == _segment_size(first)
        and len(part.dataoffsets) > 0
        and (page.is_final or saves_memory(size, segment))
    )


def _segment_size(page: Any) -> tuple[int, int]:
    """Height and width of the strips or tiles."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def saves_memory(shape: tuple[int, int], segment: tuple[int, int]) -> bool:
    """Whether reading by windows takes less memory than reading the whole image."""
    rows, columns = (-(-side // part) for side, part in zip(shape, segment, strict=True))
    return rows * columns >= 4
