"""TIFF: which pages of a file are images, and where these lie.

`segkit.images.tiff_pixels` reads their pixels.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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
        raster = join_channels([decode_part(part) for part in self._load_parts(page)])
        if page in self._masks:
            shown = decode_part(self._masks[page]()).values[..., 0]
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
        parts = self._load_parts(page)
        mask = self._masks[page]() if page in self._masks else None
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
