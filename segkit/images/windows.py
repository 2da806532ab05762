"""Images of any size, read by windows: no more of them is in memory than a window touches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segkit.core.errors import SegkitError
from segkit.images.raster import Array, Raster, choose_page, native, shown
from segkit.images.reading import naming, start_of
from segkit.images.segments import MOST_KEPT, Plane, Segments, saves_memory
from segkit.images.tiff import STARTS
from segkit.images.tiff_windows import open_tiff_windows
from segkit.images.zarr_store import ZarrImage, is_zarr


def open_windows(path: str | Path, page: int | None = None) -> WindowedImage | None:
    """Open an image to read windows of it.

    Returns:
        None where the image can only be had whole, with `read_image`, or where
        windows would save little memory: PNG, JPEG, BMP and WebP; a TIFF that is turned, holds
        YCbCr, or needs another decoder than tifffile's own; and whatever is packed in fewer than
        four pieces.

    Args:
        path: a TIFF, or a folder that is a zarr.
        page: which page, from 0; may be left out where there is one.

    Raises:
        SegkitError: as `read_image` does, as far as the file can be judged without unpacking it.
    """
    path = Path(path)
    source: _Source | None = None
    with naming(path):
        if is_zarr(path):
            source = _open_zarr_windows(path, page)
        elif start_of(path) in STARTS:
            source = open_tiff_windows(path, page)
    return None if source is None else WindowedImage(path, source)


class _Source(Protocol):
    size: tuple[int, int]
    planes: list[Plane]
    kind: Raster

    def close(self) -> None: ...


class WindowedImage:
    """An image of which windows are read. Several threads may read at once.

    Attributes:
        path: of the file.
        shape: (H, W, C).
        dtype: uint8, uint16 or float32, as `segkit.images.reading.read_image` gives it.

    Example:
        >>> with open_windows("slide.ome.tif") as image:
        ...     corner = image.read(0, 0, 512, 512)  # (512, 512, C)
    """

    def __init__(self, path: Path, source: _Source) -> None:
        self.path, self._source = path, source
        looks = shown(native(source.kind))
        self.shape: tuple[int, int, int] = (*source.size, looks.shape[2])
        self.dtype: np.dtype[Any] = looks.dtype

    def read(self, top: int, left: int, height: int, width: int) -> Array:
        """A window: (height, width, C), to the bit what `read_image` gives there.

        Raises:
            SegkitError: The window is empty or reaches out of the image, or the file is damaged
                there.
        """
        H, W, _ = self.shape
        if not (0 <= top < top + height <= H and 0 <= left < left + width <= W):
            raise SegkitError(
                f"{self.path}: a window of {height} x {width} at row {top}, column {left} is empty "
                f"or reaches out of the image of {H} x {W}."
            )
        with naming(self.path):
            planes = [plane.window(top, left, height, width) for plane in self._source.planes]
            values = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
            return shown(native(self._source.kind._replace(values=values)))

    def close(self) -> None:
        """Close the file; no window can be read afterwards."""
        self._source.close()

    def __enter__(self) -> WindowedImage:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _ZarrWindows:
    def __init__(self, image: ZarrImage, page: int) -> None:
        self._image, self._page = image, page
        self.size = image.height, image.width
        shape = image.height, image.width, image.channels
        self.planes: list[Plane] = [
            Segments(shape, image.block, image.dtype, self._unpack, MOST_KEPT, self._unpack_many)
        ]
        self.kind = Raster(np.empty((0, 0, image.channels), image.dtype))

    def _unpack(self, row: int, column: int) -> Array:
        return self._unpack_many(range(row, row + 1), range(column, column + 1))

    def _unpack_many(self, rows: range, columns: range) -> Array:
        height, width = self._image.block
        return self._image.region(
            self._page,
            slice(rows.start * height, rows.stop * height),
            slice(columns.start * width, columns.stop * width),
        )

    def close(self) -> None:
        """A zarr keeps no file open."""


def _open_zarr_windows(path: Path, page: int | None) -> _ZarrWindows | None:
    image = ZarrImage(path)
    chosen = choose_page(page, image.pages)
    if not saves_memory((image.height, image.width), image.block):
        return None
    return _ZarrWindows(image, chosen)
