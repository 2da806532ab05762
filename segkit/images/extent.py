"""How large an image becomes when it is decoded, found out before it is.

A file of a few kilobytes can hold gigapixels. Whoever takes files of strangers asks here first.
"""

from __future__ import annotations

import io
import lzma
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tifffile

from segkit.images.raster import RASTER_STARTS, open_raster
from segkit.images.reading import File, naming, start_of
from segkit.images.tiff import STARTS, parts_of_page

_UNPACKERS: dict[int, Callable[[], Any]] = {
    tifffile.COMPRESSION.ADOBE_DEFLATE: zlib.decompressobj,
    tifffile.COMPRESSION.DEFLATE: zlib.decompressobj,
    tifffile.COMPRESSION.LZMA: lzma.LZMADecompressor,
}
"""Of the compressions that shrink zeros a thousandfold and more."""


class Extent(NamedTuple):
    """What the head of a file says of an image, before it is turned upright."""

    height: int
    width: int
    channels: int

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width


def has_known_start(data: bytes) -> bool:
    """Whether the content of a file begins as those of the formats that can be read."""
    return data.startswith((*RASTER_STARTS, *STARTS))


def read_extent(file: File, page: int | None = None) -> Extent:
    """The extent of what `read_image` would have to hold in memory; nothing is decoded.

    Tiles of a TIFF that are larger than its picture count in full.

    Args:
        file: its path, or its content.
        page: which page, from 0; may be left out where there is one.

    Raises:
        SegkitError: as `read_image` does for what the head shows, and where a strip or a tile of a
            TIFF unpacks to more than the picture has room for.
    """
    with naming(file):
        if start_of(file) in STARTS:
            with tifffile.TiffFile(io.BytesIO(file) if isinstance(file, bytes) else file) as tif:
                return _tiff_extent(parts_of_page(tif, page))
        with open_raster(file if isinstance(file, bytes) else Path(file).read_bytes()) as image:
            return Extent(image.height, image.width, len(image.getbands()))


def _tiff_extent(parts: list[Any]) -> Extent:
    for part in parts:
        _require_no_bomb(part)
    return Extent(
        max(max(part.imagelength, part.tilelength) * part.imagedepth for part in parts),
        max(max(part.imagewidth, part.tilewidth) for part in parts),
        sum(part.samplesperpixel for part in parts),
    )


def _require_no_bomb(page: Any) -> None:
    """Unpack each strip or tile of a page up to the size that it should have."""
    unpacker = _UNPACKERS.get(int(page.compression))
    if unpacker is None or page.dtype is None:
        return
    room = math.prod(page.chunks) * page.dtype.itemsize
    for at, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        stored = page.parent.filehandle
        stored.seek(at)
        if len(unpacker().decompress(stored.read(size), room + 1)) > room:
            raise ValueError("a part of it unpacks to more than the picture has room for")
