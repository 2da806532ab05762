"""DICOM of every kind, written by pydicom, against what pydicom or nibabel reads."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from images.conftest import noise, same
from images.dicom_files import JPEG, H, W, make, pack, pydicom, save

from segkit.core.errors import SegkitError
from segkit.images.formats.base import find_format, is_image
from segkit.images.reading import ImageReader, read_extent, read_image, read_mask


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
