"""Decoded images and masks in memory-mapped files, shared by all processes of a run on a machine.

An array is one .npy file. Whichever process reads it first writes it, under another name, and then
renames it: a file is complete or absent, and two processes that write the same array at once write
the same bytes. Reading goes through the page cache of the system, and a crop touches only its own
pages.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.data.sources.base import Sample


class ArrayCache:
    """Arrays that are computed once and then read by every process with this object or a copy.

    It lives as long as the run. Its folder is new, so that nothing in it is older than the run, and
    is removed by :meth:`close`, or when the process that made it ends other than by a kill. If the
    disk is full or the folder is gone, arrays are computed each time.

    It is picklable; copies read and write, but never remove the folder.

    Args:
        folder: A folder that another process made. None: a new temporary one.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._mapped: OrderedDict[tuple[Sample, str], NDArray[Any]] = OrderedDict()
        self._most = _limit_open_files()
        self._writes, self._open = True, True
        self._remove = None
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="segkit-cache-"))
            self._remove = weakref.finalize(self, _remove, folder, os.getpid())
        self.folder = folder

    def fetch(self, sample: Sample, kind: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return an array of a sample, read-only; ``kind`` tells its arrays apart.

        Errors of ``make``, which computes an array that is not cached yet, are passed on.
        """
        if not self._open:
            return make()
        key = sample, kind
        array = self._mapped.get(key)
        if array is not None:
            self._mapped.move_to_end(key)
            return array
        # a hash of all fields, so that every process finds the same name and samples never clash
        path = self.folder / f"{kind}-{blake2b(repr(sample).encode(), digest_size=16).hexdigest()}"
        try:
            array = self._mapped[key] = np.asarray(np.load(path, mmap_mode="r"))
        except OSError:
            array = make()
            if not array.dtype.hasobject:
                self._write(path, array)
            return array
        if len(self._mapped) > self._most:
            self._mapped.popitem(last=False)
        return array

    def close(self) -> None:
        """Stop using the cache, and remove its folder if this process made it."""
        self._open = False
        self._mapped.clear()
        if self._remove is not None:
            self._remove()

    def _write(self, path: Path, array: NDArray[Any]) -> None:
        if not self._writes:
            return
        part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            with part.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            if path.is_file():  # Windows cannot replace a file that another process has open
                return
            self._writes = False
            if self.folder.is_dir() and self._is_first_to_warn():
                warnings.warn(
                    f"decoded images cannot be cached in {self.folder}: {error.strerror or error}."
                    " The remaining ones are read from their files each time. The environment"
                    " variable TMPDIR moves the cache to another disk, data.cache=false turns it"
                    " off.",
                    RuntimeWarning,
                    stacklevel=3,
                )

    def _is_first_to_warn(self) -> bool:
        """Whether no other process has warned yet that the disk is full."""
        try:
            (self.folder / "full").touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:  # there is no room even for that
            return True
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "open": self._open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]
        self._open = state["open"]


def _limit_open_files() -> int:
    """Maximum number of files that a process keeps mapped; each takes a file descriptor."""
    if sys.platform == "win32":  # has no such limit
        return 4096
    import resource

    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 4096 if allowed == resource.RLIM_INFINITY else max(16, min(4096, allowed // 4))


def _remove(folder: Path, owner: int) -> None:
    """Remove a folder, but only in the process that made it and not in its forks."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
