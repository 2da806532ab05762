"""Images that stay at hand, because parts of them are read again and again."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segkit.images.windows import WindowedImage, open_windows

OPEN = 4
"""Images that a process keeps open; each keeps decoded strips or tiles."""
WHOLE_BYTES = 256 * 2**20
"""Bytes of whole images that a process keeps, unless a single one is larger."""


class OpenImages:
    """Images that are read by windows, the last few of which stay open.

    Several threads may read at once. A forked process opens files of its own: two that share one
    would move each other's place in it. A copy by pickle starts without any.
    """

    def __init__(self) -> None:
        self._lent: OrderedDict[tuple[Path, int | None], _Lent] = OrderedDict()
        self._process, self._lock = os.getpid(), threading.Lock()
        weakref.finalize(self, _close_all, self._lent)

    @contextmanager
    def open(self, path: Path, page: int | None) -> Iterator[WindowedImage | None]:
        """Lend an image; None if it can only be read whole.

        Raises:
            SegkitError: It cannot be read.
        """
        if self._process != os.getpid():
            self._process, self._lock = os.getpid(), threading.Lock()
            _close_all(self._lent)
        with self._lock:
            lent = self._lent.get((path, page))
            if lent is None:
                lent = self._lent[path, page] = _Lent(open_windows(path, page))
            self._lent.move_to_end((path, page))
            lent.users += 1
            while len(self._lent) > OPEN:
                _, oldest = self._lent.popitem(last=False)
                oldest.is_kept = False
                oldest.close_if_unused()
        try:
            yield lent.image
        finally:
            with self._lock:
                lent.users -= 1
                lent.close_if_unused()

    def __reduce__(self) -> tuple[type[OpenImages], tuple[()]]:
        return OpenImages, ()


class _Lent:
    """An open image, and how many read it now."""

    def __init__(self, image: WindowedImage | None) -> None:
        self.image, self.users, self.is_kept = image, 0, True

    def close_if_unused(self) -> None:
        if self.image is not None and not self.users and not self.is_kept:
            self.image.close()


def _close_all(lent: OrderedDict[tuple[Path, int | None], _Lent]) -> None:
    for each in lent.values():
        if each.image is not None:
            each.image.close()
    lent.clear()


class WholeImages:
    """Images that can only be read whole, the last of which are kept to cut parts from them.

    A copy by pickle starts without any.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def fetch(self, key: Hashable, read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return an array that is kept, or read it; errors of ``read`` are passed on."""
        with self._lock:  # other threads wait, most of them for the same image
            array = self._kept.pop(key, None)
            if array is None:
                array = read()
            self._kept[key] = array
            while len(self._kept) > 1 and sum(a.nbytes for a in self._kept.values()) > WHOLE_BYTES:
                self._kept.popitem(last=False)
            return array

    def __reduce__(self) -> tuple[type[WholeImages], tuple[()]]:
        return WholeImages, ()
