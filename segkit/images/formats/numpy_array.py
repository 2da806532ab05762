"""NumPy's files: an array (.npy), or several by name (.npz); for axes see `segkit.images.arrays`.

A .npy is mapped into memory, so windows read only what they touch. Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import math
import threading
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from segkit.core.errors import SegkitError
from segkit.images.arrays import ArrayPages
from segkit.images.formats.base import ImageFormat, Pages
from segkit.images.raster import Array

_MEMBER = b"PK\3\4"
"""First bytes of a zip archive; the name of its first file follows."""
_NO_FILES = b"PK\5\6"


class Npy(ImageFormat, name="npy"):
    """One array of NumPy."""

    title = "NumPy array"
    suffixes = (".npy",)
    starts = (b"\x93NUMPY",)

    @classmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Map the array into memory."""
        assert isinstance(file, Path)
        with file.open("rb") as opened:
            header = _read_header(opened)
            start, size = opened.tell(), opened.seek(0, io.SEEK_END)
        if header.nbytes > size - start:
            raise ValueError(f"it is cut short: it should hold {header.shape} {header.dtype}")
        order = "F" if header.is_fortran else "C"
        # NumPy cannot map nothing, but ArrayPages says so in words.
        load = partial(np.memmap, file, header.dtype, "r", start, header.shape, order)
        # a window of a mapped array costs nothing but its own pixels
        return ArrayPages(_Stored(header, load), chunks=(1,) * len(header.shape))


class Npz(ImageFormat, name="npz"):
    """A zip archive of arrays of NumPy, of which ``FILE::NAME`` is one."""

    title = "NumPy archive"
    suffixes = (".npz",)
    has_arrays = True

    @classmethod
    def owns(cls, path: Path, start: bytes) -> bool:
        """By the name of the first file in the archive, as other zip archives are none."""
        length = int.from_bytes(start[26:28], "little")
        if start.startswith(_MEMBER):
            return start[30 : 30 + length].endswith(b".npy")
        return start.startswith(_NO_FILES) and path.suffix.lower() == ".npz"

    @classmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Open one array.

        Raises:
            SegkitError: There is no such array, or there are several and none was chosen.
        """
        assert isinstance(file, Path)
        with zipfile.ZipFile(file) as archive:
            names = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
            found = _choose_array(names, array)
            packed = archive.getinfo(f"{found}.npy")
            with archive.open(packed) as opened:
                header = _read_header(opened)  # type: ignore[arg-type]  # has read, as it needs
                start = opened.tell()
        if header.nbytes > packed.file_size - start:
            raise ValueError(f"it is cut short: '{found}' should hold {header.shape}")
        return ArrayPages(_Stored(header, partial(_unpack_array, file, packed.filename)))


def _choose_array(names: list[str], wanted: str | None) -> str:
    listed = ", ".join(f"'{name}'" for name in names[:20]) + (", ..." if len(names) > 20 else "")
    if wanted in names:
        return wanted
    if wanted is not None:
        raise SegkitError(f"it has no array '{wanted}'; it has {listed or 'none'}.")
    if not names:
        raise SegkitError("it holds no arrays: save it again with numpy.savez.")
    if len(names) > 1:
        raise SegkitError(f"it holds several arrays: choose one as FILE::NAME, from {listed}.")
    return names[0]


def _unpack_array(file: Path, name: str) -> Array:
    with zipfile.ZipFile(file) as archive, archive.open(name) as opened:
        found: Array = np.lib.format.read_array(opened, allow_pickle=False)
    return found


class _Header(NamedTuple):
    """What a .npy says about its array."""

    shape: tuple[int, ...]
    is_fortran: bool  # the first axis is the fastest
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _read_header(file: BinaryIO) -> _Header:
    """Read the header of a .npy; the file then stands at its values.

    Raises:
        ValueError: It is damaged, or the array holds other things than numbers.
    """
    version = np.lib.format.read_magic(file)
    if version == (3, 0):  # which NumPy writes only for names of fields beyond Latin
        raise ValueError("it holds records with named fields: save one field as an array")
    if version == (1, 0):
        read: Callable[..., Any] = np.lib.format.read_array_header_1_0
    else:
        read = np.lib.format.read_array_header_2_0
    header = _Header(*read(file))
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects, which could run code: save plain numbers")
    if header.dtype.names:
        raise ValueError("it holds records with named fields: save one field as an array")
    if any(side < 0 for side in header.shape):
        raise ValueError(f"its shape is {header.shape}")
    return header


class _Stored:
    """An array whose shape is known and whose values are loaded when first read."""

    def __init__(self, header: _Header, load: Callable[[], Array]) -> None:
        self.shape, self.dtype = header.shape, header.dtype
        self._load, self._lock = load, threading.Lock()
        self._values: Array | None = None

    def __getitem__(self, index: Any) -> Array:
        with self._lock:  # or two threads would load it twice
            if self._values is None:
                self._values = self._load()
        return np.array(self._values[index])  # not a view of the file
