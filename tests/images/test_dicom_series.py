"""Series of DICOM are volumes."""

from pathlib import Path

import numpy as np
import pytest
from images.conftest import noise, same
from images.dicom_files import AXIAL, TILTED, H, W, make, pydicom, save, series

from segkit.core.errors import SegkitError
from segkit.images.formats.base import is_image
from segkit.images.formats.dicom import write_volume_like
from segkit.images.reading import ImageReader, count_pages, read_extent, read_image, read_mask


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
