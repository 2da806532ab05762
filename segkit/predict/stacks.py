"""The masks of the pages of one file, written page by page."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.files import wrap_write_errors, written_whole
from segkit.images.window_writing import Scratch, write_tiles

_CLASSIC = 2**31
"""Bytes that are sure to fit into a TIFF with 32-bit offsets, compressed or not."""


class StackFile:
    """A TIFF of several pages that appears when it is complete, and holds few of them in memory.

    Pages may come from several threads and in any order.
    """

    def __init__(self, path: Path, pages: int) -> None:
        self.path, self.pages = path, pages
        self._file = ExitStack()
        self._writer: tifffile.TiffWriter | None = None
        self._waiting: dict[int, NDArray[Any] | Scratch] = {}
        self._next = 0
        self._is_dropped = False
        self._lock = threading.Lock()

    @contextmanager
    def write_windows(
        self, number: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Iterator[Scratch]:
        """Write a page by windows, all of them in the ``with`` block; pages come in their order.

        Until then its pixels lie in a nameless file in the same folder. The shape is (H, W), or
        (N, H, W), which becomes a page of N samples.
        """
        *layers, height, width = shape
        with wrap_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            whole = (math.prod(layers), height, width)
            with Scratch(self.path.parent, whole, dtype) as scratch:
                yield scratch
                self.add(number, scratch)

    def add(self, number: int, mask: NDArray[Any] | Scratch) -> bool:
        """Write a page, (H, W) or N samples (N, H, W). Return whether the file is complete."""
        with self._lock, wrap_write_errors(self.path):
            if self._is_dropped:  # another page of the file has failed
                return False
            self._waiting[number] = mask
            while self._next in self._waiting:
                self._write(self._waiting.pop(self._next))
                self._next += 1
            return self._next == self.pages

    def finish(self) -> None:
        """Give the file its name."""
        with wrap_write_errors(self.path):
            self._file.close()

    def drop(self) -> None:
        """Remove what is written, unless the file is finished."""
        with self._lock:
            self._is_dropped = True
            self._waiting.clear()
            # On a full disk it cannot be closed either; it is not needed any more.
            with suppress(SegkitError, CancelledError), self._file:
                raise CancelledError

    def _write(self, mask: NDArray[Any] | Scratch) -> None:
        if self._writer is None:
            file = self._file.enter_context(written_whole(self.path))
            large = math.prod(mask.shape) * mask.dtype.itemsize * self.pages > _CLASSIC
            self._writer = self._file.enter_context(tifffile.TiffWriter(file, bigtiff=large))
        if isinstance(mask, Scratch):
            layers = mask.shape[0]
            shape = mask.shape if layers > 1 else mask.shape[1:]
            write_tiles(self._writer, mask, shape, planarconfig="separate" if layers > 1 else None)
            return
        self._writer.write(
            mask,
            photometric="minisblack",
            planarconfig="separate" if mask.ndim == 3 else None,
            compression="zlib",
            metadata=None,
        )
