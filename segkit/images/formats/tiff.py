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
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from PIL.TiffImagePlugin import TiffImageFile

from segkit.images.arrays import name_axes
from segkit.images.formats.base import ImageFormat, Pages
from segkit.images.lossy import is_lossy_jpeg2000, is_lossy_jpegxl, is_lossy_lerc, is_lossy_webp
from segkit.images.place import GDAL_NODATA, Place
from segkit.images.raster import (
    NO_PIXELS,
    ORIENTATION,
    Array,
    Extent,
    Raster,
    Windows,
    parse_orientation,
    require_numbers,
    rotate_upright,
    saves_memory,
)
from segkit.images.tiff_place import (
    read_dpi_place,
    read_geo_place,
    read_imagej_place,
    read_ome_places,
)

SLIDES = (".svs", ".ndpi", ".scn")
"""Endings of TIFFs that `segkit.images.formats.slide` opens."""
MOST_PAGES = 10**7
"""Pages that an OME-TIFF may describe."""
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


class Tiff(ImageFormat, name="tiff"):
    """TIFF and BigTIFF, with OME's, ImageJ's, tifffile's and GDAL's metadata."""

    title = "TIFF"
    suffixes = (".tif", ".tiff", ".btf", ".tf8")
    starts = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # either byte order, BigTIFF
    takes_content = True

    @classmethod
    def owns(cls, path: Path, start: bytes) -> bool:
        """By the magic; slides are another format, and so is DICOM that starts like a TIFF."""
        suffix = path.suffix.lower()
        is_dicom = start[128:132] == b"DICM" and suffix not in cls.suffixes
        return start.startswith(cls.starts) and suffix not in SLIDES and not is_dicom

    @classmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Open the images."""
        # Bytes get no name, so that no metadata of an upload can point a decoder to other files.
        return TiffPages(io.BytesIO(file) if isinstance(file, bytes) else file)


class TiffPages(Pages):
    """The images of an open TIFF. One image has one part (page or frame), or several as channels.

    Raises:
        ValueError: The file is damaged, truncated, or describes images that it does not hold.
    """

    def __init__(self, file: Path | io.BytesIO) -> None:
        self.file = tifffile.TiffFile(file)
        self._images: list[list[Callable[[], Part]]] = []  # what loads the parts
        self._masks: dict[int, Callable[[], Part]] = {}  # transparency masks of images
        self._arrays: dict[int, Any] = {}  # tifffile's series of images that are no pages
        self._series: list[int] = []  # of each image of an OME-TIFF
        try:
            self.list_images()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._images)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def read(self, page: int) -> Raster:
        """One image; errors of the decoders are passed on."""
        if page in self._arrays:
            require_numbers(self._arrays[page].dtype)
            return Raster(self._arrays[page].asarray())
        raster = _join_channels([_decode_part(part) for part in self._load_parts(page)])
        if page in self._masks:
            shown = _decode_part(self._masks[page]()).values[..., 0]
            return raster._replace(missing=shown == 0)
        return raster

    def read_extent(self, page: int) -> Extent:
        """The size of an image in memory; tiles that reach out of the image count in full."""
        if page in self._arrays:
            return Extent(*self._arrays[page].shape)
        pages = [part.keyframe for part in self._load_parts(page)]
        return Extent(
            max(max(page.imagelength, page.tilelength) * page.imagedepth for page in pages),
            max(max(page.imagewidth, page.tilewidth) for page in pages),
            sum(page.samplesperpixel for page in pages),
        )

    def read_size(self, page: int) -> tuple[int, int, int]:
        """The size and orientation of an image."""
        if page in self._arrays:
            return (*self._arrays[page].shape[:2], 1)
        first = self._load_parts(page)[0].keyframe
        return first.imagelength, first.imagewidth, _read_orientation(first)

    def read_palette(self, page: int) -> Array | None:
        """The colour map of the page."""
        parts = [] if page in self._arrays else self._load_parts(page)
        return _read_palette(parts[0].keyframe) if len(parts) == 1 else None

    def read_place(self, page: int) -> Place | None:
        """Where the pixels lie, by the first of several metadata that says so."""
        tif = self.file
        part = self._arrays[page] if page in self._arrays else self._load_parts(page)[0]
        first = part.keyframe
        if tif.is_ome:
            places = read_ome_places(tif.ome_metadata or "")
            # tifffile leaves out images without pixels, so the order may say nothing
            if len(places) == len(tif.series) or len(set(places)) == 1:
                place = places[min(self._series[page], len(places) - 1)]
                if place:
                    return place
        place = read_geo_place(first, _read_nodata(first))
        if place:
            return place
        imagej = tif.imagej_metadata or {}
        if "unit" in imagej:
            return read_imagej_place(first, imagej)
        return read_dpi_place(first)

    def open_windows(self, page: int) -> Windows | None:
        """Windows of one image; None where it can only be read whole."""
        if page in self._arrays:
            return None
        parts = self._load_parts(page)
        mask = self._masks[page]() if page in self._masks else None
        for part in [*parts, mask] if mask else parts:
            _require_data(part)
        # an OME-TIFF may be spread over several files
        if any(part.parent is not self.file or not _has_windows(part, parts[0]) for part in parts):
            return None
        reader = _WindowReader(parts)
        if mask is None:
            return Windows(reader.size, reader.kind, reader.read)
        if not _has_windows(mask, mask) or _WindowReader([mask]).size != reader.size:
            return None
        shown = _WindowReader([mask])

        def read(*window: int) -> Raster:
            missing = shown.read(*window).values[..., 0] == 0
            return reader.read(*window)._replace(missing=missing)

        kind = reader.kind._replace(missing=np.zeros((0, 0), np.bool_))
        return Windows(reader.size, kind, read)

    def _load_parts(self, page: int) -> list[Part]:
        return [load() for load in self._images[page]]

    def list_images(self) -> None:
        """Find the images that are pages."""
        tif = self.file
        if not len(tif.pages):
            return
        first = tif.pages.first
        if 0 in (first.imagelength, first.imagewidth):
            raise ValueError(NO_PIXELS.format(first.imagelength, first.imagewidth))
        if not (tif.is_ome or tif.is_imagej or tif.is_shaped):
            for number, offset, mask in _list_directories(tif):
                if mask:
                    self._masks[len(self._images)] = partial(_load_directory, tif, *mask)
                self._images.append([partial(_load_directory, tif, number, offset)])
            return
        for pixels in re.findall(r"<[\w:]*Pixels[^>]*>", tif.ome_metadata or ""):
            count = math.prod(int(size) for size in re.findall(r'Size[CZT]="(\d+)"', pixels))
            if count > MOST_PAGES:  # tifffile would make a list of them
                raise ValueError(f"its OME metadata describe {count} images")
        if tif.is_imagej and tif.series[0].kind != "imagej":  # tifffile has given up on them
            images = (tif.imagej_metadata or {}).get("images", 1)
            if images > len(tif.pages):
                raise ValueError(f"it is cut short: it should hold {images} images")
        for number, series in enumerate(tif.series):
            if series.keyframe.is_subifd:  # no viewer shows the children of a page
                continue
            if series.kind == "shaped" and series.axes == "QYX":
                # tifffile.imwrite of (H, W, 5) writes H pages of W x 5
                _require_images(series, series.shape[0])
                if name_axes(None, series.shape)[-1] == "c":
                    self.guess = "(H, W, C)", series.shape  # viewers show H pages
                    self._arrays[len(self._images)] = series
                    self._images.append([])
                    self._series.append(number)
                    continue
            self._series += [number] * self.add_series(series)

    def add_series(self, series: Any) -> int:
        """Append the images of a series of tifffile, and count them; the axis C is channels."""
        axes = [axis for axis in series.axes if axis not in "YXS"]
        lengths = [n for axis, n in zip(series.axes, series.shape, strict=True) if axis in axes]
        _require_images(series, math.prod(lengths))
        order: Array = np.arange(math.prod(lengths)).reshape([*lengths, 1])
        if "C" in axes:
            order = np.moveaxis(order, axes.index("C"), -1)
        rows = order.reshape(-1, order.shape[-1]).tolist()
        self._images += [[partial(_load_frame, series, n) for n in row] for row in rows]
        return len(rows)


def _load_directory(tif: tifffile.TiffFile, number: int, offset: int) -> Part:
    tif.filehandle.seek(offset)
    return tifffile.TiffPage(tif, number)


def _load_frame(series: Any, number: int) -> Part:
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


Directory = tuple[int, int]
"""Number and offset of a page."""


def _list_directories(tif: tifffile.TiffFile) -> list[tuple[int, int, Directory | None]]:
    """Number and offset of each image that is no overview, and its transparency mask if any.

    Parsing every directory with tifffile would take 15 times as long.
    """
    file, tiff = tif.filehandle, tif.tiff
    offset, every = tif.pages.first.offset, dict[int, int]()
    images: list[tuple[int, int, Directory | None]] = []
    while offset and offset not in every:  # damaged ones may run in a circle
        file.seek(offset)
        head = file.read(tiff.tagnosize).ljust(tiff.tagnosize, b"\0")
        size = struct.unpack(tiff.tagnoformat, head)[0] * tiff.tagsize
        tags = file.read(size + tiff.offsetsize)
        if len(tags) < size + tiff.offsetsize:
            raise ValueError(f"it is cut short: its page {len(every)} is missing")
        every[offset] = len(every)
        subfile = 0
        code, kind = struct.unpack_from(tif.byteorder + "HH", tags)
        if code == 254:  # has the lowest code, so it comes first
            value = "I" if kind == 4 else "H"
            start = tiff.tagsize - tiff.offsetsize
            (subfile,) = struct.unpack_from(tif.byteorder + value, tags, start)
        if not subfile & (1 | 4):  # reduced in size, transparency mask
            images.append((every[offset], offset, None))
        elif subfile == 4 and images:
            images[-1] = (*images[-1][:2], (every[offset], offset))
        (offset,) = struct.unpack(tiff.offsetformat, tags[size:])
    return images or [(number, offset, None) for offset, number in every.items()]


def _require_data(part: Any) -> None:
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


def _read_orientation(page: Part) -> int:
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
        palette=_read_palette(page),
        is_rgb=kind in _RGB,
        is_cmyk=is_cmyk and values.shape[2] >= 4,
        alpha=_ALPHA.get(int(page.extrasamples[-1]), "") if page.extrasamples else "",
        white_is_zero=kind == "MINISWHITE",
        bits=page.bitspersample if is_grey and page.bitspersample < page.dtype.itemsize * 8 else 0,
        nodata=_read_nodata(page),
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


def _read_palette(page: Any) -> Array | None:
    if page.photometric != tifffile.PHOTOMETRIC.PALETTE:
        return None
    colours = page.colormap.T
    # old writers store 8 bits instead of 16, as libtiff assumes too
    palette: Array = (colours >> 8 if colours.max(initial=0) > 255 else colours).astype(np.uint8)
    return palette


def _read_nodata(page: Any) -> float | None:
    """The value that GDAL's tag gives to pixels without data; NaN needs none."""
    try:
        value = float(str(page.tags.valueof(GDAL_NODATA, "")).strip("\0 "))
    except ValueError:
        return None
    if page.dtype.kind == "f":  # written with more digits than it has, or for 64 bits
        most = float(np.finfo(page.dtype).max)
        value = float(page.dtype.type(min(max(value, -most), most)))
    return None if math.isnan(value) else value


def _is_plain_ycbcr(page: Any) -> bool:
    """Whether it holds luma and chroma without JPEG, which tifffile does not convert."""
    return page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression not in _JPEG


def _decode_part(part: Part) -> Raster:
    _require_data(part)
    page = part.keyframe
    if _is_plain_ycbcr(page):
        return _decode_with_pillow(part)
    if page.axes not in _AXES:
        raise ValueError(f"a page with the axes {page.axes} is not an image")
    values = part.asarray()
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    raster = _describe(part, values.reshape(*values.shape[:2], -1))
    return raster._replace(orientation=_read_orientation(page))


def _decode_with_pillow(part: Part) -> Raster:
    page, file = part.keyframe, part.parent.filehandle
    if page.compression == 1 and tuple(page.tags.valueof(_SUBSAMPLING, (2, 2))) != (1, 1):
        raise ValueError("it has fewer values of chroma than of luma, not packed: save it as RGB")
    file.seek(0)
    with TiffImageFile(io.BytesIO(file.read())) as image:
        image.seek(part.index)
        turned = _read_orientation(page)
        # Pillow gives it upright: turn it back
        stored = rotate_upright(np.array(image.convert("RGB")), {6: 8, 8: 6}.get(turned, turned))
    return Raster(stored, is_rgb=True, orientation=turned)


def _join_channels(rasters: list[Raster]) -> Raster:
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


class _WindowReader:
    """Reads windows of one image from its parts. Several threads may read at once."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        pages = [part.keyframe for part in parts]
        page = pages[0]
        self.size = page.imagelength, page.imagewidth
        self._dtype = np.dtype(page.dtype).newbyteorder("=")
        empty = [np.empty((0, 0, page.samplesperpixel), self._dtype) for page in pages]
        self.kind = _join_channels(list(map(_describe, parts, empty)))
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
    options = {"jpegtables": part.jpegtables, "jpegheader": page.jpegheader}
    given = {name: value for name, value in options.items() if value is not None}
    segment, _, shape = page.decode(data, index, **given)
    if segment is None:  # left out of a sparse file
        return np.full(shape[1:], page.nodata, page.dtype)
    return np.asarray(segment[0])


def _has_windows(part: Any, one: Any) -> bool:
    page, first = part.keyframe, one.keyframe
    size, segment = (page.imagelength, page.imagewidth), _segment_size(page)
    return (
        page.axes in _AXES
        and not _is_plain_ycbcr(page)
        and _read_orientation(page) == 1
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
