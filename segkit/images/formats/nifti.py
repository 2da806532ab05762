"""NIfTI and Analyze: volumes of medicine, whose slices are the pages.

The axes of a volume may be stored in any order and direction. Slices are cut and turned by the
affine, so that they look alike whatever the file's order: pages are axial slices from the feet
upwards, rows run from front to back, and columns from the patient's right to the left, as in a
viewer and in the DICOM of most scanners. ``FILE::coronal`` has slices from back to front with rows
from head to feet, ``FILE::sagittal`` from right to left with rows from head to feet and columns
from front to back. Oblique volumes are not resampled: their slices are the nearest ones.

The fourth axis counts times, each with all its slices as pages, or channels: channels if it is no
longer than 4 and its header states no time step (a fourth pixel dimension that is neither 0 nor 1),
as in the Medical Segmentation Decathlon. The fifth axis is channels.

Scaled values are float32, others stay as they are. The affine of an Analyze file that SPM puts into
a .mat is not read. `Nifti.write_maps` is the way back.
"""

from __future__ import annotations

import gzip
import math
import threading
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segkit.core.errors import SegkitError
from segkit.core.files import written_whole
from segkit.images.formats.base import ImageFormat, Pages, import_extra
from segkit.images.paths import split_array
from segkit.images.place import Place, Slice, measure_pixel, outline_slice
from segkit.images.raster import Array, Extent, Raster, require_numbers, require_room
from segkit.images.reading import wrap_errors

PLANES = {"axial": "LPS", "coronal": "LIA", "sagittal": "PIL"}
"""Where columns, rows and pages of each plane lead: to the left, right, front (anterior) ..."""
MOST_CHANNELS = 4
"""How long the fourth axis may be to count channels."""

_HEADER = 540
"""Bytes of the longest header."""
_GZIP = b"\x1f\x8b"
_EXPANSION = 1032
"""Deflate makes nothing smaller than by this factor."""
_PIECE = 2**24
_COLOURS = (("R", "G", "B"), ("R", "G", "B", "A"))
_LENGTHS = {"meter": "m", "mm": "mm", "micron": "um"}
_HEADERS = {
    (348, b"n+1\0"): ("nifti1", "Nifti1Header"),
    (348, b"ni1\0"): ("nifti1", "Nifti1PairHeader"),
    (540, b"n+2\0"): ("nifti2", "Nifti2Header"),
    (540, b"ni2\0"): ("nifti2", "Nifti2PairHeader"),
}
"""nibabel's module and class by the size and magic of a header; those of pairs have a .img."""
_ANALYZE = ("spm2analyze", "Spm2AnalyzeHeader")


class Nifti(ImageFormat, name="nifti"):
    """NIfTI-1 and NIfTI-2, packed or as a pair of files, and Analyze 7.5."""

    title = "NIfTI"
    maps_suffix = ".nii.gz"
    suffixes = (".nii", ".nii.gz", ".hdr")
    has_arrays = True

    @classmethod
    def owns(cls, path: Path, start: bytes) -> bool:
        """By the size of the header and its magic; Analyze has none, so its name counts too."""
        if start.startswith(_GZIP):
            try:
                start = zlib.decompressobj(wbits=31).decompress(start, _HEADER)
            except zlib.error:
                return False
        return _tell_header(path, start) is not None

    @classmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Open the slices in a plane.

        Raises:
            SegkitError: There is no such plane, or nibabel is not installed.
        """
        assert isinstance(file, Path)
        return NiftiPages(file, array)

    @classmethod
    def write_maps(cls, source: str | Path, pages: Sequence[Array], target: Path) -> None:
        """Write maps of all pages of a NIfTI into the voxels that they were read from.

        The volume has the source's affine, codes, units and shape without channels, and uint8,
        uint16, int32 or float32. The channels of maps follow as the fourth axis, after times as
        the fifth. It is written whole or not at all.

        Args:
            source: the file that was read, with the plane as it was read (``FILE::coronal``).
            pages: (H, W) or (C, H, W) for each page, in order.
            target: ends in .nii.gz or .nii.

        Raises:
            SegkitError: The maps do not fit, the source cannot be read, or the target not written.
        """
        nibabel = import_extra("nibabel", "medical")
        file, plane = split_array(source)
        with wrap_errors(source):
            header = _read_header(file)
            grid = _plan_grid(header, plane or "axial")
            affine = header.get_best_affine()
        if [page.shape[-2:] for page in pages] != [grid.size] * grid.slices:
            raise SegkitError(
                f"{target}: {len(pages)} pages do not fit into the volume of {source}, which has"
                f" {grid.slices} of {grid.size[0]} x {grid.size[1]}."
            )
        channels = pages[0].shape[:-2]
        shape = *grid.shape[:4], *(channels or (1,))
        volume = np.zeros(shape, choose_dtype(pages, target), order="F")
        for number, page in enumerate(pages):
            layers = page.reshape(-1, *grid.size)
            grid.turn(volume[grid.locate(number)])[:] = np.moveaxis(layers, 0, -1)
        is_second = isinstance(header, nibabel.Nifti2Header)
        kind = nibabel.Nifti2Header if is_second else nibabel.Nifti1Header
        like = kind.from_header(header, check=False).as_byteswapped("<")
        if not hasattr(header, "get_sform"):  # Analyze knows neither
            like.set_sform(affine, "aligned")
            like.set_xyzt_units("mm")
        like["cal_min"] = like["cal_max"] = 0  # intensities of the image
        like.set_intent("none")
        stored = (*grid.stored, 1, 1)[: max(3, len(grid.stored))] if channels else grid.stored
        write_nifti(volume.reshape((*stored, *channels), order="F"), affine, like, target)


class NiftiPages(Pages):
    """The slices of a volume, and of each of its times.

    Raises:
        ValueError: The file is damaged, truncated, or not an image.
    """

    def __init__(self, file: Path, plane: str | None) -> None:
        plane = plane or "axial"
        if plane not in PLANES:
            raise SegkitError(f"'{plane}' is no plane: choose {', '.join(PLANES)}.")
        header = _read_header(file)
        self.grid = _plan_grid(header, plane)
        self._volume = _Volume(file, header, self.grid.shape)
        self._scale = _read_scale(header)
        self._affine = header.get_best_affine()
        codes = import_extra("nibabel.orientations", "medical").aff2axcodes(self._affine)
        self.directions = "".join(code or "?" for code in codes)  # "?": an axis without a length
        self._place = _measure_page(header, self.grid) or Place()
        names = self._volume.dtype.names
        if names and (names not in _COLOURS or self.grid.channels > 1):
            raise ValueError(f"values of the type {self._volume.dtype} are not an image")
        if not names:
            require_numbers(self._volume.dtype)
        self._colours = len(names) if names else 0

    def __len__(self) -> int:
        return self.grid.slices

    def read(self, page: int) -> Raster:
        """One slice."""
        values = self._volume.load()[self.grid.locate(page)]
        if self._colours:
            flat = np.ascontiguousarray(values)
            channels = flat.view(np.uint8).reshape(*flat.shape[:3], self._colours)
            pixels = np.array(self.grid.turn(channels))
            has_alpha = self._colours == 4
            return Raster(pixels, is_rgb=True, alpha="straight" if has_alpha else "")
        pixels = np.array(self.grid.turn(values), self._volume.dtype.newbyteorder("="), order="C")
        if self._scale is None:
            return Raster(pixels)
        slope, shift = self._scale
        scaled = pixels.astype(np.float64) * slope + shift
        # The slope itself is rounded to 32 bits: labels must be whole again.
        whole = np.rint(scaled)
        scaled = np.where(np.abs(scaled - whole) <= 2.0**-22 * np.abs(scaled), whole, scaled)
        is_rounded = pixels.dtype.kind in "iu"
        return Raster(scaled.astype(np.float32), step=abs(slope) if is_rounded else 0)

    def read_extent(self, page: int) -> Extent:
        """The size of a slice."""
        return Extent(*self.grid.size, self._colours or self.grid.channels)

    def read_place(self, page: int) -> Place | None:
        """Where a slice lies, and the size of a pixel."""
        return replace(self._place, slice=self.grid.find_slice(self._affine, page))


class Grid(NamedTuple):
    """How the slices of a volume lie in its array (X, Y, Z, times, channels)."""

    shape: tuple[int, int, int, int, int]
    stored: tuple[int, ...]  # the shape in the file
    columns: int  # the axis of the array that they run along
    rows: int
    pages: int
    backwards: tuple[bool, bool, bool]  # whether X, Y and Z run against columns, rows or pages

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a slice."""
        return self.shape[self.rows], self.shape[self.columns]

    @property
    def slices(self) -> int:
        """The number of slices of all times."""
        return self.shape[self.pages] * self.shape[3]

    @property
    def channels(self) -> int:
        """The number of channels."""
        return self.shape[4]

    def locate(self, page: int) -> tuple[slice | int, ...]:
        """The index of a slice in the array; it keeps the axis of the slices, of length 1."""
        time, number = divmod(page, self.shape[self.pages])
        if self.backwards[self.pages]:
            number = self.shape[self.pages] - 1 - number
        index: list[slice | int] = [slice(None)] * 5
        index[self.pages], index[3] = slice(number, number + 1), time
        return tuple(index)

    def find_slice(self, affine: Array, page: int) -> Slice:
        """Where a slice of a volume with that affine lies."""
        number = page % self.shape[self.pages]
        first, steps = affine[:3, 3], []
        for axis in (self.columns, self.rows, self.pages):
            step = affine[:3, axis]
            if self.backwards[axis]:
                first, step = first + (self.shape[axis] - 1) * step, -step
            steps.append(step)
        across, down, up = steps
        return outline_slice(first + number * up, across, down)

    def turn(self, values: Array) -> Array:
        """A slice at its index, (.., .., .., C), as a view (H, W, C)."""
        flips = [slice(None, None, -1 if back else 1) for back in self.backwards]
        flips[self.pages] = slice(None)
        return values[tuple(flips)].transpose(self.rows, self.columns, self.pages, 3)[:, :, 0]


def write_nifti(volume: Array, affine: Array, header: Any, target: Path) -> None:
    """Write a volume with a header of nibabel, of the class of NIfTI-1 or NIfTI-2.

    Raises:
        SegkitError: The target ends in something else than .nii.gz or .nii, or cannot be written.
    """
    nibabel = import_extra("nibabel", "medical")
    if not target.name.lower().endswith((".nii", ".nii.gz")):
        raise SegkitError(f"{target}: volumes are written as .nii.gz or .nii.")
    is_second = isinstance(header, nibabel.Nifti2Header)
    kind = nibabel.Nifti2Image if is_second else nibabel.Nifti1Image
    header.set_data_dtype(volume.dtype)
    image = kind(volume, affine, header)
    with written_whole(target) as file:
        if target.name.lower().endswith(".gz"):
            # neither name nor time, so that the same labels give the same bytes
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)


def choose_dtype(pages: Sequence[Array], target: Path) -> np.dtype[Any]:
    """The smallest of uint8, uint16 and int32 that holds labels; float32 for fractions.

    Raises:
        SegkitError: None holds them.
    """
    if any(page.dtype.kind == "f" for page in pages):
        return np.dtype(np.float32)
    low, high = min(int(page.min()) for page in pages), max(int(page.max()) for page in pages)
    for kind in (np.uint8, np.uint16, np.int32):
        if low >= 0 and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    raise SegkitError(f"{target}: labels from {low} to {high} do not fit into 0 to 2^31 - 1.")


def _tell_header(path: Path, start: bytes) -> tuple[str, str] | None:
    """The class of nibabel for a header that starts with these bytes; None if it is none."""
    for size in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")):
        found = _HEADERS.get((size, start[4:8] if size == 540 else start[344:348]))
        if found is None and size == 348 == len(start[:348]) and path.suffix.lower() == ".hdr":
            return _ANALYZE
        if found:
            return found
    return None


def _read_header(path: Path) -> Any:
    """The header of a file, of nibabel's class."""
    import_extra("nibabel", "medical")
    with path.open("rb") as file:
        is_packed = file.read(2) == _GZIP
    with gzip.open(path) if is_packed else path.open("rb") as opened:
        start = opened.read(_HEADER)
    found = _tell_header(path, start)
    if found is None:
        raise ValueError("its header is cut short")
    module, name = found
    kind = getattr(import_extra(f"nibabel.{module}", "medical"), name)
    return kind(start[: kind.template_dtype.itemsize])


def _find_partner(path: Path) -> Path:
    """The file with the pixels of a header."""
    stem = path.name[: path.name.lower().rindex(".hdr")]
    for ending in (".img", ".IMG", ".img.gz"):
        if path.with_name(stem + ending).is_file():
            return path.with_name(stem + ending)
    raise SegkitError(f"its pixels are missing: put {stem}.img beside it.")


def _plan_grid(header: Any, plane: str) -> Grid:
    """How slices in a plane lie in the volume of a header."""
    orientations = import_extra("nibabel.orientations", "medical")
    shape = tuple(int(side) for side in header.get_data_shape())
    if not shape or min(shape) < 1:
        raise ValueError(f"it is empty: its shape is {shape}")
    x, y, z, fourth, fifth, *more = (*shape, 1, 1, 1, 1, 1)
    if len(shape) > 5 and math.prod(more) > 1:
        raise ValueError(f"a volume of the shape {shape} is not an image")
    steps = [float(step) for step in header.get_zooms()]
    has_times = len(steps) > 3 and steps[3] not in (0.0, 1.0)
    stored = shape
    if fifth > 1:
        stored = shape[:4]
    elif 1 < fourth <= MOST_CHANNELS and not has_times:
        stored, fourth, fifth = shape[:3], 1, fourth
    affine = header.get_best_affine()
    if not np.isfinite(affine).all():
        raise ValueError("its affine has values that are not finite: mend its header")
    order = orientations.io_orientation(affine)
    lost = np.isnan(order[:, 0])  # axes without a length, as in single slices
    order[lost, 0] = sorted({0, 1, 2} - set(order[~lost, 0].astype(int)))
    order[lost, 1] = 1
    wanted = orientations.axcodes2ornt(PLANES[plane])
    turned = orientations.ornt_transform(order, wanted)
    leads = [int(axis) for axis in turned[:, 0]]
    backwards = [bool(sign < 0) for sign in turned[:, 1]]
    return Grid(
        (x, y, z, fourth, fifth),
        stored,
        leads.index(0),
        leads.index(1),
        leads.index(2),
        (backwards[0], backwards[1], backwards[2]),
    )


def _read_scale(header: Any) -> tuple[float, float] | None:
    """Slope and intercept of stored values; None if these are the values themselves."""
    slope, shift = header.get_slope_inter()
    if slope is None or (slope, shift or 0) == (1, 0):
        return None
    return float(slope), float(shift or 0)


def _measure_page(header: Any, grid: Grid) -> Place | None:
    """The size of a pixel, in the header's unit; millimetres if it names none, as is usual."""
    affine = header.get_best_affine()
    unit = header.get_xyzt_units()[0] if hasattr(header, "get_xyzt_units") else "mm"
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)).tolist()
    name = _LENGTHS.get(unit, "mm")
    return measure_pixel((sizes[grid.rows], sizes[grid.columns]), (name, name))


class _Volume:
    """The values in a file: mapped if they are not packed, else unpacked when first needed."""

    def __init__(self, file: Path, header: Any, shape: tuple[int, ...]) -> None:
        self.dtype: np.dtype[Any] = header.get_data_dtype()
        self._shape, self._start = shape, int(header.get_data_offset())
        self._file = file if getattr(header, "is_single", False) else _find_partner(file)
        with self._file.open("rb") as opened:
            self._is_packed = opened.read(2) == _GZIP
        self._bytes = math.prod(shape) * self.dtype.itemsize
        most = self._file.stat().st_size * (_EXPANSION if self._is_packed else 1)
        if self._start < 0 or self._start + self._bytes > most:
            raise ValueError(f"it is cut short: it should hold {shape} {self.dtype}")
        self._lock = threading.Lock()
        self._values: Array | None = None

    def load(self) -> Array:
        """The values (X, Y, Z, times, channels), as stored."""
        with self._lock:  # or two threads would unpack them twice
            if self._values is None:
                self._values = self._unpack() if self._is_packed else self._map()
            return self._values

    def _map(self) -> Array:
        return np.memmap(self._file, self.dtype, "r", self._start, self._shape, "F")

    def _unpack(self) -> Array:
        require_room(self._shape)
        data = np.empty(self._bytes, np.uint8)
        with gzip.open(self._file) as opened:
            opened.seek(self._start)
            for at in range(0, self._bytes, _PIECE):
                piece = data[at : at + _PIECE]
                if opened.readinto(piece.data) < len(piece):
                    raise ValueError("it is cut short")
            opened.read(1)  # so that the checksum at the end is compared
        return data.view(self.dtype).reshape(self._shape, order="F")
