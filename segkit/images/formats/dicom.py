"""DICOM: a file with one or several frames, or a folder that holds the files of one series.

The slices of a series are the pages, sorted by their position along the normal of the image plane,
else by their instance number. They are shown as stored, which for axial series is as
`segkit.images.formats.nifti` shows them.

Values are rescaled (Hounsfield units of CT); windows for display are not applied. Pixels with the
padding value have no data. Masks are NIfTI files in the place of the series.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.core.errors import SegkitError
from segkit.images.dicom_pixels import read_colours, read_frame
from segkit.images.dicom_slices import find_affine, list_slices, load_dataset
from segkit.images.formats.base import START, ImageFormat, Pages, import_extra
from segkit.images.formats.nifti import choose_dtype, write_nifti
from segkit.images.formats.tiff import Tiff
from segkit.images.paths import split_array
from segkit.images.place import Place
from segkit.images.raster import Array, Extent, Raster
from segkit.images.reading import explain_error, wrap_errors

_MAGIC, _AT = b"DICM", 128
_OLD_STARTS = (b"\x08\0", b"\x02\0", b"\0\x08")
"""Starts of old files without the magic: the first group of attributes, in both byte orders."""
_DIRECTORY = b"1.2.840.10008.1.3.10"
"""The kind of a DICOMDIR, which lists files."""


class Dicom(ImageFormat, name="dicom"):
    """DICOM images, single, multi-frame and enhanced, with all usual compressions."""

    title = "DICOM"
    maps_suffix = ".nii.gz"
    suffixes = (".dcm", ".dicom")

    @classmethod
    def owns(cls, path: Path, start: bytes) -> bool:
        """By the magic, which stands behind 128 bytes of something else.

        These may be the start of a TIFF: of a slide that is both, but scanners write it into other
        files too, so the ending decides.
        """
        suffix = path.suffix.lower()
        is_dicom = start[_AT : _AT + len(_MAGIC)] == _MAGIC and suffix not in Tiff.suffixes
        is_dicom |= start.startswith(_OLD_STARTS) and suffix in cls.suffixes
        return is_dicom and path.name.upper() != "DICOMDIR" and _DIRECTORY not in start

    @classmethod
    def owns_folder(cls, path: Path) -> bool:
        """Whether it holds visible DICOM files and nothing else that is visible."""
        found = False
        try:
            for each in path.iterdir():
                if each.name.startswith(".") or each.name.upper() == "DICOMDIR":
                    continue
                if not each.is_file():
                    return False
                with each.open("rb") as file:
                    if not cls.owns(each, file.read(START)):
                        return False
                found = True
        except OSError:  # every folder is asked, also one that holds files of others
            return False
        return found

    @classmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Open the slices.

        Raises:
            SegkitError: They are of several series, or hold no pixels, or pydicom is not installed.
        """
        assert isinstance(file, Path)
        return DicomPages(file)

    @classmethod
    def write_maps(cls, source: str | Path, pages: Sequence[Array], target: Path) -> None:
        """Write maps of all slices of a series to a NIfTI that lies where the series lies.

        The volume is (columns, rows, slices) or (columns, rows, slices, channels) of uint8,
        uint16, int32 or float32, in millimetres, and its affine is that of the series in NIfTI's
        coordinates, which count to the right and the front. It is written whole or not at all.

        Args:
            source: the file or folder that was read.
            pages: (H, W) or (C, H, W) for each page, in order.
            target: ends in .nii.gz or .nii.

        Raises:
            SegkitError: The maps do not fit; the slices do not form a volume; the source cannot be
                read, or the target not written.
        """
        nibabel = import_extra("nibabel", "medical")
        with wrap_errors(source):
            slices = list_slices(split_array(source)[0])
            affine = find_affine(slices)
        sizes = [each.size for each in slices]
        if [page.shape[-2:] for page in pages] != sizes:
            raise SegkitError(
                f"{target}: {len(pages)} pages do not fit into the series {source}, which has"
                f" {len(slices)} of {sizes[0][0]} x {sizes[0][1]}."
            )
        shape = *sizes[0][::-1], len(slices), *pages[0].shape[:-2]
        volume = np.zeros(shape, choose_dtype(pages, target), order="F")
        for number, page in enumerate(pages):
            volume[:, :, number] = page.T if page.ndim == 2 else page.transpose(2, 1, 0)
        header = nibabel.Nifti1Header()
        header.set_xyzt_units("mm")
        header.set_data_shape(volume.shape)
        header.set_sform(affine, "scanner")
        unit = affine[:3, :3] / np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        if np.allclose(unit.T @ unit, np.eye(3), atol=1e-4):  # a tilted gantry fits only the other
            header.set_qform(affine, "scanner")
        write_nifti(volume, affine, header, target)


class DicomPages(Pages):
    """The slices of a series, or the frames of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.slices = list_slices(path)
        self._is_scaled = any(each.scale != (1, 0) for each in self.slices)
        self._lock = threading.Lock()
        self._open: tuple[Path, Any] | None = None  # the file read last

    def __len__(self) -> int:
        return len(self.slices)

    def read(self, page: int) -> Raster:
        """One slice."""
        each = self.slices[page]
        try:
            return read_frame(self._load(each.file), each, self._is_scaled)
        except Exception as error:
            if self.path == each.file or isinstance(error, MemoryError):
                raise
            if isinstance(error, SegkitError):
                raise SegkitError(f"{each.file.name}: {error}") from error
            raise ValueError(f"{each.file.name}: {explain_error(error)}") from error

    def read_extent(self, page: int) -> Extent:
        """The size of a slice."""
        header = self.slices[page].header
        channels = 3 if read_colours(header) == "PALETTE COLOR" else header.SamplesPerPixel
        return Extent(int(header.Rows), int(header.Columns), int(channels))

    def read_place(self, page: int) -> Place | None:
        """Where a slice lies, and the size of a pixel."""
        return self.slices[page].find_place()

    def _load(self, file: Path) -> Any:
        with self._lock:
            if self._open is None or self._open[0] != file:
                self._open = file, load_dataset(file)
            return self._open[1]
