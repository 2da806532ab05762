"""Windows of images of any size: memory holds little more than a window touches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segkit.core.errors import SegkitError
from segkit.images.raster import Array, Raster, Windows
from segkit.images.reading import choose_page, open_source, render, wrap_errors


def open_windows(
    path: str | Path, page: int | None = None, keep_alpha: bool = False
) -> WindowedImage | None:
    """Open an image to read windows of it.

    Returns:
        None where the image can only be read whole, with `read_image`, or where windows would save
        little memory: PNG, JPEG and other pictures; slices of NIfTI and DICOM; a TIFF that is
        rotated or holds YCbCr other than JPEG; and images stored in fewer than four pieces.

    Args:
        path: such as that of a TIFF, or of a folder that is a zarr.
        page: which page, from 0; may be omitted if there is only one.
        keep_alpha: as `read_image`.

    Raises:
        SegkitError: as `read_image`, as far as the file can be checked without decoding it.
    """
    windows = None
    with wrap_errors(path):
        source = open_source(path)
        try:
            windows = source.open_windows(choose_page(page, len(source)))
        finally:
            if windows is None:
                source.close()
    if windows is None:
        return None
    return WindowedImage(Path(path), windows, source.close, keep_alpha)


class WindowedImage:
    """An image whose windows are read. Several threads may read at once.

    Attributes:
        path: of the file.
        shape: (H, W, C).
        dtype: uint8, uint16 or float32, as `segkit.images.reading.read_image` returns it.
        kind: What is stored, without its pixels.
        may_lack_data: Whether there can be masked pixels.

    Example:
        >>> with open_windows("slide.ome.tif") as image:
        ...     corner = image.read(0, 0, 512, 512)  # (512, 512, C)
    """

    def __init__(
        self,
        path: Path,
        windows: Windows,
        close: Callable[[], None],
        keep_alpha: bool = False,
    ) -> None:
        self.path, self._close, self._keep_alpha = path, close, keep_alpha
        self._windows: Windows | None = windows
        self.kind = windows.kind
        empty = render(windows.kind, keep_alpha)
        self.shape: tuple[int, int, int] = (*windows.size, empty.shape[2])
        self.dtype: np.dtype[Any] = empty.dtype
        kind = windows.kind
        self.may_lack_data = (
            bool(kind.alpha) or kind.nodata is not None or kind.missing is not None
        ) or self.dtype == np.float32

    def read(self, top: int, left: int, height: int, width: int) -> Array:
        """Read a window: (height, width, C), exactly what `read_image` returns there.

        Raises:
            SegkitError: The window is empty or reaches out of the image, or the file is damaged
                there.
        """
        stored = self.read_stored(top, left, height, width)
        with wrap_errors(self.path):
            return render(stored, self._keep_alpha)

    def read_stored(self, top: int, left: int, height: int, width: int) -> Raster:
        """Read a window as `segkit.images.reading.ImageReader.read` reads the image.

        Raises:
            SegkitError: As :meth:`read`.
        """
        H, W, _ = self.shape
        if not (0 <= top < top + height <= H and 0 <= left < left + width <= W):
            raise SegkitError(
                f"{self.path}: a window of {height} x {width} at row {top}, column {left} is empty "
                f"or reaches out of the image of {H} x {W}."
            )
        windows = self._windows
        if windows is None:
            raise SegkitError(f"{self.path}: is closed; windows are read before that.")
        with wrap_errors(self.path):
            return windows.read(top, left, height, width)

    def close(self) -> None:
        """Close the file and free what is cached; no window can be read afterwards."""
        self._windows = None
        self._close()

    def __enter__(self) -> WindowedImage:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
