"""Decoded images and masks in memory-mapped files, shared by all processes of a run on a machine.

An array is a file: its type and shape, then its values as they are in memory. It is written when it
is read for the first time, by whichever process that is, under another name first: so a file is
whole or not there, and two processes that write the same array at once write the same bytes. What
is read is the page cache of the system, of which a crop touches only its own pages.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import struct
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

_HEAD = struct.Struct("<8s4q24x")  # type, number of dimensions, up to three sides; 64 bytes in all


class ArrayCache:
    """Arrays that are made once and then read by every process that has this object or a copy.

    It lives as long as the run: its folder is new, so that nothing in it can be older than the run,
    and it is removed by :meth:`close`, or else when the process that made it ends, whatever ends it
    but a kill. Where the disk is full, or the folder is gone, arrays are made anew each time.

    It is picklable; copies read and write, but never remove.

    Args:
        folder: A folder that another process made. None: a new one among the temporary files.

    Raises:
        OSError: No folder can be made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._mapped: OrderedDict[tuple[Sample, str], NDArray[Any]] = OrderedDict()
        self._most = _most_open()
        self._writes, self._open = True, True
        self._remove = None
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="segkit-cache-"))
            self._remove = weakref.finalize(self, _remove, folder, os.getpid())
        self.folder = folder

    def fetch(self, sample: Sample, kind: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """An array of a sample; it must not be written to.

        Args:
            sample: The sample.
            kind: What of it, as the beginning of a file's name.
            make: Makes the array where it is not there yet; one of more than three dimensions is
                made each time. What it raises is passed on.
        """
        if not self._open:
            return make()
        key = sample, kind
        array = self._mapped.get(key)
        if array is not None:
            self._mapped.move_to_end(key)
            return array
        # of all that is known of it: every process comes to the same name, another sample to none
        path = self.folder / f"{kind}-{blake2b(repr(sample).encode(), digest_size=16).hexdigest()}"
        try:
            array = self._mapped[key] = _map_file(path)
        except OSError:
            array = make()
            if array.ndim <= 3 and not array.dtype.hasobject:
                self._write(path, array)
            return array
        if len(self._mapped) > self._most:
            self._mapped.popitem(last=False)
        return array

    def close(self) -> None:
        """Use it no more, and remove its folder if this process made it."""
        self._open = False
        self._mapped.clear()
        if self._remove is not None:
            self._remove()

    def _write(self, path: Path, array: NDArray[Any]) -> None:
        if not self._writes:
            return
        part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
        sides = [*array.shape, 0, 0, 0][:3]
        try:
            with part.open("wb") as file:
                file.write(_HEAD.pack(array.dtype.str.encode(), array.ndim, *sides))
                file.write(np.ascontiguousarray(array).data)
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            if path.is_file():  # Windows lets nobody replace a file that another process reads
                return
            self._writes = False
            if self.folder.is_dir() and self._first_to_say():
                warnings.warn(
                    f"the decoded images cannot be kept in {self.folder}: {error.strerror}. The"
                    " rest is read from its files each time; with the environment variable TMPDIR"
                    " the folder lies on another disk, with data.cache=false there is none.",
                    RuntimeWarning,
                    stacklevel=3,
                )

    def _first_to_say(self) -> bool:
        """Whether no other process has said that the disk is full."""
        try:
            (self.folder / "full").touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:  # not even room for that
            return True
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "open": self._open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # of one class, and all that it needs
        self.__init__(state["folder"])  # type: ignore[misc]
        self._open = state["open"]


def _map_file(path: Path) -> NDArray[Any]:
    with path.open("rb", buffering=0) as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    dtype, ndim, *sides = _HEAD.unpack_from(content)
    kind = np.dtype(dtype.rstrip(b"\0").decode())
    return np.ndarray(tuple(sides[:ndim]), kind, content, _HEAD.size)


def _most_open() -> int:
    """Files that a process keeps mapped; each takes one of its file descriptors."""
    if sys.platform == "win32":  # it has enough of them
        return 4096
    import resource

    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 4096 if allowed == resource.RLIM_INFINITY else max(16, min(4096, allowed // 4))


def _remove(folder: Path, owner: int) -> None:
    """Remove a folder, in the process that made it: the ones forked from it come here too."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
