"""Masks and probabilities of any size, written by windows: TIFF and zarr, whole or not at all."""

from __future__ import annotations

import math
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from segkit.core.errors import SegkitError
from segkit.images.raster import Array
from segkit.images.tile_scratch import TileScratch, Uncovered
from segkit.images.tile_streaming import stream_tiff, stream_zarr
from segkit.images.zarr_store import is_zarr

_SIDES = {".tif": 512, ".tiff": 512, ".zarr": 1024}
_DTYPES = (np.uint8, np.uint16, np.int32, np.float32)


class WindowFile:
    """A file that is filled window by window; memory does not grow with the image.

    It appears under its name when the ``with`` block ends, whole, in place of an old one. After an
    error nothing is left of it, and an old one stays. Until then the pixels lie unpacked in a
    nameless file in the same folder, which the disk must have room for.

    A TIFF has tiles of 512 x 512, packed with deflate, and is a BigTIFF where that is needed. It
    has N pages, as `write_mask` does it; with a pyramid it is an OME-TIFF of N
    channels with the levels as SubIFDs. A zarr is an array in zarr 3 with blocks of 1024 x 1024 and
    the axes (c,) y, x; with a pyramid an OME-Zarr 0.5 image. The levels of a pyramid halve down to
    512 pixels: integers by every second pixel, floats by the mean of 2 x 2.

    Args:
        path: ends in .tif, .tiff or .zarr; folders above it are created.
        shape: (H, W) or (N, H, W).
        dtype: uint8, uint16, int32 or float32.
        pyramid: whether to add smaller levels, for viewers.

    Raises:
        SegkitError: for another suffix, shape or dtype; when it is entered also where the folder
            cannot be written to, the disk is too full, or something else has the file's name.

    Example:
        >>> with WindowFile("mask.tif", (20_000, 20_000), "uint8", pyramid=True) as file:
        ...     for top, left, labels in predicted:  # labels: (h, w) uint8
        ...         file.write(top, left, labels)
    """

    def __init__(
        self,
        path: str | Path,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        pyramid: bool = False,
    ) -> None:
        self.path, self.shape, self.dtype = Path(path), tuple(shape), np.dtype(dtype)
        self._pyramid = pyramid
        suffix = self.path.suffix.lower()
        if suffix not in _SIDES:
            raise SegkitError(
                f"{path}: files are written by windows as .tif, .tiff or .zarr, not as '{suffix}'."
            )
        if self.dtype not in _DTYPES:
            raise SegkitError(
                f"{path}: pixels are uint8, uint16, int32 or float32, not {self.dtype}."
            )
        if len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise SegkitError(f"{path}: the shape is (H, W) or (N, H, W), not {self.shape}.")
        self._is_zarr, self._side = suffix == ".zarr", _SIDES[suffix]
        self._layers = self.shape[0] if len(self.shape) == 3 else 1
        self._lock = threading.Lock()
        self._scratch: TileScratch | None = None
        self._uncovered = Uncovered(*self.shape[-2:])

    def write(self, top: int, left: int, block: Array) -> None:
        """Put a window in. Windows may come in any order, from several threads, and overlap.

        Args:
            top: the row of its first pixel.
            left: the column of its first pixel.
            block: (h, w) or (N, h, w), as the file, of its dtype or one that it holds.

        Raises:
            SegkitError: The block does not fit, or the disk is full.
        """
        if self._scratch is None:
            raise SegkitError(f"{self.path}: windows are written inside of its with block only.")
        H, W = self.shape[-2:]
        height, width = block.shape[-2:]
        fits = block.shape == (*self.shape[:-2], height, width) and block.size > 0
        inside = 0 <= top <= H - height and 0 <= left <= W - width
        if not (fits and inside and np.can_cast(block.dtype, self.dtype)):
            raise SegkitError(
                f"{self.path}: a window of {block.shape} {block.dtype} at row {top}, column {left} "
                f"does not fit into {self.shape} {self.dtype}."
            )
        layers = block.reshape(self._layers, height, width)
        with self._naming():
            for layer, values in enumerate(layers):
                self._scratch.write(layer, top, left, values)
        with self._lock:
            self._uncovered.remove(top, left, top + height, left + width)

    def __enter__(self) -> WindowFile:
        with self._naming():
            folder = self.path.parent
            folder.mkdir(parents=True, exist_ok=True)
            self._check_name()
            shape = (self._layers, *self.shape[-2:])
            wanted, free = math.prod(shape) * self.dtype.itemsize, shutil.disk_usage(folder).free
            if wanted > free:
                raise SegkitError(
                    f"{self.path}: the disk has {free / 1e9:.1f} GB left, and the image needs "
                    f"{wanted / 1e9:.1f} GB there until it is packed. Name another folder."
                )
            # a shape is (H, W) or (N, H, W) here, which mypy cannot see
            self._scratch = TileScratch(folder, shape, self.dtype, self._side)  # type: ignore[arg-type]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._scratch is not None
        with self._scratch as scratch, self._naming():
            self._scratch = None
            if kind is None:
                self._finish(scratch)

    def _finish(self, scratch: TileScratch) -> None:
        gap = self._uncovered.first()
        if gap is not None:
            top, left, bottom, right = gap
            raise SegkitError(
                f"{self.path}: no window has covered the rows {top} to {bottom - 1}, columns "
                f"{left} to {right - 1}, so the file is not written."
            )
        stream = stream_zarr if self._is_zarr else stream_tiff
        temporary = self.path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            stack = len(self.shape) == 3
            stream(temporary, scratch, self.path.parent, stack=stack, pyramid=self._pyramid)
            if self._is_zarr:
                self._check_name()
                _replace_folder(temporary, self.path)
            else:
                temporary.replace(self.path)
        finally:
            if self._is_zarr:
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)

    def _check_name(self) -> None:
        """Nothing but an old file of the kind may be replaced."""
        if self._is_zarr:
            free = not self.path.exists() or is_zarr(self.path)
        else:
            free = not self.path.is_dir()
        if not free:
            kind = "no zarr" if self._is_zarr else "a folder"
            raise SegkitError(f"{self.path}: is there already and is {kind}. Name another file.")

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SegkitError(
                f"cannot write '{self.path}': {error.strerror or error}. "
                "Check that its folder may be written to and that the disk is not full."
            ) from error


def _replace_folder(new: Path, target: Path) -> None:
    """Rename a folder to a name that another one may have; on failure that one stays."""
    if not target.exists():
        new.rename(target)
        return
    old = target.with_name(f".{secrets.token_hex(8)}.old")
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
