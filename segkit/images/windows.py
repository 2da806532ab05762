"""Windows of images of any size: memory holds little more than a window touches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segkit.core.errors import SegkitError
from segkit.images.reading import (
    TIFF_STARTS,
    Array,
    Raster,
    choose_page,
    is_zarr,
    read_start,
    render,
    wrap_errors,
)
from segkit.images.tiff import open_tiff_windows, saves_memory
from segkit.images.zarr_store import ZarrImages


def open_windows(path: str | Path, page: int | None = None) -> WindowedImage | None:
    """Open an image to read windows of it.

    Returns:
        None where the image can only be read whole, with `read_image`, or where windows would save
        little memory: PNG, JPEG, BMP and WebP; a TIFF that is rotated or holds YCbCr other than
        JPEG; and whatever is packed in fewer than four pieces.

    Args:
        path: a TIFF, or a folder that is a zarr.
        page: which page, from 0; may be omitted if there is only one.

    Raises:
        SegkitError: as `read_image`, as far as the file can be checked without decoding it.
    """
    path = Path(path)
    with wrap_errors(path):
        if is_zarr(path):
            images = ZarrImages(path)
            chosen = choose_page(page, len(images))
            if saves_memory(images.size, images.chunk):
                read = partial(images.read_window, chosen)
                return WindowedImage(path, images.size, images.kind, read, images.close)
        elif read_start(path) in TIFF_STARTS:
            windows = open_tiff_windows(path, page)
            if windows is not None:
                return WindowedImage(path, windows.size, windows.kind, windows.read, windows.close)
    return None


class WindowedImage:
    """An image whose windows are read. Several threads may read at once.

    Attributes:
        path: of the file.
        shape: (H, W, C).
        dtype: uint8, uint16 or float32, as `segkit.images.reading.read_image` returns it.

    Example:
        >>> with open_windows("slide.ome.tif") as image:
        ...     corner = image.read(0, 0, 512, 512)  # (512, 512, C)
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        kind: Raster,
        read: Callable[[int, int, int, int], Raster],
        close: Callable[[], None],
    ) -> None:
        self.path, self._read, self._close = path, read, close
        self._is_closed = False
        empty = render(kind)
        self.shape: tuple[int, int, int] = (*size, empty.shape[2])
        self.dtype: np.dtype[Any] = empty.dtype

    def read(self, top: int, left: int, height: int, width: int) -> Array:
        """Read a window: (height, width, C), exactly what `read_image` returns there.

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
        if self._is_closed:
            raise SegkitError(f"{self.path}: is closed; windows are read before that.")
        with wrap_errors(self.path):
            return render(self._read(top, left, height, width))

    def close(self) -> None:
        """Close the file; no window can be read afterwards."""
        self._is_closed = True
        self._close()

    def __enter__(self) -> WindowedImage:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
