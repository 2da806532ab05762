"""Image and mask must lie at the same place, where both files say so."""

from pathlib import Path

import numpy as np
import pytest

from segkit.core.errors import SegkitError
from segkit.data.checks.summary import check
from segkit.data.sources.folder import FolderSource
from segkit.images.reading import ImageReader

nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")

RAS = np.array([[2.0, 0, 0, -30], [0, 3.0, 0, 11], [0, 0, 4.0, 7], [0, 0, 0, 1]])
VALUES = np.random.default_rng(0).integers(0, 255, (20, 20, 6)).astype(np.uint8)
MASK = (VALUES > 100).astype(np.uint8)


def put(root: Path, mask, image=None) -> FolderSource:
    for name, volume in (("images", image), ("masks", mask)):
        (root / name).mkdir(parents=True, exist_ok=True)
        volume = nibabel.Nifti1Image(VALUES, RAS) if volume is None else volume
        volume.to_filename(root / name / "a.nii.gz")
    return FolderSource("binary", root=root, split="blocks")


def read_masks(source: FolderSource) -> np.ndarray:
    samples = [sample for part in source.splits().values() for sample in part]
    return np.stack([source.read_mask(each) for each in sorted(samples, key=lambda s: s.page)])


def find_problems(source: FolderSource) -> str:
    with pytest.raises(SegkitError) as caught:
        check(source, "binary")
    return str(caught.value)


def turn(volume, codes: str):
    axes = nibabel.orientations
    now = axes.io_orientation(volume.affine)
    return volume.as_reoriented(axes.ornt_transform(now, axes.axcodes2ornt(codes)))


@pytest.mark.parametrize("codes", ["LPS", "PIR", "RSA"])
def test_a_mask_in_another_order_of_axes_is_paired_by_the_affine(tmp_path, codes: str) -> None:
    mask = nibabel.Nifti1Image(MASK, RAS)
    [note] = check(put(tmp_path, turn(mask, codes)), "binary").notes
    assert note == (
        "1 masks are turned to their images by the headers, as a viewer does: the axes of masks"
        f" lead to {codes}, those of images to RAS: images/a.nii.gz"
    )
    assert not check(put(tmp_path / "same", mask), "binary").notes
    wanted = np.flip(nibabel.as_closest_canonical(mask).get_fdata(), (0, 1)).transpose(2, 1, 0)
    np.testing.assert_array_equal(read_masks(put(tmp_path, turn(mask, codes))), wanted)


@pytest.mark.parametrize(
    ("change", "apart"),
    [
        ({(0, 0): -2.0}, ""),  # the axis flipped, and the voxels left alone
        ({(0, 3): -33.0}, "1 pixels apart"),
        ({(2, 3): 15.0}, "2.67 pixels apart"),  # two slices
        ({(2, 2): 5.0}, "1.67 pixels apart"),  # as far apart only in the last slice
        ({(1, 0): 1.0}, ""),  # oblique
    ],
)
def test_a_mask_with_another_affine_is_refused(tmp_path: Path, change, apart: str) -> None:
    affine = RAS.copy()
    for place, value in change.items():
        affine[place] = value
    text = find_problems(put(tmp_path, nibabel.Nifti1Image(MASK, affine)))
    assert f"images/a.nii.gz and its mask {tmp_path / 'masks/a.nii.gz'} lie at different" in text
    assert apart in text
    assert "write the mask on the grid of the image, with the same affine" in text
    assert find_problems(put(tmp_path, nibabel.Nifti1Image(MASK, np.eye(4)))).count("lie at") == 1


def test_affines_that_are_rounded_are_the_same(tmp_path: Path) -> None:
    turned = RAS.copy()
    turned[:2, :2] = [[1.98, 0.4], [-0.28, 2.97]]
    image, mask = nibabel.Nifti1Image(VALUES, turned), nibabel.Nifti1Image(MASK, turned)
    image.set_sform(turned + 1e-4, 1)
    mask.set_sform(turned, 0)
    mask.set_qform(turned, 1)
    check(put(tmp_path, mask, image), "binary")


def test_a_coarser_mask_lies_where_its_outline_does(tmp_path: Path) -> None:
    half = RAS.copy()
    half[:2, :2] *= 2
    half[0, 3], half[1, 3] = -29, 12.5  # centres of larger pixels with the same corners
    put(tmp_path, nibabel.Nifti1Image(np.ascontiguousarray(MASK[::2, ::2]), half))
    check(FolderSource("binary", root=tmp_path, resize_masks=True, split="blocks"), "binary")
    half[0, 3] += 8
    put(tmp_path, nibabel.Nifti1Image(np.ascontiguousarray(MASK[::2, ::2]), half))
    source = FolderSource("binary", root=tmp_path, resize_masks=True, split="blocks")
    assert "up to 1.33 pixels apart" in find_problems(source)


def test_a_series_and_a_volume(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="the extra medical is not installed")
    from images.dicom_files import make, save

    (tmp_path / "images/a").mkdir(parents=True)
    for number in range(6):
        frame = make(
            VALUES[..., number],
            PixelSpacing=[3.0, 2.0],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[-8.0, 5.0, 7.0 + 4 * number],
        )
        assert isinstance(frame, pydicom.Dataset)
        save(tmp_path / f"images/a/{number}.dcm", frame)
    affine = np.diag([-2.0, -3.0, 4.0, 1.0])  # to the left and the back, as columns and rows lead
    affine[:3, 3] = [8, -5, 7]
    volume = nibabel.Nifti1Image(np.ascontiguousarray(MASK.transpose(1, 0, 2)), affine)
    (tmp_path / "masks").mkdir()
    volume.to_filename(tmp_path / "masks/a.nii.gz")
    source = FolderSource("binary", root=tmp_path, split="blocks")
    check(source, "binary")
    np.testing.assert_array_equal(read_masks(source), MASK.transpose(2, 0, 1))
    for page in (0, 5):
        found = []
        for file in (tmp_path / "images/a", tmp_path / "masks/a.nii.gz"):
            with ImageReader(file) as reader:
                found.append(reader.read_place(page).slice)
        np.testing.assert_allclose(*found, atol=1e-5)
    affine[2, 3] += 4
    nibabel.Nifti1Image(MASK, affine).to_filename(tmp_path / "masks/a.nii.gz")
    assert "lie at different places" in find_problems(
        FolderSource("binary", root=tmp_path, split="blocks")
    )


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_where_a_slice_lies(tmp_path: Path, plane: str) -> None:
    """Every pixel's place gives back its value, whatever the order of the axes."""
    volume = nibabel.Nifti1Image(VALUES, RAS)
    path = tmp_path / "a.nii"
    for codes in ("RAS", "PIL", "SRA"):
        turn(volume, codes).to_filename(path)
        with ImageReader(f"{path}::{plane}") as reader:
            for page in range(len(reader)):
                values = reader.read_image(page)[..., 0]
                corner, across, down = map(np.array, reader.read_place(page).slice)
                rows, columns = np.indices(values.shape) + 0.5
                world = corner + columns[..., None] * across + rows[..., None] * down
                voxels = nibabel.affines.apply_affine(np.linalg.inv(RAS), world)
                x, y, z = np.moveaxis(np.rint(voxels).astype(int), -1, 0)
                np.testing.assert_array_equal(values, VALUES[x, y, z])
