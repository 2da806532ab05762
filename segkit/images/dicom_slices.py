"""The slices of DICOM files by their headers: their order, and where they lie."""

from __future__ import annotations

import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segkit.core.errors import SegkitError
from segkit.images.formats.base import START, import_extra
from segkit.images.place import Place, measure_pixel, outline_slice
from segkit.images.raster import Array, require_room
from segkit.images.reading import explain_error

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""The kinds of files of segments: with frames for each, and with a map of labels."""
_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""The kind of files of microscopes, whose frames may be tiles."""
_HEADER = [
    "SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID",
    "SeriesDescription", "SeriesNumber", "Modality",
    "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated",
    "BitsStored", "PixelRepresentation", "PhotometricInterpretation", "PixelSpacing",
    "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient",
    "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
"""The attributes that are read before the pixels."""
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PIECE = 2**20
_TO_RAS = np.array([-1.0, -1.0, 1.0])
"""From millimetres to the left and the back to those to the right and the front."""

Vector = tuple[float, ...]


class Slice(NamedTuple):
    """A frame of a file, with what its header says about it."""

    file: Path
    frame: int
    header: Any  # pydicom's Dataset, without pixels
    number: int  # in the series
    scale: tuple[float, float]  # slope and intercept
    spacing: Vector | None  # between rows and between columns, in millimetres
    position: Vector | None  # of the first pixel's centre: to the left, to the back, upwards
    orientation: Vector | None  # directions of the columns and of the rows, of length 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.header.Rows), int(self.header.Columns)

    def find_place(self) -> Place | None:
        """Where it lies, and the size of a pixel."""
        if self.spacing is None:
            return None
        place = measure_pixel((self.spacing[0], self.spacing[1]), ("mm", "mm"))
        if place is None or self.position is None or self.orientation is None:
            return place
        height, width = self.spacing
        across, down = np.array(self.orientation).reshape(2, 3) * [[width], [height]] * _TO_RAS
        return replace(place, slice=outline_slice(np.array(self.position) * _TO_RAS, across, down))


def list_slices(path: Path) -> list[Slice]:
    """The slices of a file or folder in order.

    Raises:
        SegkitError: There are several series, or no pixels.
    """
    files = [path]
    if path.is_dir():
        visible = [each for each in path.iterdir() if not each.name.startswith(".")]
        files = sorted(each for each in visible if each.name.upper() != "DICOMDIR")
    with quiet():
        headers = [(file, _read_header(file)) for file in files]
        plain = [each for each in headers if each[1].get("SOPClassUID") not in SEGMENTATIONS]
        if headers and not plain:
            raise SegkitError(
                f"{files[0].name} is a DICOM segmentation: data.labels=dicom_seg reads it for the"
                " series that it was drawn on, if data.root holds both; else convert it to NIfTI."
            )
        headers = plain  # segments beside the series are no slices
        images = [(file, header) for file, header in headers if header.get("Rows")]
        if not images:
            kind = getattr(headers[0][1].get("SOPClassUID"), "name", "")
            raise SegkitError(f"it holds no pixels: its kind is {kind or 'not told'}.")
        series = Counter(str(header.get("SeriesInstanceUID")) for _, header in images)
        if len(series) > 1:
            raise _refuse_series(path, [header for _, header in images], series)
        found = [each for file, header in images for each in list_frames(file, header)]
    if _are_parallel(found) and all(each.position for each in found):
        directions = np.array(found[0].orientation or (1, 0, 0, 0, 1, 0)).reshape(2, 3)
        normal = np.cross(*directions)

        def order(each: Slice) -> tuple[float, ...]:
            assert each.position
            return round(float(normal @ each.position), 3), each.number, each.frame

        return sorted(found, key=order)
    return sorted(found, key=lambda each: (each.number, each.frame))


def _refuse_series(path: Path, headers: list[Any], series: Counter[str]) -> SegkitError:
    titles = {
        str(header.get("SeriesInstanceUID")): str(header.get("SeriesDescription") or "no name")
        for header in headers
    }
    listed = [f"'{titles[uid]}' ({count} files)" for uid, count in series.most_common(10)]
    more = ", ..." if len(series) > 10 else ""
    return SegkitError(
        f"it holds {len(series)} series: {', '.join(listed)}{more}. Put each series into a folder"
        f" of its own, or name single files, as in {path}/*.dcm."
    )


def _require_room(file: Path) -> None:
    """Check how much a deflated file unpacks to, which pydicom does at once."""
    with file.open("rb") as opened:
        start = opened.read(START)
        if _DEFLATED not in start:
            return
        opened.seek(144 + int.from_bytes(start[140:144], "little"))  # behind the meta information
        unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while piece := unpacker.unconsumed_tail or opened.read(_PIECE):
            size += len(unpacker.decompress(piece, _PIECE))
            require_room((1, 1, size))


def _read_header(file: Path) -> Any:
    pydicom = import_extra("pydicom", "medical")
    _require_room(file)
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_HEADER)
    except Exception as error:
        raise ValueError(f"{file.name}: {explain_error(error)}") from error
    if header.get("SOPClassUID") == _SLIDE and int(header.get("NumberOfFrames") or 1) > 1:
        raise SegkitError(
            f"{file.name} is a DICOM slide, whose frames are tiles: convert it to TIFF, for example"
            " with bfconvert."
        )
    return header


def list_frames(file: Path, header: Any) -> Iterator[Slice]:
    """The frames of a file, in its order.

    Raises:
        ValueError: It is too short for the number of frames in its header.
    """
    count = int(header.get("NumberOfFrames") or 1)
    if not 0 < count <= file.stat().st_size:  # a frame takes a byte at least
        raise ValueError(f"{file.name}: it is cut short: it should hold {count} frames")
    shared = _first(header.get("SharedFunctionalGroupsSequence"))
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    for frame in range(count):
        groups = [own[frame] if frame < len(own) else None, shared]
        scale = _find_group(groups, "PixelValueTransformationSequence") or header
        measures = _find_group(groups, "PixelMeasuresSequence") or header
        position = _find_group(groups, "PlanePositionSequence") or header
        orientation = _find_group(groups, "PlaneOrientationSequence") or header
        spacing = measures.get("PixelSpacing") or header.get("ImagerPixelSpacing")
        yield Slice(
            file,
            frame,
            header,
            int(header.get("InstanceNumber") or 0),
            (
                _to_float(scale.get("RescaleSlope"), 1.0),
                _to_float(scale.get("RescaleIntercept"), 0.0),
            ),
            _to_vector(spacing, 2),
            _to_vector(position.get("ImagePositionPatient"), 3),
            _to_vector(orientation.get("ImageOrientationPatient"), 6),
        )


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None


def _find_group(groups: list[Any], name: str) -> Any:
    """The item of a group of attributes that belongs to a frame, or to all frames."""
    return next((_first(group.get(name)) for group in groups if group and group.get(name)), None)


def _to_float(value: Any, default: float) -> float:
    return default if value is None or value == "" else float(value)


def _to_vector(values: Any, length: int) -> Vector | None:
    """Numbers of an attribute; None where they are missing or not finite."""
    if values is None or isinstance(values, str) or len(values) != length:
        return None
    found = tuple(float(value) for value in values)
    return found if np.isfinite(found).all() else None


def _are_parallel(slices: Sequence[Slice]) -> bool:
    """Whether all slices have the same directions of rows and columns, if any."""
    given = [each.orientation for each in slices]
    if None in given:
        return given.count(None) == len(given)
    return bool(np.allclose(np.array(given), np.array(given[0]), atol=1e-3))


def find_affine(slices: Sequence[Slice]) -> Array:
    """The affine (4, 4) from column, row and slice to millimetres to the right, front and top.

    Raises:
        SegkitError: The slices differ in size or direction, or are not evenly spaced.
    """
    first = slices[0]
    sizes = {(each.header.Rows, each.header.Columns, each.spacing) for each in slices}
    if len(sizes) > 1 or not _are_parallel(slices):
        raise SegkitError("its slices differ in size or direction, so they are not a volume.")
    height, width = first.spacing or (1.0, 1.0)
    directions = np.array(first.orientation or (1, 0, 0, 0, 1, 0), np.float64).reshape(2, 3)
    thickness = first.header.get("SpacingBetweenSlices") or first.header.get("SliceThickness") or 1
    step = np.cross(*directions) * abs(float(thickness))
    start = np.array(first.position or (0, 0, 0), np.float64)
    positions = np.array([each.position for each in slices if each.position is not None])
    if 1 < len(slices) == len(positions):
        step = (positions[-1] - positions[0]) / (len(slices) - 1)
        even = positions[0] + np.arange(len(slices))[:, None] * step
        length = np.sqrt((step**2).sum())
        off = np.sqrt(((positions - even) ** 2).sum(axis=1)).max()
        if length < 1e-3 or off > 0.05 * length:
            raise SegkitError(
                "its slices are not evenly spaced, so they are not a volume: some are missing, or"
                " several are at the same place."
            )
    affine = np.eye(4)
    affine[:3] = np.stack([directions[0] * width, directions[1] * height, step, start], axis=1)
    affine[:2] *= -1  # from left and back to right and front
    return affine


def load_dataset(file: Path) -> Any:
    """The whole of a file, with a transfer syntax, as pydicom's Dataset."""
    pydicom = import_extra("pydicom", "medical")
    with quiet():
        dataset = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = _guess_syntax(dataset)
    return dataset


def _guess_syntax(dataset: Any) -> Any:
    """The transfer syntax of a file that does not name it, which is not packed."""
    uid = import_extra("pydicom.uid", "medical")
    is_implicit, is_little_endian = dataset.original_encoding
    if not is_little_endian:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if is_implicit else uid.ExplicitVRLittleEndian


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings of pydicom about what files do not do by the book."""
    with _quiet_lock, warnings.catch_warnings():  # which is not made for threads
        warnings.simplefilter("ignore")
        yield


_quiet_lock = threading.RLock()
