"""DICOM: a file with one or several frames, or a folder that holds the files of one series.

The slices of a series are the pages, sorted by their position along the normal of the image plane,
else by their instance number. They are shown as stored, which for axial series is as
`segkit.images.formats.nifti` shows them.

Values are rescaled (Hounsfield units of CT); windows for display are not applied. Pixels with the
padding value have no data. Masks are `write_volume_like`'s NIfTI files, in the series' place.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np

from segkit.core.errors import SegkitError
from segkit.images.formats.base import START, ImageFormat, Pages, import_extra, split_array
from segkit.images.formats.nifti import choose_dtype, write_nifti
from segkit.images.formats.tiff import Tiff
from segkit.images.place import Place, measure_pixel, outline_slice
from segkit.images.raster import Array, Extent, Raster
from segkit.images.reading import wrap_errors

_MAGIC, _AT = b"DICM", 128
_OLD_STARTS = (b"\x08\0", b"\x02\0", b"\0\x08")
"""Starts of old files without the magic: the first group of attributes, in both byte orders."""
_DIRECTORY = b"1.2.840.10008.1.3.10"
"""The kind of a DICOMDIR, which lists files."""
_END = b"\xff\xd9"
"""Last bytes of every kind of JPEG."""
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""The kinds of files of segments: with frames for each, and with a map of labels."""
_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_JPEG = "1.2.840.10008.1.2.4."
_BIG_ENDIAN, _RLE = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
_PLAIN_SYNTAXES = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    _BIG_ENDIAN,
    _RLE,
)
"""Transfer syntaxes that pydicom decodes by itself: not packed, deflated, RLE."""
_LOSSY = tuple(_JPEG + end for end in ("50", "51", "81", "91", "203"))
_OWN_COLOURS = (".50", ".51")
"""Ends of transfer syntaxes whose decoders give RGB whatever is stored."""
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_HEADER = [
    "SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID",
    "SeriesDescription", "SeriesNumber", "Modality",
    "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated",
    "BitsStored", "PixelRepresentation", "PhotometricInterpretation", "PixelSpacing",
    "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient",
    "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip

_TO_RAS = np.array([-1.0, -1.0, 1.0])
"""From millimetres to the left and the back to those to the right and the front."""

Vector = tuple[float, ...]


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
    def write_maps(cls, source: str | Path, pages: Sequence[Array], target: Path) -> None:
        """Write a NIfTI in the same place."""
        write_volume_like(source, pages, target)

    @classmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Open the slices.

        Raises:
            SegkitError: They are of several series, or hold no pixels, or pydicom is not installed.
        """
        assert isinstance(file, Path)
        return DicomPages(file)


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
            return self._read_slice(each)
        except Exception as error:
            if self.path == each.file or isinstance(error, MemoryError):
                raise
            kind = SegkitError if isinstance(error, SegkitError) else ValueError
            raise kind(f"{each.file.name}: {error or type(error).__name__}") from error

    def read_extent(self, page: int) -> Extent:
        """The size of a slice."""
        header = self.slices[page].header
        channels = 3 if _read_colours(header) == "PALETTE COLOR" else header.SamplesPerPixel
        return Extent(int(header.Rows), int(header.Columns), int(channels))

    def read_place(self, page: int) -> Place | None:
        """Where a slice lies, and the size of a pixel."""
        return self.slices[page].find_place()

    def _read_slice(self, each: Slice) -> Raster:
        dataset = self._load(each.file)
        colours = _read_colours(each.header)
        stored = decode_frame(dataset, each)
        syntax = dataset.file_meta.TransferSyntaxUID
        raster = Raster(stored.reshape(*stored.shape[:2], -1), is_lossy=syntax in _LOSSY)
        if colours == "PALETTE COLOR":
            return raster._replace(palette=_read_palette(dataset, stored.dtype))
        if colours in _COLOURS:
            return raster._replace(is_rgb=True)
        missing = _find_padding(stored, each.header)
        raster = raster._replace(missing=missing)
        is_plain = not self._is_scaled and "ModalityLUTSequence" not in dataset
        if colours == "MONOCHROME1":
            if is_plain and stored.dtype.kind == "u":
                return raster._replace(white_is_zero=True, bits=int(each.header.BitsStored))
            stored = _invert(stored, each.header)
        if "ModalityLUTSequence" in dataset:
            with quiet():
                pixels = import_extra("pydicom.pixels", "medical")
                stored = pixels.apply_modality_lut(stored, dataset)
        elif self._is_scaled:
            stored = _rescale(stored, *each.scale)
        return raster._replace(values=stored[..., None])

    def _load(self, file: Path) -> Any:
        with self._lock:
            if self._open is None or self._open[0] != file:
                self._open = file, load_dataset(file)
            return self._open[1]


def load_dataset(file: Path) -> Any:
    """The whole of a file, with a transfer syntax, as pydicom's Dataset."""
    pydicom = import_extra("pydicom", "medical")
    with quiet():
        dataset = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = _guess_syntax(dataset)
    return dataset


def write_volume_like(source: str | Path, pages: Sequence[Array], target: Path) -> None:
    """Write maps of all slices of a series to a NIfTI that lies where the series lies.

    The volume is (columns, rows, slices) or (columns, rows, slices, channels) of uint8, uint16,
    int32 or float32, in millimetres, and its affine is that of the series in NIfTI's coordinates,
    which count to the right and the front. It is written whole or not at all.

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
        volume[:, :, number] = np.moveaxis(page, 0, -1).swapaxes(0, 1) if page.ndim == 3 else page.T
    header = nibabel.Nifti1Header()
    header.set_xyzt_units("mm")
    header.set_data_shape(volume.shape)
    header.set_sform(affine, "scanner")
    unit = affine[:3, :3] / np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if np.allclose(unit.T @ unit, np.eye(3), atol=1e-4):  # a tilted gantry fits only the other
        header.set_qform(affine, "scanner")
    write_nifti(volume, affine, header, target)


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


def _read_header(file: Path) -> Any:
    pydicom = import_extra("pydicom", "medical")
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_HEADER)
    except Exception as error:
        raise ValueError(f"{file.name}: {error or type(error).__name__}") from error
    if header.get("SOPClassUID") == _SLIDE and int(header.get("NumberOfFrames") or 1) > 1:
        raise SegkitError(
            f"{file.name} is a DICOM slide, whose frames are tiles: convert it to TIFF, such as"
            " with bfconvert."
        )
    return header


def list_frames(file: Path, header: Any) -> Iterator[Slice]:
    """The frames of a file, in its order."""
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


def _read_colours(header: Any) -> str:
    """The kind of colours, after checking that it is a known one.

    Raises:
        SegkitError: It is not.
    """
    kind = str(header.get("PhotometricInterpretation", "")).strip()
    if kind not in (*_GREY, *_COLOURS, "PALETTE COLOR"):
        raise SegkitError(f"its colours are {kind or 'not named'}, which is not converted.")
    return kind


def decode_frame(dataset: Any, each: Slice) -> Array:
    """A frame as stored, (H, W) or (H, W, 3) RGB, in the type that its header declares.

    Raises:
        SegkitError: It is packed in a way that nothing here unpacks.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    pixels = import_extra("pydicom.pixels", "medical")
    if syntax in _PLAIN_SYNTAXES:
        if dataset.BitsAllocated == 1 and syntax not in (_RLE, _BIG_ENDIAN):
            return _unpack_bits(dataset, each)
        with quiet():
            found: Array = pixels.pixel_array(dataset, index=each.frame)
        return found.astype(found.dtype.newbyteorder("="), copy=False)
    colours = _read_colours(dataset)
    decode = _find_decoder(str(syntax), colours)
    if decode is None:
        raise SegkitError(
            f"its pixels are packed as {syntax.name}, which is not read: convert it, such as with"
            " dcmdjpeg or gdcmconv --raw."
        )
    encaps = import_extra("pydicom.encaps", "medical")
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    count = int(dataset.get("NumberOfFrames") or 1)
    data = encaps.get_frame(
        dataset.PixelData, each.frame, number_of_frames=count, extended_offsets=offsets
    )
    if not data.rstrip(b"\0\xff").endswith(_END):  # codecs would fill the rest, or take minutes
        raise ValueError("its pixels are cut short")
    values = np.asarray(decode(data))
    wanted = (int(dataset.Rows), int(dataset.Columns))
    samples = int(dataset.SamplesPerPixel)
    if values.shape != (wanted if samples == 1 else (*wanted, samples)):
        raise ValueError(f"its pixels are {values.shape}, and not {wanted} as its header says")
    with quiet():
        if colours in ("YBR_FULL", "YBR_FULL_422") and not str(syntax).endswith(_OWN_COLOURS):
            values = pixels.convert_color_space(values, "YBR_FULL", "RGB")
        dtype = pixels.utils.pixel_dtype(dataset).newbyteorder("=")
    if dtype.kind == "i":  # codecs know no sign, and give the bits
        unused = 8 * dtype.itemsize - int(dataset.BitsStored)
        return (values.astype(dtype) << unused) >> unused
    return values.astype(dtype, copy=False)


def _unpack_bits(dataset: Any, each: Slice) -> Array:
    """A frame of bits, which may begin amid a byte; pydicom only reads all frames of these."""
    height, width = each.size
    first, skip = divmod(each.frame * height * width, 8)
    data = np.frombuffer(dataset.PixelData, np.uint8)[first:][: (skip + height * width + 7) // 8]
    bits = np.unpackbits(data, bitorder="little")[skip:][: height * width]
    if bits.size < height * width:
        raise ValueError("its pixels are cut short")
    return bits.reshape(height, width)


def _guess_syntax(dataset: Any) -> Any:
    """The transfer syntax of a file that does not name it, which is not packed."""
    uid = import_extra("pydicom.uid", "medical")
    is_implicit, is_little_endian = dataset.original_encoding
    if not is_little_endian:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if is_implicit else uid.ExplicitVRLittleEndian


def _find_decoder(syntax: str, colours: str) -> Callable[[bytes], Array] | None:
    """What decodes frames of a transfer syntax; None if nothing does."""
    if not syntax.startswith(_JPEG):
        return None
    end = syntax.removeprefix(_JPEG)
    if end in ("50", "51"):
        return partial(_decode_jpeg, colours)
    decoders: dict[str, Callable[..., Any]] = {
        **dict.fromkeys(("57", "70"), imagecodecs.jpegsof3_decode),
        **dict.fromkeys(("80", "81"), imagecodecs.jpegls_decode),
        **dict.fromkeys(("90", "91", "201", "202", "203"), imagecodecs.jpeg2k_decode),
    }
    return decoders.get(end)


def _decode_jpeg(colours: str, data: bytes) -> Array:
    """A JPEG as grey or RGB. One that does not name its colours has those of the header."""
    start = data[:1024]
    if colours in _GREY:
        return np.asarray(imagecodecs.jpeg8_decode(data))
    if b"JFIF\0" in start or b"\xff\xee\0\x0eAdobe" in start:  # whole ones, as decoders ask
        return np.asarray(imagecodecs.jpeg8_decode(data, outcolorspace="RGB"))
    stored = "RGB" if colours == "RGB" else "YCBCR"
    return np.asarray(imagecodecs.jpeg8_decode(data, colorspace=stored, outcolorspace="RGB"))


def _read_palette(dataset: Any, dtype: np.dtype[Any]) -> Array:
    """The colours of all indices, (K, 3) uint8."""
    pixels = import_extra("pydicom.pixels", "medical")
    indices = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)[None]
    with quiet():
        colours: Array = pixels.apply_color_lut(indices, dataset)[0]
    return (colours >> 8 if colours.dtype == np.uint16 else colours).astype(np.uint8)


def _find_padding(stored: Array, header: Any) -> Array | None:
    """Where a grey image has the padding value, or a value of that range; None if nowhere."""
    if header.get("PixelPaddingValue") is None or stored.dtype.kind not in "iu":
        return None
    ends = [header.PixelPaddingValue, header.get("PixelPaddingRangeLimit")]
    # Files with signed pixels may give it without a sign.
    bits = 2 ** (8 * stored.dtype.itemsize)
    low = np.iinfo(stored.dtype).min
    values = [(int(end) - low) % bits + low for end in ends if end is not None]
    missing: Array = (stored >= min(values)) & (stored <= max(values))
    return missing if missing.any() else None


def _invert(stored: Array, header: Any) -> Array:
    """Invert values stored with white as the lowest, as viewers do."""
    if stored.dtype.kind == "f":
        return -stored
    bits = int(header.BitsStored)
    total = -1 if stored.dtype.kind == "i" else 2**bits - 1  # of the lowest and the highest
    return (total - stored.astype(np.int64)).astype(stored.dtype)


def _rescale(stored: Array, slope: float, intercept: float) -> Array:
    """Values in the unit of the image: whole numbers stay exact."""
    if slope == 1 and intercept.is_integer() and stored.dtype.kind in "iu":
        return (stored.astype(np.int64) + int(intercept)).astype(np.int32)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings of pydicom about what files do not do by the book."""
    with _quiet_lock, warnings.catch_warnings():  # which is not made for threads
        warnings.simplefilter("ignore")
        yield


_quiet_lock = threading.RLock()
