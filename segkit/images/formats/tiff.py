"""TIFF: which pages of a file are images, and where these lie.

`segkit.images.tiff_pixels` reads their pixels.
"""

from __future__ import annotations

import io
import math
import mmap
import re
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from segkit.images.arrays import name_axes
from segkit.images.formats.base import ImageFormat, Pages
from segkit.images.place import Place
from segkit.images.raster import (
    NO_PIXELS,
    Array,
    Extent,
    Raster,
    Windows,
    require_numbers,
)
from segkit.images.tiff_pixels import (
    Part,
    WindowReader,
    decode_part,
    has_windows,
    join_channels,
    read_nodata,
    read_orientation,
    read_palette,
    require_data,
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
        self._given = file
        self.file = tifffile.TiffFile(file)
        self._directories: Sequence[_Image] = ()  # of images that are pages of their own
        self._images: list[list[Callable[[], Part]]] = []  # what loads the parts of others
        self._loaded: tuple[int, list[Part]] | None = None  # the image asked for last
        self._arrays: dict[int, Any] = {}  # tifffile's series of images that are no pages
        self._series: list[int] = []  # of each image of an OME-TIFF
        try:
            self.list_images()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._directories or self._images)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def read(self, page: int) -> Raster:
        """One image; errors of the decoders are passed on."""
        if page in self._arrays:
            require_numbers(self._arrays[page].dtype)
            return Raster(self._arrays[page].asarray())
        raster = join_channels([decode_part(part) for part in self._load_parts(page)])
        mask = self._load_mask(page)
        if mask is not None:
            return raster._replace(missing=decode_part(mask).values[..., 0] == 0)
        return raster

    def read_extent(self, page: int) -> Extent:
        """The size of an image in memory; tiles that reach out of the image count in full."""
        if page in self._arrays:
            return Extent(*self._arrays[page].shape)
        parts, mask = self._load_parts(page), self._load_mask(page)
        pages = [part.keyframe for part in ([*parts, mask] if mask else parts)]
        return Extent(
            max(max(page.imagelength, page.tilelength) * page.imagedepth for page in pages),
            max(max(page.imagewidth, page.tilewidth) for page in pages),
            sum(part.keyframe.samplesperpixel for part in parts),
        )

    def read_size(self, page: int) -> tuple[int, int, int]:
        """The size and orientation of an image."""
        if page in self._arrays:
            return (*self._arrays[page].shape[:2], 1)
        first = self._load_parts(page)[0].keyframe
        return first.imagelength, first.imagewidth, read_orientation(first)

    def read_palette(self, page: int) -> Array | None:
        """The colour map of the page."""
        parts = [] if page in self._arrays else self._load_parts(page)
        return read_palette(parts[0].keyframe) if len(parts) == 1 else None

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
        place = read_geo_place(first, read_nodata(first))
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
        parts, mask = self._load_parts(page), self._load_mask(page)
        for part in [*parts, mask] if mask else parts:
            require_data(part)
        # an OME-TIFF may be spread over several files
        if any(part.parent is not self.file or not has_windows(part, parts[0]) for part in parts):
            return None
        reader = WindowReader(parts)
        if mask is None:
            return Windows(reader.size, reader.kind, reader.read)
        if not has_windows(mask, mask) or WindowReader([mask]).size != reader.size:
            return None
        shown = WindowReader([mask])

        def read(*window: int) -> Raster:
            missing = shown.read(*window).values[..., 0] == 0
            return reader.read(*window)._replace(missing=missing)

        kind = reader.kind._replace(missing=np.zeros((0, 0), np.bool_))
        return Windows(reader.size, kind, read)

    def _load_parts(self, page: int) -> list[Part]:
        loaded = self._loaded
        if loaded is None or loaded[0] != page:
            if self._directories:
                parts = [self._load_directory(self._directories[page][0])]
            else:
                parts = [load() for load in self._images[page]]
            self._loaded = loaded = page, parts
        return loaded[1]

    def _load_mask(self, page: int) -> Part | None:
        """The transparency mask of an image."""
        mask = self._directories[page][1] if self._directories else None
        return None if mask is None else self._load_directory(mask)

    def _load_directory(self, directory: _Directory) -> Part:
        self.file.filehandle.seek(directory.offset)
        return tifffile.TiffPage(self.file, directory.number)

    def list_images(self) -> None:
        """Find the images that are pages."""
        tif = self.file
        try:
            first = tif.pages.first
        except IndexError:  # there is none
            return
        if 0 in (first.imagelength, first.imagewidth):
            raise ValueError(NO_PIXELS.format(first.imagelength, first.imagewidth))
        if not (tif.is_ome or tif.is_imagej or tif.is_shaped):
            given = self._given
            if isinstance(given, Path):
                state = given.stat()
                version = state.st_ino, state.st_size, state.st_mtime_ns
                self._directories = _scan_file(given, version, tif.tiff, first.offset)
            else:
                with given.getbuffer() as content:
                    self._directories = _list_directories(content, tif.tiff, first.offset)
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


class _Directory(NamedTuple):
    """Where a page is described."""

    number: int
    offset: int


_Image = tuple[_Directory, _Directory | None]
"""A page, and its transparency mask if it has one."""


@lru_cache(maxsize=4)
def _scan_file(path: Path, version: tuple[int, ...], tiff: Any, first: int) -> Sequence[_Image]:
    """The images of a file, which is opened again for each of its pages.

    Args:
        path: The file.
        version: Changes when the file does.
        tiff: As :func:`_list_directories`.
        first: Likewise.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _list_directories(content, tiff, first)


def _list_directories(content: mmap.mmap | memoryview, tiff: Any, first: int) -> Sequence[_Image]:
    """The images of a file that are no overviews.

    Parsing every directory with tifffile would take 15 times as long.

    Args:
        content: The whole file.
        tiff: Its kind, as tifffile's TiffFormat.
        first: Offset of the first directory.
    """
    offset, every, images = first, dict[int, int](), list[_Image]()
    heads = struct.Struct(tiff.byteorder + "HH")
    try:
        while offset and offset not in every:  # damaged ones may run in a circle
            here = _Directory(len(every), offset)
            every[offset] = here.number
            (count,) = struct.unpack_from(tiff.tagnoformat, content, offset)
            tags, subfile = offset + tiff.tagnosize, 0
            code, kind = heads.unpack_from(content, tags)
            if code == 254:  # has the lowest code, so it comes first
                value = tiff.byteorder + ("I" if kind == 4 else "H")
                at = tags + tiff.tagsize - tiff.offsetsize
                (subfile,) = struct.unpack_from(value, content, at)
            (offset,) = struct.unpack_from(tiff.offsetformat, content, tags + count * tiff.tagsize)
            if not subfile & (1 | 4):  # reduced in size, transparency mask
                images.append((here, None))
            elif subfile == 4 and images:
                images[-1] = images[-1][0], here
    except (struct.error, OverflowError) as error:
        raise ValueError(f"it is cut short: its page {here.number} is missing") from error
    return images or [(_Directory(number, offset), None) for offset, number in every.items()]
