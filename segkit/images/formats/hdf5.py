"""HDF5: files of arrays (datasets) in groups, of which ``FILE::GROUP/DATASET`` is one.

A dataset with two axes or more that is the only one of its file needs no name. Its axes are named
by labels or dimension scales (netCDF), by ilastik's axistags, else see `segkit.images.arrays`.

A dataset may lie in other files. These are never opened, as a stranger's file could name any file
of this machine.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from segkit.core.errors import SegkitError, did_you_mean
from segkit.images.arrays import ArrayPages, read_packing
from segkit.images.formats.base import ImageFormat, Pages, import_extra
from segkit.images.place import Place, measure_pixel
from segkit.images.raster import Array

CACHE = 64 * 2**20
"""Bytes of decoded chunks that an open file keeps: windows that share a chunk decode it once."""
MOST_LINKS = 16
"""Links that a name may follow: damaged ones may run in a circle."""

_MAGIC = b"\x89HDF\r\n\x1a\n"
_MINC = "minc-2.0"
"""The group of a brain image, whose numbers are scaled slice by slice in a way of its own."""
_AXES = {
    "channel": "c",
    "channels": "c",
    "band": "c",
    "lat": "y",
    "latitude": "y",
    "lon": "x",
    "longitude": "x",
}


class Hdf5(ImageFormat, name="hdf5"):
    """HDF5, netCDF 4 among it."""

    title = "HDF5"
    suffixes = (".h5", ".hdf5", ".hdf", ".he5", ".nc4")
    starts = (_MAGIC,)
    has_arrays = True

    @classmethod
    def owns(cls, path: Path, start: bytes) -> bool:
        """By the magic, which may stand behind 512, 1024, 2048 ... bytes of something else."""
        if start.startswith(cls.starts):
            return True
        if path.suffix.lower() not in cls.suffixes:
            return False
        at, size = 512, path.stat().st_size
        with path.open("rb") as file:
            while at + len(_MAGIC) <= size:
                file.seek(at)
                if file.read(len(_MAGIC)) == _MAGIC:
                    return True
                at *= 2
        return False

    @classmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Open one dataset.

        Raises:
            SegkitError: There is no such dataset, or there are several and none was chosen; it lies
                in other files; or h5py is not installed.
        """
        assert isinstance(file, Path)
        opened = _open_file(file)
        try:
            if _MINC in opened:
                raise SegkitError("it is MINC: convert it to NIfTI, for example with mnc2nii.")
            dataset = _choose_dataset(opened, array)
            if dataset.shape is None:
                raise ValueError(f"'{dataset.name}' is empty")
            _require_inside(dataset)
            _require_filters(dataset)
            chunks = dataset.chunks or (1,) * dataset.ndim  # rows of unpacked pixels
            return _DatasetPages(opened, dataset, _name_axes(dataset), chunks)
        except BaseException:
            opened.close()
            raise


class _DatasetPages(ArrayPages):
    """The images of a dataset. h5py lets one thread read at a time."""

    def __init__(
        self, file: Any, dataset: Any, names: list[str] | None, chunks: Sequence[int]
    ) -> None:
        packing = read_packing(dataset.attrs)
        super().__init__(dataset, names, chunks, _read_place(dataset), packing)
        self._file = file

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _open_file(path: Path) -> Any:
    h5py = import_extra("h5py", "hdf5")
    try:
        return h5py.File(path, "r", rdcc_nbytes=CACHE)
    except OSError as error:
        if "lock" not in str(error):
            raise
    # Another program writes it, or its disk knows no locks. Asked for at first, this would fail
    # where the same process has the file open in the usual way.
    return h5py.File(path, "r", rdcc_nbytes=CACHE, locking=False)


def _choose_dataset(file: Any, name: str | None) -> Any:
    h5py = import_extra("h5py", "hdf5")
    if name is not None:
        found = _follow(file, name)
        if isinstance(found, h5py.Dataset):
            return found
        listed = _list_datasets(file)
        if isinstance(found, h5py.Group):
            raise SegkitError(f"'{name}' is a group; it has {_list_shapes(listed)}.")
        hint = did_you_mean(name.strip("/"), [each.name.strip("/") for each in listed])
        raise SegkitError(f"it has no dataset '{name}'.{hint} It has {_list_shapes(listed)}.")
    listed = _list_datasets(file)
    if not listed:
        raise SegkitError("it holds no dataset of numbers with two axes or more.")
    if len(listed) > 1:
        raise SegkitError(
            f"it holds several datasets: choose one as FILE::NAME, from {_list_shapes(listed)}."
        )
    return listed[0]


def _list_datasets(file: Any) -> list[Any]:
    """The datasets in a file that may be images; links to other places are not followed."""
    h5py, found = import_extra("h5py", "hdf5"), []

    def add(name: str, node: Any) -> None:
        if not isinstance(node, h5py.Dataset) or len(node.shape or ()) < 2:
            return
        with suppress(TypeError):  # of its type NumPy knows none
            if node.dtype.kind in "biuf" and math.prod(node.shape):
                found.append(node)

    file.visititems(add)
    return found


def _list_shapes(datasets: list[Any]) -> str:
    shapes = [f"'{each.name.strip('/')}' {each.shape}" for each in datasets[:20]]
    return ", ".join(shapes + ["..."] * (len(datasets) > 20)) or "none that may be an image"


def _follow(node: Any, name: str, links: int = 0) -> Any:
    """The dataset or group of a name, step by step; None if there is none.

    Raises:
        SegkitError: A link on the way leads to another file, or there are too many.
    """
    h5py = import_extra("h5py", "hdf5")
    for part in filter(None, name.split("/")):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.HardLink):
            node = node[part]
        elif isinstance(link, h5py.SoftLink) and links < MOST_LINKS:
            links += 1
            node = _follow(node.file if link.path.startswith("/") else node, link.path, links)
        elif isinstance(link, h5py.SoftLink):
            raise SegkitError(f"the links behind '{name}' do not end.")
        else:
            raise SegkitError(
                f"'{name}' is a link to another file, which is not followed: name that file."
            )
    return node


def _require_inside(dataset: Any) -> None:
    """Raise a SegkitError where the values of a dataset lie in other files."""
    if dataset.external or dataset.is_virtual:
        raise SegkitError(
            f"the values of '{dataset.name}' lie in other files, which are not opened: copy them"
            " into one file, for example with h5repack."
        )


def _require_filters(dataset: Any) -> None:
    """Raise a SegkitError where a dataset is packed with something that h5py cannot unpack."""
    h5py = import_extra("h5py", "hdf5")
    created = dataset.id.get_create_plist()
    for number in range(created.get_nfilters()):
        code, _, _, name = created.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            try:
                importlib.import_module("hdf5plugin")  # this makes its filters known
            except ImportError:
                title = name.decode(errors="replace").split(";")[0] or f"filter {code}"
                raise SegkitError(
                    f"'{dataset.name}' is packed with {title}, which h5py cannot unpack: pip"
                    " install hdf5plugin, or pack it again with gzip."
                ) from None


def _name_axes(dataset: Any) -> list[str] | None:
    """The names of a dataset's axes if two of them are y and x."""
    labels = [str(axis.label) for axis in dataset.dims]
    scales = [axis[0].name.rpartition("/")[2] if len(axis) else "" for axis in dataset.dims]
    for given in (labels, _read_axistags(dataset), scales):
        names = [_AXES.get(name.lower(), name.lower()) for name in given]
        if "y" in names and "x" in names:
            # the others only need to differ
            return [name or f"axis {number}" for number, name in enumerate(names)]
    return None


def _read_axistags(dataset: Any) -> list[str]:
    """The names of the axes as ilastik writes them."""
    text = dataset.attrs.get("axistags", "")
    try:
        return [str(axis["key"]) for axis in json.loads(text)["axes"]]
    except (ValueError, TypeError, LookupError):
        return []


def _read_place(dataset: Any) -> Place | None:
    """The size of a pixel, which an attribute of PlantSeg and Fiji gives as z, y, x."""
    given: Array = np.asarray(dataset.attrs.get("element_size_um", ()))
    if given.dtype.kind not in "iuf" or given.shape not in ((2,), (3,)):
        return None
    return measure_pixel((float(given[-2]), float(given[-1])), ("um", "um"))
