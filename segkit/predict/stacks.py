"""The masks of the pages of one file, written page by page."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.files import wrap_write_errors, written_whole
from segkit.images.formats.base import ImageFormat
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
        self._waiting: dict[int, tuple[NDArray[Any] | Scratch, Mapping[str, Any]]] = {}
        self._next = 0
        self._is_dropped = False
        self._lock = threading.Lock()

    @contextmanager
    def write_windows(
        self,
        number: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        options: Mapping[str, Any] = MappingProxyType({}),
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
                self.add(number, scratch, options)

    def add(
        self,
        number: int,
        mask: NDArray[Any] | Scratch,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> bool:
        """Write a page, (H, W) or N samples (N, H, W). Return whether the file is complete.

        The options are those of tifffile that state where its pixels lie.
        """
        with self._lock, wrap_write_errors(self.path):
            if self._is_dropped:  # another page of the file has failed
                return False
            self._waiting[number] = mask, options
            while self._next in self._waiting:
                self._write(*self._waiting.pop(self._next))
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

    def _write(self, mask: NDArray[Any] | Scratch, options: Mapping[str, Any]) -> None:
        if self._writer is None:
            file = self._file.enter_context(written_whole(self.path))
            large = math.prod(mask.shape) * mask.dtype.itemsize * self.pages > _CLASSIC
            self._writer = self._file.enter_context(tifffile.TiffWriter(file, bigtiff=large))
        if isinstance(mask, Scratch):
            layers = mask.shape[0]
            shape = mask.shape if layers > 1 else mask.shape[1:]
            planes = "separate" if layers > 1 else None
            write_tiles(self._writer, mask, shape, planarconfig=planes, **options)
            return
        self._writer.write(
            mask,
            photometric="minisblack",
            planarconfig="separate" if mask.ndim == 3 else None,
            compression="zlib",
            metadata=None,
            **options,
        )


class VolumeFile:
    """The maps of a volume, which are written in its own format when all pages are there.

    Pages may come from several threads and in any order.
    """

    def __init__(self, path: Path, pages: int, source: Path, kind: type[ImageFormat]) -> None:
        self.path, self.pages, self.source, self.kind = path, pages, source, kind
        self._maps: dict[Path, dict[int, NDArray[Any]]] = {}
        self._ids: Path | None = None
        self._outlines: dict[int, tuple[Path, Callable[[Path, int], None]]] = {}
        self._lock = threading.Lock()

    @property
    def extras(self) -> list[Path]:
        """The files besides the mask."""
        outlines = [path for path, _ in self._outlines.values()]
        return [*(path for path in self._maps if path != self.path), *outlines]

    def keep(self, path: Path, number: int, values: NDArray[Any], are_ids: bool = False) -> bool:
        """Keep a page of a file, (H, W) or (C, H, W). Return whether all of it are there."""
        with self._lock:
            maps = self._maps.setdefault(path, {})
            maps[number] = values
            if are_ids:
                self._ids = path
            return len(maps) == self.pages

    def keep_outlines(self, path: Path, number: int, write: Callable[[Path, int], None]) -> None:
        """Keep what writes the outlines of a page, when the number of objects before is known."""
        with self._lock:
            self._outlines[number] = path, write

    def add(self, number: int, mask: NDArray[Any], options: object = None) -> bool:
        """Keep a page of the mask. Return whether all are there."""
        return self.keep(self.path, number, mask)

    def write_extras(self) -> None:
        """Write the files besides the mask, all of whose pages are there.

        The ids of each slice begin at 1, and would be one object in a volume: they go on instead.
        """
        before = [0] * self.pages
        if self._ids is not None:
            ids = [self._maps[self._ids][number] for number in range(self.pages)]
            before = np.cumsum([0, *(page.max() for page in ids[:-1])]).tolist()
            for number, page in enumerate(ids):
                self._maps[self._ids][number] = np.where(page > 0, page + before[number], 0)
        for path in self._maps:
            if path != self.path:
                self._write(path)
        for number, (path, write) in self._outlines.items():
            write(path, before[number])

    def finish(self) -> None:
        """Write the mask."""
        self._write(self.path)

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        maps = [self._maps[path][number] for number in range(self.pages)]
        self.kind.write_maps(self.source, maps, path)

    def drop(self) -> None:
        """Forget the pages."""
        self._maps.clear()
        self._outlines.clear()
