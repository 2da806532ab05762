"""Windows of a page of a TIFF."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from segkit.images.raster import Array, Raster
from segkit.images.segments import MOST_KEPT, Plane, Rows, Segments, StoredFile, saves_memory
from segkit.images.tiff import (
    AXES,
    as_raster,
    check_length,
    needs_imagecodecs,
    orientation_of,
    parts_of_page,
)


class TiffWindows:
    """One image of a TIFF.

    Attributes:
        size: its height and width.
        planes: the channels, which follow each other.
        kind: what the page says of its pixels, of which it holds none.
    """

    def __init__(self, file: StoredFile, parts: list[Any], planes: list[Plane]) -> None:
        self.size = parts[0].imagelength, parts[0].imagewidth
        self.planes, self._file = planes, file
        stored = [plane.window(0, 0, 1, 1) for plane in planes]
        empty = np.concatenate(stored, axis=2)[:0]
        if len(parts) == 1:
            self.kind = as_raster(parts[0], empty)
        else:  # of several pages, as `segkit.images.tiff.read_tiff` says it
            self.kind = Raster(empty, white_is_zero=as_raster(parts[0], empty).white_is_zero)

    def close(self) -> None:
        """No window can be read afterwards."""
        self._file.close()


def open_tiff_windows(path: Path, page: int | None) -> TiffWindows | None:
    """One image of a TIFF; None where it can only be had whole, or where windows save nothing.

    Raises:
        Whatever the decoders raise, and as `segkit.images.tiff.parts_of_page` does.
    """
    with tifffile.TiffFile(path) as tif:
        parts = parts_of_page(tif, page)
        for part in parts:
            check_length(part)
        if not all(_can_be_cut(tif, part, parts[0]) for part in parts):
            return None
        file = StoredFile(path)
        try:
            count = sum(part.shaped[0] for part in parts)
            planes = [
                _plane(file, part, sample, MOST_KEPT // count)
                for part in parts
                for sample in range(part.shaped[0])
            ]
            return TiffWindows(file, parts, planes)
        except Exception as error:
            file.close()
            if needs_imagecodecs(error):
                return None
            raise
        except BaseException:
            file.close()
            raise


def _can_be_cut(tif: tifffile.TiffFile, page: Any, first: Any) -> bool:
    return (
        page.axes in AXES
        and page.photometric != tifffile.PHOTOMETRIC.YCBCR
        and orientation_of(page) == 1
        and page.parent is tif  # an OME-TIFF may be spread over files
        and page.jpegheader is None  # one JPEG that passes for tiles
        and page.shape == first.shape
        and len(page.dataoffsets) > 0
        and (page.is_final or saves_memory((page.imagelength, page.imagewidth), _segment(page)))
    )


def _segment(page: Any) -> tuple[int, int]:
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _plane(file: StoredFile, page: Any, sample: int, most: int) -> Plane:
    """The samples of a page that lie side by side: all of them, or one."""
    _, _, height, width, channels = page.shaped
    shape = height, width, channels
    if page.is_final:
        dtype = np.dtype(page.parent.byteorder + page.dtype.char)
        offset = page.dataoffsets[0] + sample * height * width * channels * dtype.itemsize
        return Rows(file, offset, shape, dtype)
    segment = _segment(page)
    rows, columns = -(-height // segment[0]), -(-width // segment[1])
    unpack = partial(_unpack, file, page, sample * rows * columns, columns, _tables(page))
    return Segments(shape, segment, unpack(0, 0).dtype, unpack, most)


def _tables(page: Any) -> dict[str, Any]:
    return {} if page.jpegtables is None else {"jpegtables": page.jpegtables}


def _unpack(
    file: StoredFile,
    page: Any,
    first: int,
    columns: int,
    tables: dict[str, Any],
    row: int,
    column: int,
) -> Array:
    index = first + row * columns + column
    offset, count = page.dataoffsets[index], page.databytecounts[index]
    data = file.read(offset, count) if offset and count else None  # sparse files have neither
    segment, (_, _, top, left, _), shape = page.decode(data, index, **tables)
    height, width = page.imagelength - top, page.imagewidth - left
    if segment is None:
        _, *shape = shape
        return np.full(shape, page.nodata, np.dtype(page.dtype).newbyteorder("="))[:height, :width]
    return segment[0, :height, :width]
