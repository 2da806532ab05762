"""DICOM of every kind, written by pydicom, against what pydicom or nibabel reads."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from images.conftest import noise, same

from segkit.core.errors import SegkitError
from segkit.images.formats.base import find_format, is_image
from segkit.images.formats.dicom import write_volume_like
from segkit.images.reading import ImageReader, count_pages, read_extent, read_image, read_mask

pydicom = pytest.importorskip("pydicom", reason="the extra medical is not installed")

H, W = 16, 12
CT = "1.2.840.10008.5.1.4.1.1.2"
LITTLE = pydicom.uid.ExplicitVRLittleEndian


def make(pixels: np.ndarray, **attributes):
    """A data set of one frame (H, W), several (N, H, W) or of a colour image (H, W, 3)."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = attributes.get("SOPClassUID", CT)
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.file_meta.TransferSyntaxUID = LITTLE
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, "1.2.3"
    dataset.SeriesInstanceUID, dataset.SeriesDescription = "1.2.3.4", "chest"
    is_colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.ndim == 3 and not is_colour:
        dataset.NumberOfFrames = len(pixels)
        dataset.Rows, dataset.Columns = pixels.shape[1:]
    else:
        dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if is_colour else 1
    dataset.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for key, value in attributes.items():
        setattr(dataset, key, value)
    dataset.HighBit = dataset.BitsStored - 1
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    return dataset


def save(path: Path, dataset) -> None:
    path.parent.mkdir(exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def pack(dataset, syntax: str, frames: list[bytes]) -> None:
    dataset.PixelData = pydicom.encaps.encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32"])
def test_plain_values(tmp_path: Path, dtype: str) -> None:
    pixels, path = noise(H, W, dtype=dtype), tmp_path / "Größe 細胞"
    save(path, make(pixels, PixelSpacing=[0.5, 0.25]))
    same(read_mask(path), pixels if dtype in ("uint8", "uint16") else pixels.astype(np.int32))
    image = read_image(path)
    np.testing.assert_array_equal(image[..., 0], pixels)
    assert image.dtype == (dtype if dtype in ("uint8", "uint16") else "float32")
    assert read_extent(path) == (H, W, 1)
    assert find_format(path.read_bytes()) is None  # uploads are none
    with ImageReader(path) as reader:
        assert reader.read_place().pixel_size == (500.0, 250.0)
    path.rename(tmp_path / "a.dcm")
    assert is_image(tmp_path / "a.dcm")


def test_hounsfield_units(tmp_path: Path) -> None:
    stored = noise(H, W, dtype="uint16") % 4096
    options = {"BitsStored": 12, "RescaleIntercept": -1024, "RescaleSlope": 1}
    dataset = make(stored, **options)
    save(tmp_path / "a.dcm", dataset)
    wanted = pydicom.pixels.apply_rescale(dataset.pixel_array, dataset)
    same(read_image(tmp_path / "a.dcm")[..., 0], wanted.astype(np.float32))
    same(read_mask(tmp_path / "a.dcm"), stored.astype(np.int32) - 1024)
    save(tmp_path / "b.dcm", make(stored, RescaleIntercept="-0.5", RescaleSlope="0.25"))
    image = read_image(tmp_path / "b.dcm")[..., 0]
    same(image, (stored * 0.25 - 0.5).astype(np.float32))


def test_table_of_values(tmp_path: Path) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "US"
    table.LUTData = [5, 50, 500, 5000]
    dataset = make(noise(H, W) % 4, ModalityLUTSequence=[table])
    dataset.ModalityLUTSequence[0]["LUTDescriptor"].VR = "US"
    dataset.ModalityLUTSequence[0]["LUTData"].VR = "US"
    save(tmp_path / "a.dcm", dataset)
    wanted = np.array([5, 50, 500, 5000], np.uint16)[noise(H, W) % 4]
    same(read_mask(tmp_path / "a.dcm"), wanted)


def test_white_may_be_low(tmp_path: Path) -> None:
    stored = noise(H, W, dtype="uint16") % 4096
    kind = {"PhotometricInterpretation": "MONOCHROME1"}
    save(tmp_path / "a.dcm", make(stored, BitsStored=12, **kind))
    same(read_image(tmp_path / "a.dcm")[..., 0], 4095 - stored)
    same(read_mask(tmp_path / "a.dcm"), 4095 - stored)
    signed = noise(H, W, dtype="int16") - 9
    save(tmp_path / "b.dcm", make(signed, **kind))
    same(read_image(tmp_path / "b.dcm")[..., 0], (-1 - signed).astype(np.float32))
    save(
        tmp_path / "c.dcm", make(stored, BitsStored=12, RescaleSlope=2, RescaleIntercept=1, **kind)
    )
    same(read_image(tmp_path / "c.dcm")[..., 0], (4095 - stored) * np.float32(2) + 1)


@pytest.mark.parametrize(
    ("dtype", "padding", "limit"),
    [("int16", -2000, None), ("int16", 63536, None), ("uint16", 7, None), ("int16", -2000, -1990)],
)
def test_padding_is_missing(tmp_path: Path, dtype: str, padding: int, limit: int | None) -> None:
    stored = noise(H, W, dtype=dtype) % 5
    low = padding if padding < 2**15 else padding - 2**16
    stored[:3], stored[3] = low, 6 if limit is None else low + 8
    dataset = make(stored, RescaleIntercept=-5, RescaleSlope=1)
    kind = "SS" if padding < 0 else "US"
    dataset.add_new("PixelPaddingValue", kind, padding)
    if limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", kind, limit)
    save(tmp_path / "a.dcm", dataset)
    image = read_image(tmp_path / "a.dcm")
    wanted = np.zeros((H, W), bool)
    wanted[: 3 if limit is None else 4] = True
    np.testing.assert_array_equal(image.mask[..., 0], wanted)
    np.testing.assert_array_equal(image.data[4:, :, 0], stored[4:].astype(int) - 5)
    save(tmp_path / "b.dcm", make(np.full((H, W), 9, "int16"), PixelPaddingValue=3))
    assert not np.ma.isMaskedArray(read_image(tmp_path / "b.dcm"))


# --- colours and compression ---------------------------------------------------------------------


def test_colours(tmp_path: Path) -> None:
    pixels = noise(H, W, 3)
    save(tmp_path / "a.dcm", make(pixels))
    same(read_image(tmp_path / "a.dcm"), pixels)
    assert read_extent(tmp_path / "a.dcm") == (H, W, 3)
    planes = make(pixels, PlanarConfiguration=1)
    planes.PixelData = np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes()
    save(tmp_path / "b.dcm", planes)
    same(read_image(tmp_path / "b.dcm"), pixels)
    ybr = make(pixels, PhotometricInterpretation="YBR_FULL")
    save(tmp_path / "c.dcm", ybr)
    same(
        read_image(tmp_path / "c.dcm"),
        pydicom.pixels.convert_color_space(pixels, "YBR_FULL", "RGB"),
    )
    grey = np.repeat(noise(H, W)[..., None] % 5, 3, axis=2)
    save(tmp_path / "d.dcm", make(grey))
    same(read_mask(tmp_path / "d.dcm"), grey[..., 0])


@pytest.mark.parametrize("bits", [8, 16])
def test_palette(tmp_path: Path, bits: int) -> None:
    indices, count = noise(H, W) % 8, 6
    dataset = make(indices, PhotometricInterpretation="PALETTE COLOR")
    kind = np.uint8 if bits == 8 else np.uint16
    table = noise(3, count, dtype=np.dtype(kind).name)
    for name, row in zip(("Red", "Green", "Blue"), table, strict=True):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [count, 1, bits])
        data = row.tobytes() + b"\0" * (row.nbytes % 2)
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", data)
    save(tmp_path / "a.dcm", dataset)
    wanted = pydicom.pixels.apply_color_lut(indices, dataset)
    wanted = (wanted >> 8).astype(np.uint8) if bits == 16 else wanted
    same(read_image(tmp_path / "a.dcm"), wanted)
    same(read_mask(tmp_path / "a.dcm"), indices)
    assert read_extent(tmp_path / "a.dcm") == (H, W, 3)


JPEG = "1.2.840.10008.1.2.4."
LOSSLESS = {
    "57": lambda image: imagecodecs.jpeg8_encode(image, lossless=True, predictor=1),
    "70": lambda image: imagecodecs.jpeg8_encode(image, lossless=True, predictor=1),
    "80": imagecodecs.jpegls_encode,
    "90": lambda image: imagecodecs.jpeg2k_encode(image, reversible=True, codecformat="j2k"),
}


@pytest.mark.parametrize("end", LOSSLESS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_lossless_compression(tmp_path: Path, end: str, dtype: str) -> None:
    """Of signed values codecs store the bits."""
    values = noise(3, H, W, dtype="uint16") % (256 if dtype == "uint8" else 4096)
    pixels = values.astype(dtype) - np.array(2048 if dtype == "int16" else 0, dtype)
    stored = (pixels.view(f"u{pixels.itemsize}") & 4095) if dtype != "uint8" else pixels
    dataset = make(pixels, BitsStored=8 if dtype == "uint8" else 12)
    pack(dataset, JPEG + end, [LOSSLESS[end](np.ascontiguousarray(frame)) for frame in stored])
    save(tmp_path / "a.dcm", dataset)
    for page in range(3):
        image = read_image(tmp_path / "a.dcm", page)[..., 0]
        np.testing.assert_array_equal(image, pixels[page])
        np.testing.assert_array_equal(read_mask(tmp_path / "a.dcm", page), pixels[page])


@pytest.mark.parametrize("end", ["80", "90", "57"])
def test_lossless_colours(tmp_path: Path, end: str) -> None:
    pixels = noise(H, W, 3)
    dataset = make(pixels, PhotometricInterpretation="YBR_RCT" if end == "90" else "RGB")
    encode = LOSSLESS[end]
    if end == "57":  # as scanners do, without a change of colours
        options = {"lossless": True, "predictor": 1, "colorspace": "RGB", "outcolorspace": "RGB"}
        pack(dataset, JPEG + end, [imagecodecs.jpeg8_encode(pixels, **options)])
    else:
        pack(dataset, JPEG + end, [encode(pixels)])
    save(tmp_path / "a.dcm", dataset)
    same(read_image(tmp_path / "a.dcm"), pixels)


@pytest.mark.parametrize(
    ("stored", "told", "markers"),
    [
        ("RGB", "RGB", False),
        ("YCBCR", "YBR_FULL_422", False),
        ("RGB", "RGB", True),
        ("YCBCR", "YBR_FULL_422", True),
        ("RGB", "YBR_FULL_422", True),  # the JPEG knows better
        ("YCBCR", "RGB", True),
    ],
)
def test_jpeg_colours(tmp_path: Path, stored: str, told: str, markers: bool) -> None:
    y, x = np.mgrid[:H, :W]
    pixels = np.stack([y * 9, x * 11, 200 - y * 3], axis=2).astype(np.uint8)
    options = {"colorspace": "RGB", "outcolorspace": stored, "level": 98, "subsampling": "444"}
    data = imagecodecs.jpeg8_encode(pixels, **options)
    if not markers:
        for mark in (b"\xff\xe0", b"\xff\xee"):  # JFIF, Adobe
            at = data.find(mark)
            if at >= 0:
                length = int.from_bytes(data[at + 2 : at + 4], "big")
                data = data[:at] + data[at + 2 + length :]
        assert b"JFIF" not in data
        assert b"Adobe" not in data
    dataset = make(pixels, PhotometricInterpretation=told)
    pack(dataset, JPEG + "50", [data])
    save(tmp_path / "a.dcm", dataset)
    assert np.abs(read_image(tmp_path / "a.dcm").astype(int) - pixels).max() < 8
    with ImageReader(tmp_path / "a.dcm") as reader:
        assert reader.read().is_lossy


def test_jpeg_of_12_bits(tmp_path: Path) -> None:
    y, x = np.mgrid[:H, :W]
    pixels = (y * 200 + x * 50).astype(np.uint16)
    dataset = make(pixels, BitsStored=12)
    pack(dataset, JPEG + "51", [imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=12)])
    save(tmp_path / "a.dcm", dataset)
    assert np.abs(read_image(tmp_path / "a.dcm")[..., 0].astype(int) - pixels).max() < 40


def test_rle_and_deflate(tmp_path: Path) -> None:
    pixels = noise(H, W, dtype="uint16")
    dataset = make(pixels)
    dataset.compress(pydicom.uid.RLELossless)
    save(tmp_path / "a.dcm", dataset)
    same(read_mask(tmp_path / "a.dcm"), pixels)
    dataset = make(pixels)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    save(tmp_path / "b.dcm", dataset)
    same(read_mask(tmp_path / "b.dcm"), pixels)


def test_compression_that_nothing_reads(tmp_path: Path) -> None:
    dataset = make(noise(H, W))
    pack(dataset, "1.2.840.10008.1.2.4.100", [b"12345678"])
    save(tmp_path / "a.dcm", dataset)
    with pytest.raises(SegkitError, match=r"a\.dcm: its pixels are packed as MPEG2 .*gdcmconv"):
        read_image(tmp_path / "a.dcm")
    dataset = make(noise(H, W), Rows=H + 1)
    pack(dataset, JPEG + "80", [imagecodecs.jpegls_encode(noise(H, W))])
    save(tmp_path / "b.dcm", dataset)
    with pytest.raises(SegkitError, match=r"b\.dcm: cannot be read: its pixels are \(16, 12\)"):
        read_image(tmp_path / "b.dcm")


# --- series --------------------------------------------------------------------------------------

AXIAL = [1, 0, 0, 0, 1, 0]
TILTED = [1, 0, 0, 0, 0.96, 0.28]


def series(folder: Path, volume: np.ndarray, orientation=AXIAL, step=None, **attributes) -> None:
    """A file for each slice, under names in another order than the slices."""
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    step = np.cross(across, down) * 2.5 if step is None else np.array(step)
    for number, pixels in enumerate(volume):
        position = [round(float(value), 6) for value in np.array([-30.0, 11, 7]) + number * step]
        dataset = make(
            np.ascontiguousarray(pixels),
            ImagePositionPatient=position,
            ImageOrientationPatient=list(orientation),
            PixelSpacing=[0.5, 0.75],
            InstanceNumber=100 - number,
            **attributes,
        )
        save(folder / f"{number * 7 % len(volume)}", dataset)


@pytest.mark.parametrize(
    "orientation", [AXIAL, TILTED, [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1], [-1, 0, 0, 0, -1, 0]]
)
def test_series_and_the_way_back(tmp_path: Path, orientation: list[float]) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    volume, folder, target = noise(9, H, W), tmp_path / "größe 1", tmp_path / "out/b.nii.gz"
    series(folder, volume, orientation)
    (folder / ".hidden").write_text("x")
    (folder / "DICOMDIR").write_text("x")
    assert is_image(folder)
    assert count_pages(folder) == 9
    for page in range(9):
        same(read_image(folder, page), volume[page][..., None])
    assert read_extent(folder, 3) == (H, W, 1)
    write_volume_like(folder, list(volume % 7), target)
    image = nibabel.load(target)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), volume.transpose(2, 1, 0) % 7)
    assert image.get_data_dtype() == np.uint8
    assert image.header.get_xyzt_units()[0] == "mm"
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    for page in (0, 8):  # centres of pixels, in the patient's coordinates
        header = pydicom.dcmread(folder / str(page * 7 % 9))
        across, down = np.array(orientation[:3]), np.array(orientation[3:])
        place = np.array(header.ImagePositionPatient) + across * 4 * 0.75 + down * 5 * 0.5
        found = image.affine @ [4, 5, page, 1]
        np.testing.assert_allclose(found[:3] * [-1, -1, 1], place, atol=1e-4)
    maps = [np.stack([page, page * 2]).astype(np.float32) for page in volume]
    write_volume_like(folder, maps, tmp_path / "c.nii")
    found = np.asanyarray(nibabel.load(tmp_path / "c.nii").dataobj)
    np.testing.assert_array_equal(found, np.stack(maps).transpose(3, 2, 0, 1))
    if orientation == AXIAL:  # NIfTI shows the same slices
        for page in range(9):
            same(read_mask(target, page), volume[page] % 7)


def test_a_tilted_gantry_has_no_quaternion(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    series(tmp_path / "a", noise(4, H, W), step=[0, 0.5, 2.5])
    write_volume_like(tmp_path / "a", list(noise(4, H, W)), tmp_path / "b.nii")
    image = nibabel.load(tmp_path / "b.nii")
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(image.affine[:3, 2], [0, -0.5, 2.5], atol=1e-6)


def test_slices_without_positions_go_by_their_numbers(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    volume = noise(3, H, W)
    for number, name in enumerate("bca"):
        header = {"InstanceNumber": number, "SliceThickness": "4"}
        save(tmp_path / "a" / name, make(volume[number], **header))
    for page in range(3):
        same(read_mask(tmp_path / "a", page), volume[page])
    write_volume_like(tmp_path / "a", list(volume), tmp_path / "b.nii")
    affine = nibabel.load(tmp_path / "b.nii").affine
    np.testing.assert_array_equal(affine, np.diag([-1.0, -1, 4, 1]))
    for page in range(3):
        same(read_mask(tmp_path / "b.nii", page), volume[page])


def test_slices_that_are_no_volume(tmp_path: Path) -> None:
    volume, target = noise(5, H, W), tmp_path / "b.nii"
    series(tmp_path / "gap", volume)
    (tmp_path / "gap" / "2").unlink()
    series(tmp_path / "same", volume, step=[0, 0, 0])
    series(tmp_path / "turned", volume)
    series(tmp_path / "turned", volume[:1], TILTED)
    for name, reason in (("gap", "evenly"), ("same", "evenly"), ("turned", "differ in size")):
        with ImageReader(tmp_path / name) as reader:
            labels = [reader.read_mask(page) for page in range(len(reader))]
        with pytest.raises(SegkitError, match=rf"{name}: its slices .*{reason}"):
            write_volume_like(tmp_path / name, labels, target)
    series(tmp_path / "good", volume)
    with pytest.raises(SegkitError, match=r"b\.nii: 4 pages do not fit .* has 5 of 16 x 12"):
        write_volume_like(tmp_path / "good", list(volume[1:]), target)
    assert not target.exists()


def test_one_slice_is_rescaled_like_all(tmp_path: Path) -> None:
    """Or the pages of a series would differ in type."""
    for number, slope in enumerate((1, 2)):
        header = {"InstanceNumber": number, "RescaleSlope": slope, "RescaleIntercept": 0}
        save(tmp_path / "a" / str(number), make(noise(H, W), **header))
    for page in range(2):
        wanted = noise(H, W).astype(np.float32) * (page + 1)
        same(read_image(tmp_path / "a", page)[..., 0], wanted)


def test_frames(tmp_path: Path) -> None:
    """With places and scales for each frame, as enhanced CT and MR have."""
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    volume = noise(5, H, W, dtype="uint16")
    save(tmp_path / "plain.dcm", make(volume))
    assert count_pages(tmp_path / "plain.dcm") == 5
    for page in range(5):
        same(read_mask(tmp_path / "plain.dcm", page), volume[page])

    def group(name: str, **values):
        item, outer = pydicom.Dataset(), pydicom.Dataset()
        for key, value in values.items():
            setattr(item, key, value)
        setattr(outer, name, [item])
        return outer

    frames = []
    for number in range(5):  # from top to bottom
        frame = group("PlanePositionSequence", ImagePositionPatient=[0, 0, 20 - 2 * number])
        scale = {"RescaleSlope": number + 1, "RescaleIntercept": 0}
        frame.update(group("PixelValueTransformationSequence", **scale))
        frames.append(frame)
    shared = group("PlaneOrientationSequence", ImageOrientationPatient=AXIAL)
    shared.update(group("PixelMeasuresSequence", PixelSpacing=[0.5, 0.75]))
    groups = {
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": frames,
    }
    save(tmp_path / "enhanced.dcm", make(volume, **groups))
    for page in range(5):
        wanted = volume[4 - page].astype(np.float32) * (5 - page)
        same(read_image(tmp_path / "enhanced.dcm", page)[..., 0], wanted)
    with ImageReader(tmp_path / "enhanced.dcm") as reader:
        assert reader.read_place(2).pixel_size == (500.0, 750.0)
    labels = list(volume[::-1] % 3)
    write_volume_like(tmp_path / "enhanced.dcm", labels, tmp_path / "b.nii.gz")
    image = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(np.diag(image.affine), [-0.75, -0.5, 2, 1])
    assert image.affine[2, 3] == 12


def test_several_series(tmp_path: Path) -> None:
    series(tmp_path / "a", noise(3, H, W))
    more = make(noise(H, W), SeriesInstanceUID="1.2.9", SeriesDescription="scout")
    save(tmp_path / "a" / "scout", more)
    message = r"a: it holds 2 series: 'chest' \(3 files\), 'scout' \(1 files\)\. Put each"
    with pytest.raises(SegkitError, match=message):
        read_image(tmp_path / "a", 0)
    same(read_mask(tmp_path / "a" / "scout"), noise(H, W))


def test_folders_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    series(tmp_path / "mixed", noise(3, H, W))
    (tmp_path / "mixed" / "notes.txt").write_text("hello")
    series(tmp_path / "deep", noise(3, H, W))
    (tmp_path / "deep" / "more").mkdir()
    for name in ("empty", "mixed", "deep"):
        assert not is_image(tmp_path / name)
        with pytest.raises(SegkitError, match=f"{name}: cannot be read: it is a folder"):
            read_image(tmp_path / name)


def test_folders_that_cannot_be_read_are_no_series(tmp_path: Path, monkeypatch) -> None:
    series(tmp_path / "a", noise(3, H, W))
    assert is_image(tmp_path / "a")

    def refuse(*_) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    assert not is_image(tmp_path / "a")


# --- what is refused -----------------------------------------------------------------------------


def test_objects_that_are_not_images(tmp_path: Path) -> None:
    kind = "1.2.840.10008.5.1.4.1.1.66.4"
    save(tmp_path / "seg.dcm", make(noise(H, W), SOPClassUID=kind))
    dataset = make(noise(H, W), SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3")
    for key in ("Rows", "Columns", "PixelData", "BitsAllocated"):
        delattr(dataset, key)
    save(tmp_path / "struct.dcm", dataset)
    save(tmp_path / "hsv.dcm", make(noise(H, W, 3), PhotometricInterpretation="HSV"))
    dataset = make(noise(H, W))
    del dataset.PixelData
    save(tmp_path / "none.dcm", dataset)
    for name, reason in (
        ("seg", "is a DICOM segmentation, .* convert it to NIfTI"),
        ("struct", "it holds no pixels: its kind is RT Structure Set Storage"),
        ("hsv", "its colours are HSV"),
        ("none", ""),
    ):
        with pytest.raises(SegkitError, match=rf"{name}\.dcm: .*{reason}"):
            read_image(tmp_path / f"{name}.dcm")
    save(tmp_path / "list", make(noise(H, W), SOPClassUID="1.2.840.10008.1.3.10"))
    save(tmp_path / "dicomdir", make(noise(H, W)))
    for name in ("list", "dicomdir"):
        assert find_format(tmp_path / name) is None


def test_files_that_start_like_a_tiff(tmp_path: Path) -> None:
    """Slides may be both, and CT and MR scanners leave this start in any file."""
    pixels = noise(H, W)
    save(tmp_path / "a", make(pixels))
    data = b"II*\0" + (tmp_path / "a").read_bytes()[4:]
    for name, kind in (("a", "dicom"), ("a.dcm", "dicom"), ("a.tif", "tiff"), ("a.TIFF", "tiff")):
        (tmp_path / name).write_bytes(data)
        assert find_format(tmp_path / name).name == kind
    same(read_image(tmp_path / "a.dcm")[..., 0], pixels)


@pytest.mark.parametrize(
    ("syntax", "start"),
    [("1.2.840.10008.1.2", 8), ("1.2.840.10008.1.2.1", 8), ("1.2.840.10008.1.2.2", 2048)],
)
def test_old_files_without_a_preamble(tmp_path: Path, syntax: str, start: int) -> None:
    """They do not name their transfer syntax: numbers of either byte order, with types or not."""
    pixels, path = noise(H, W, dtype="uint16"), tmp_path / "a.dcm"
    stored = pixels.byteswap() if start > 8 else pixels
    dataset = make(stored)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    implicit, little = syntax.endswith("1.2"), start == 8
    dataset.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    assert int.from_bytes(path.read_bytes()[:2], "little") == start
    same(read_image(path)[..., 0], pixels)
    (tmp_path / "a.bin").write_bytes(path.read_bytes())
    assert find_format(tmp_path / "a.bin") is None


def test_what_follows_the_pixels_of_a_frame(tmp_path: Path) -> None:
    """Frames have an even length; some writers fill them with the largest byte."""
    pixels = noise(H, W)
    frame = imagecodecs.jpegls_encode(pixels)
    for number, end in enumerate((b"", b"\0", b"\xff", b"\0\0\xff")):
        dataset = make(pixels)
        pack(dataset, JPEG + "80", [frame + end])
        save(tmp_path / f"{number}.dcm", dataset)
        same(read_image(tmp_path / f"{number}.dcm")[..., 0], pixels)


def test_slides_in_frames_are_refused(tmp_path: Path) -> None:
    tiles = make(noise(4, H, W), SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6")
    save(tmp_path / "a.dcm", tiles)
    with pytest.raises(SegkitError, match=r"a\.dcm is a DICOM slide, .* convert it to TIFF"):
        read_image(tmp_path / "a.dcm", page=0)


def test_damaged_files(tmp_path: Path) -> None:
    save(tmp_path / "good.dcm", make(noise(H, W), PixelSpacing=[1, 1]))
    good = (tmp_path / "good.dcm").read_bytes()
    (tmp_path / "good.dcm").unlink()
    packed = make(noise(H, W))
    pack(packed, JPEG + "80", [imagecodecs.jpegls_encode(noise(H, W))[:-30]])
    save(tmp_path / "packed.dcm", packed)
    (tmp_path / "cut.dcm").write_bytes(good[:-20])
    (tmp_path / "head.dcm").write_bytes(good[:300])
    (tmp_path / "magic.dcm").write_bytes(good[:132])
    (tmp_path / "noise.dcm").write_bytes(good[:132] + b"\xaa" * 500)
    (tmp_path / "none.dcm").write_bytes(b"")
    (tmp_path / "other.dcm").write_bytes(b"hello" * 100)
    for path in sorted(tmp_path.iterdir()):
        for use in (read_image, read_mask):
            with pytest.raises(SegkitError, match=rf"{path.name}: "):
                use(path)
    (tmp_path / "folder").mkdir()
    for number in range(3):
        save(tmp_path / "folder" / f"{number}.dcm", make(noise(H, W), InstanceNumber=number))
    (tmp_path / "folder/1.dcm").write_bytes((tmp_path / "folder/1.dcm").read_bytes()[:-20])
    same(read_mask(tmp_path / "folder", 0), noise(H, W))
    with pytest.raises(SegkitError, match=r"folder: cannot be read: 1\.dcm: "):
        read_mask(tmp_path / "folder", 1)


def test_huge_sizes_are_not_allocated(tmp_path: Path) -> None:
    save(tmp_path / "a.dcm", make(noise(H, W), Rows=65535, Columns=65535))
    assert read_extent(tmp_path / "a.dcm") == (65535, 65535, 1)
    with pytest.raises(SegkitError, match=r"a\.dcm: cannot be read"):
        read_image(tmp_path / "a.dcm")
    save(tmp_path / "b.dcm", make(noise(H, W), NumberOfFrames=2**31 - 1))
    with pytest.raises(SegkitError, match=r"b\.dcm: it is cut short: it should hold 2147483647"):
        count_pages(tmp_path / "b.dcm")


@pytest.mark.filterwarnings("error")
def test_warnings_of_pydicom_are_hidden(tmp_path: Path, caplog) -> None:
    dataset = make(noise(H, W))
    dataset.PixelData += bytes(40)
    save(tmp_path / "a.dcm", dataset)
    with pytest.warns(UserWarning, match="padding"):
        assert pydicom.dcmread(tmp_path / "a.dcm").pixel_array.shape == (H, W)
    caplog.clear()
    same(read_mask(tmp_path / "a.dcm"), noise(H, W))
    assert not caplog.records


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    volume = noise(20, H, W)
    series(tmp_path / "a", volume)
    dataset = make(volume)
    pack(dataset, JPEG + "80", [imagecodecs.jpegls_encode(frame) for frame in volume])
    save(tmp_path / "b.dcm", dataset)
    for path in (tmp_path / "a", tmp_path / "b.dcm"):
        with ImageReader(path) as reader, ThreadPoolExecutor(8) as pool:
            for page, mask in enumerate(pool.map(reader.read_mask, range(20))):
                same(mask, volume[page])


def test_without_pydicom(tmp_path: Path, monkeypatch) -> None:
    save(tmp_path / "a.dcm", make(noise(H, W)))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(SegkitError, match=r"a\.dcm: .*pydicom.* 'segkit-torch\[medical\]'\.$"):
        read_image(tmp_path / "a.dcm")


@pytest.mark.filterwarnings("ignore")  # what pydicom says of them
def test_the_files_of_pydicom() -> None:
    """All that pydicom ships with and decodes has the same pixels here."""
    count = 0
    for path in sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm")):
        if path.name.startswith("liver"):  # segmentations
            continue
        dataset = pydicom.dcmread(path, force=True)
        try:
            wanted = dataset.pixel_array
        except Exception:  # no pixels, or broken on purpose
            continue
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            wanted = pydicom.pixels.apply_color_lut(wanted, dataset) >> 8
        elif dataset.SamplesPerPixel == 1:
            wanted = pydicom.pixels.apply_modality_lut(wanted, dataset)
        frames = wanted if int(dataset.get("NumberOfFrames") or 1) > 1 else wanted[None]
        assert count_pages(path) == len(frames)
        for page, frame in enumerate(frames[:3]):
            image = np.ma.getdata(read_image(path, page=page))
            np.testing.assert_array_equal(image.squeeze(), frame.astype(np.float32), path.name)
        count += 1
    assert count > 20
