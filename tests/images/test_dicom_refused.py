"""DICOM files that are refused."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from images.conftest import noise, same
from images.dicom_files import JPEG, H, W, make, pack, pydicom, save, series

from segkit.core.errors import SegkitError
from segkit.images.formats.base import find_format
from segkit.images.reading import ImageReader, count_pages, read_extent, read_image, read_mask


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
        ("seg", "is a DICOM segmentation: data.labels=dicom_seg .* convert it to NIfTI"),
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
    with pytest.raises(SegkitError, match=r"folder: cannot be read: 1\.dcm: it is damaged, or of"):
        read_mask(tmp_path / "folder", 1)


def test_huge_sizes_are_not_allocated(tmp_path: Path) -> None:
    save(tmp_path / "a.dcm", make(noise(H, W), Rows=65535, Columns=65535))
    assert read_extent(tmp_path / "a.dcm") == (65535, 65535, 1)
    with pytest.raises(SegkitError, match=r"a\.dcm: "):  # too large here, else cut short
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
