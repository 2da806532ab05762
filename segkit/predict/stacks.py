"""The masks of the pages of one file, written page by page."""

from __future__ import annotations

import math
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.images.tile_scratch import TileScratch
from segkit.images.tile_streaming import stream_page

SIDE = 512
"""Of the tiles of a page that is written by windows, in pixels."""
_CLASSIC = 2**31
"""Bytes up to which a TIFF of 32-bit offsets is sure to do, compressed or not."""


class PageWindows:
    """A page that is filled window by window.

    Args:
        scratch: Where its pixels are meanwhile.
    """

    def __init__(self, scratch: TileScratch) -> None:
        self._scratch = scratch

    def write(self, top: int, left: int, block: NDArray[Any]) -> None:
        """Put a window in, (h, w) or (N, h, w), as the page.

        Raises:
            OSError: It cannot be written.
        """
        layers = block.reshape(self._scratch.shape[0], *block.shape[-2:])
        for number, layer in enumerate(layers):
            self._scratch.write(number, top, left, layer)


class StackFile:
    """A TIFF of several pages that appears when all are in it, and holds few of them in memory.

    Pages may come from several threads and in any order.

    Args:
        path: The file.
        pages: How many pages it gets.
    """

    def __init__(self, path: Path, pages: int) -> None:
        self.path, self.pages = path, pages
        self._temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        self._writer: Any = None
        self._waiting: dict[int, NDArray[Any] | TileScratch] = {}
        self._next = 0
        self._is_dropped = False
        self._lock = threading.Lock()

    @contextmanager
    def windows(
        self, number: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Iterator[PageWindows]:
        """Write a page by windows, all of them in the ``with`` block; the pages in their order.

        Until then its pixels lie in a nameless file in the same folder.

        Args:
            number: Which page, from 0.
            shape: (H, W), or (N, H, W), which becomes a page of N samples.
            dtype: Of the pixels.

        Raises:
            SegkitError: It cannot be written.
        """
        *layers, height, width = shape
        whole = math.prod(layers), height, width
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with TileScratch(self.path.parent, whole, dtype, SIDE) as scratch:
                yield PageWindows(scratch)
                self.add(number, scratch)
        except OSError as error:
            raise self._failed(error) from error

    def add(self, number: int, mask: NDArray[Any] | TileScratch) -> bool:
        """Write a page.

        Args:
            number: Which one, from 0.
            mask: (H, W), or (N, H, W), which becomes a page of N samples.

        Returns:
            Whether it was the last one that was missing.

        Raises:
            SegkitError: It cannot be written.
        """
        with self._lock:
            if self._is_dropped:  # another page of the file has failed meanwhile
                return False
            self._waiting[number] = mask
            try:
                while self._next in self._waiting:
                    self._write(self._waiting.pop(self._next))
                    self._next += 1
            except OSError as error:
                raise self._failed(error) from error
            return self._next == self.pages

    def finish(self) -> None:
        """Let the file appear.

        Raises:
            SegkitError: It cannot be written.
        """
        try:
            self._writer.close()
            with self._temporary.open("rb+") as file:
                os.fsync(file.fileno())
            self._temporary.replace(self.path)
            self._writer = None
        except OSError as error:
            raise self._failed(error) from error

    def drop(self) -> None:
        """Remove what is written."""
        with self._lock:
            self._is_dropped = True
            self._waiting.clear()
            if self._writer is not None:
                with suppress(OSError):  # of a full disk: what is not written is not wanted either
                    self._writer.close()
            self._temporary.unlink(missing_ok=True)

    def _write(self, mask: NDArray[Any] | TileScratch) -> None:
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            large = math.prod(mask.shape) * mask.dtype.itemsize * self.pages > _CLASSIC
            self._writer = tifffile.TiffWriter(self._temporary, bigtiff=large)
        if isinstance(mask, TileScratch):
            stream_page(self._writer, mask)
            return
        self._writer.write(
            mask,
            photometric="minisblack",
            planarconfig="separate" if mask.ndim == 3 else None,
            compression="zlib",
            metadata=None,
        )

    def _failed(self, error: OSError) -> SegkitError:
        return SegkitError(
            f"cannot write '{self.path}': {error.strerror or error}. Check that its folder may be"
            " written to and that the disk is not full."
        )
