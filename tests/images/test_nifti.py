"""Volumes of every kind, against what nibabel reads, and the way back."""

import gzip
import itertools
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from images.conftest import noise, same

from segkit.core.errors import SegkitError
from segkit.images.formats.base import find_format, is_image
from segkit.images.formats.nifti import write_volume_like
from segkit.images.reading import ImageReader, count_pages, read_extent, read_image, read_mask

nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
pytestmark = pytest.mark.filterwarnings("error")

X, Y, Z = 5, 7, 6
RAS = np.array([[2.0, 0, 0, -30], [0, 3.0, 0, 11], [0, 0, 4.0, 7], [0, 0, 0, 1]])


def save(path: Path, values: np.ndarray, affine=RAS, kind: str = "Nifti1Image") -> None:
    getattr(nibabel, kind)(values, affine).to_filename(path)


def read_all(file: Path | str) -> np.ndarray:
    with ImageReader(file) as reader:
        return np.stack([reader.read_image(page) for page in range(len(reader))])


def reorient(values: np.ndarray, codes: str) -> np.ndarray:
    """A volume in RAS with axes that lead elsewhere, and its affine."""
    target = nibabel.orientations.axcodes2ornt(codes)
    image = nibabel.Nifti1Image(values, RAS)
    return image.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), target)
    )


ALL_CODES = [
    "".join(codes)
    for order in itertools.permutations(["LR", "PA", "IS"])
    for codes in itertools.product(*order)
]


def cut_slices(values: np.ndarray, plane: str) -> tuple[np.ndarray, tuple[float, float]]:
    """The slices of a volume in RAS, and the size of their pixels."""
    return {
        "axial": (values[::-1, ::-1, :].transpose(2, 1, 0), (3000.0, 2000.0)),
        "coronal": (values[::-1, :, ::-1].transpose(1, 2, 0), (4000.0, 2000.0)),
        "sagittal": (values[::-1, ::-1, ::-1].transpose(0, 2, 1), (4000.0, 3000.0)),
    }[plane]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_slices_look_alike_however_they_are_stored(tmp_path: Path, plane: str) -> None:
    values, path = noise(X, Y, Z, dtype="uint16"), tmp_path / "a.nii"
    wanted, size = cut_slices(values, plane)
    for codes in ALL_CODES:
        reorient(values, codes).to_filename(path)
        np.testing.assert_array_equal(read_all(f"{path}::{plane}")[..., 0], wanted, codes)
        with ImageReader(f"{path}::{plane}") as reader:
            assert reader.read_place(0).pixel_size == pytest.approx(size)
            assert reader.read_extent(0) == (*wanted.shape[1:], 1)


@pytest.mark.parametrize("codes", [*ALL_CODES[::6], "RAS", "LPS"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_labels_return_to_their_voxels(tmp_path: Path, codes: str, plane: str) -> None:
    values, path, target = noise(X, Y, Z), tmp_path / "a.nii", tmp_path / "b.nii.gz"
    reorient(values, codes).to_filename(path)
    assert nibabel.aff2axcodes(nibabel.load(path).affine) == tuple(codes)
    labels = cut_slices(values, plane)[0] % 7
    write_volume_like(f"{path}::{plane}", list(labels), target)
    given, back = nibabel.load(path), nibabel.load(target)
    assert back.shape == given.shape
    np.testing.assert_array_equal(back.affine, given.affine)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), np.asanyarray(given.dataobj) % 7)
    np.testing.assert_array_equal(read_all(f"{target}::{plane}")[..., 0], labels)


def test_oblique_volumes_are_not_resampled(tmp_path: Path) -> None:
    turned = RAS.copy()
    turned[:3, :3] = [[1.8, 0.4, 0], [-0.4, 1.8, 0.3], [0, -0.3, 2.0]]
    save(tmp_path / "a.nii", noise(X, Y, Z), turned)
    np.testing.assert_array_equal(
        read_all(tmp_path / "a.nii")[..., 0], noise(X, Y, Z)[::-1, ::-1].transpose(2, 1, 0)
    )


@pytest.mark.parametrize(
    ("kind", "packed"),
    [
        ("Nifti1Image", False),
        ("Nifti1Image", True),
        ("Nifti2Image", False),
        ("Nifti2Image", True),
        ("Nifti1Pair", False),
        ("Nifti2Pair", False),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_kinds_of_files(tmp_path: Path, kind: str, packed: bool, dtype: str) -> None:
    name = "Größe 細胞.hdr" if "Pair" in kind else "Größe 細胞.nii"
    path = tmp_path / (name + ".gz" * packed)
    values = noise(X, Y, Z, dtype=dtype) - (5 if np.dtype(dtype).kind == "i" else 0)
    save(path, values, kind=kind)
    assert is_image(path)
    assert not is_image(path.with_suffix(".img"))
    wanted = np.asanyarray(nibabel.load(path).dataobj)[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(read_all(path)[..., 0], wanted)
    assert read_image(path, 0).dtype == (dtype if dtype[0] == "u" else "float32")
    for page in range(Z):
        mask = read_mask(path, page)
        np.testing.assert_array_equal(mask, wanted[page])
        assert mask.dtype == (dtype if dtype[0] == "u" else "int32")
    if not packed:
        assert find_format(path.read_bytes()) is None  # uploads are none
    # the content counts, not the suffix
    if "Pair" not in kind:
        path.rename(tmp_path / "other.dat")
        np.testing.assert_array_equal(read_all(tmp_path / "other.dat")[..., 0], wanted)


@pytest.mark.parametrize("kind", ["AnalyzeImage", "Spm2AnalyzeImage"])
def test_analyze(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.hdr"
    values = noise(X, Y, Z, dtype="int16")
    affine = np.diag([-2.0, 3.0, 4.0, 1.0])
    module = nibabel.analyze if kind == "AnalyzeImage" else nibabel.spm2analyze
    getattr(module, kind)(values, affine).to_filename(path)
    path.with_suffix(".mat").unlink(missing_ok=True)  # SPM's own affine
    loaded = nibabel.load(path)
    assert nibabel.aff2axcodes(loaded.affine) == ("L", "A", "S")
    np.testing.assert_array_equal(
        read_all(path)[..., 0], np.asanyarray(loaded.dataobj)[:, ::-1].transpose(2, 1, 0)
    )
    labels = [read_mask(path, page) for page in range(Z)]
    write_volume_like(path, labels, tmp_path / "b.nii.gz")
    back = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(back.affine, loaded.affine)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), np.asanyarray(loaded.dataobj))
    assert back.header.get_xyzt_units()[0] == "mm"
    (tmp_path / "a.img").unlink()
    with pytest.raises(SegkitError, match=r"a\.hdr: its pixels are missing: put a\.img beside"):
        read_image(path, 0)


@pytest.mark.parametrize("order", ["<", ">"])
def test_byte_orders(tmp_path: Path, order: str) -> None:
    values = noise(X, Y, Z, dtype="uint16")
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype("uint16")
    nibabel.Nifti1Image(values, RAS, header).to_filename(tmp_path / "a.nii")
    start = (tmp_path / "a.nii").read_bytes()[:4]
    assert start == struct.pack(order + "i", 348)
    same(read_mask(tmp_path / "a.nii", 2), np.ascontiguousarray(values[::-1, ::-1, 2].T))
    write_volume_like(tmp_path / "a.nii", [np.ones((Y, X), bool)] * Z, tmp_path / "b.nii")
    assert np.asanyarray(nibabel.load(tmp_path / "b.nii").dataobj).all()


# --- times, channels and colours -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "step", "pages", "channels", "labels"),
    [
        ((X, Y), None, 1, 1, (X, Y)),
        ((X, Y, 1), None, 1, 1, (X, Y, 1)),
        ((X, Y, Z, 1), None, Z, 1, (X, Y, Z, 1)),
        ((X, Y, Z, 4), 1.0, Z, 4, (X, Y, Z)),
        ((X, Y, Z, 4), 0.0, Z, 4, (X, Y, Z)),
        ((X, Y, Z, 4), 2.5, 4 * Z, 1, (X, Y, Z, 4)),
        ((X, Y, Z, 5), 1.0, 5 * Z, 1, (X, Y, Z, 5)),
        ((X, Y, Z, 1, 3), None, Z, 3, (X, Y, Z, 1)),
        ((X, Y, Z, 2, 3), None, 2 * Z, 3, (X, Y, Z, 2)),
        ((X, Y, Z, 2, 1, 1), None, Z, 2, (X, Y, Z)),
    ],
)
def test_times_and_channels(tmp_path: Path, shape, step, pages, channels, labels) -> None:
    values, path = noise(*shape), tmp_path / "a.nii.gz"
    image = nibabel.Nifti1Image(values, RAS)
    if step is not None:
        image.header["pixdim"][4] = step
    image.to_filename(path)
    assert count_pages(path) == pages
    assert read_extent(path, 0) == (Y, X, channels)
    whole = values.reshape(X, Y, *(shape[2:3] or (1,)), -1, channels, order="F")
    wanted = whole[::-1, ::-1].transpose(3, 2, 1, 0, 4).reshape(pages, Y, X, channels)
    np.testing.assert_array_equal(read_all(path), wanted)
    masks = list((wanted[..., 0] % 5).astype(np.uint8))
    write_volume_like(path, masks, tmp_path / "b.nii.gz")
    back = nibabel.load(tmp_path / "b.nii.gz")
    assert back.shape == labels
    np.testing.assert_array_equal(back.affine, RAS)
    first = whole[..., 0].reshape(labels, order="F")
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), first % 5)


@pytest.mark.parametrize("names", ["RGB", "RGBA"])
def test_colours(tmp_path: Path, names: str) -> None:
    pixels = noise(X, Y, Z, len(names))
    values = pixels.view([(name, "u1") for name in names])[..., 0]
    save(tmp_path / "a.nii", values)
    wanted = pixels[::-1, ::-1].transpose(2, 1, 0, 3)
    with ImageReader(tmp_path / "a.nii") as reader:
        for page in range(Z):
            same(reader.read_image(page, keep_alpha=True), np.ascontiguousarray(wanted[page]))
        assert reader.read(0).is_rgb
    assert read_extent(tmp_path / "a.nii", 0) == (Y, X, len(names))


# --- scaled values -------------------------------------------------------------------------------


def test_scaled_values(tmp_path: Path) -> None:
    values, path = noise(X, Y, Z, dtype="int16"), tmp_path / "a.nii.gz"
    image = nibabel.Nifti1Image(values, RAS)
    image.header.set_slope_inter(0.5, -1024)
    image.to_filename(path)
    loaded = nibabel.load(path)
    assert loaded.dataobj.slope == 0.5
    wanted = loaded.get_fdata(dtype=np.float32)[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(read_all(path)[..., 0], wanted)
    assert read_image(path, 0).dtype == np.float32


@pytest.mark.parametrize("slope", [0.1, 0.3, 0.7, 1 / 3])
def test_a_rounded_slope_leaves_labels_whole(tmp_path: Path, slope: float) -> None:
    stored = np.zeros((X, Y, Z), np.int16)
    labels = np.arange(X * Y * Z).reshape(X, Y, Z)
    stored[:] = np.rint(labels / slope)
    keep = np.isclose(stored * slope, labels, atol=1e-9)
    stored[~keep] = 0
    image = nibabel.Nifti1Image(stored, RAS)
    image.header.set_slope_inter(slope, 0)
    image.to_filename(tmp_path / "a.nii")
    wanted = np.where(keep, labels, 0)[::-1, ::-1].transpose(2, 1, 0)
    for page in range(Z):
        np.testing.assert_array_equal(read_mask(tmp_path / "a.nii", page), wanted[page])


def test_labels_that_nibabel_has_scaled(tmp_path: Path) -> None:
    """Floats that are saved with a header of integers get a slope, and are rounded."""
    labels = noise(X, Y, Z).astype(np.float64) % 5
    header = nibabel.Nifti1Header()
    header.set_data_dtype("int16")
    nibabel.Nifti1Image(labels, RAS, header).to_filename(tmp_path / "a.nii")
    assert not (nibabel.load(tmp_path / "a.nii").get_fdata() == labels).all()
    wanted = labels[::-1, ::-1].transpose(2, 1, 0)
    for page in range(Z):
        np.testing.assert_array_equal(read_mask(tmp_path / "a.nii", page), wanted[page])
    nibabel.Nifti1Image(labels / 7, RAS, header).to_filename(tmp_path / "b.nii")
    with pytest.raises(SegkitError, match=r"b\.nii: a mask must hold whole numbers"):
        read_mask(tmp_path / "b.nii", 0)


def test_nan_is_missing(tmp_path: Path) -> None:
    values = noise(X, Y, Z, dtype="float32")
    values[1, 2, 3] = np.nan
    save(tmp_path / "a.nii", values)
    assert read_image(tmp_path / "a.nii", 3).mask.sum() == 1


# --- the way back --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (4, 0), (0, 0)])
def test_the_header_of_labels(tmp_path: Path, kind: str, codes: tuple[int, int]) -> None:
    path, target = tmp_path / "a.nii.gz", tmp_path / "new folder/b.nii.gz"
    affine = RAS.copy()
    affine[:3, :3] = [[0, 0, 2.5], [-3, 0, 0], [0, 4, 0]]
    image = getattr(nibabel, kind)(noise(X, Y, Z, dtype="float32"), affine)
    image.header.set_sform(affine, codes[0])
    image.header.set_qform(affine, codes[1])
    image.header.set_xyzt_units("micron", "sec")
    image.header.set_intent("z score")
    image.header["descrip"], image.header["cal_max"] = b"given", 99
    image.header.set_dim_info(1, 0, 2)
    image.to_filename(path)
    given = nibabel.load(path)
    with ImageReader(path) as reader:
        labels = [reader.read_image(page)[..., 0].astype(np.uint16) for page in range(len(reader))]
        pixel = reader.read_place(0).pixel_size
    write_volume_like(path, labels, target)
    back = nibabel.load(target)
    assert type(back) is getattr(nibabel, kind)
    assert back.get_data_dtype() == np.uint16
    np.testing.assert_array_equal(back.affine, given.affine)
    for key in ("sform_code", "qform_code", "xyzt_units", "descrip", "pixdim", "dim", "dim_info"):
        np.testing.assert_array_equal(back.header[key], given.header[key], key)
    assert (back.header["cal_max"], back.header.get_intent()[0]) == (0, "none")
    assert back.header.get_slope_inter() in ((None, None), (1.0, 0.0))
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), given.get_fdata())
    if max(codes):  # without codes the axes are the stored ones
        assert pixel == pytest.approx((3.0, 2.5))
    for page, mask in enumerate(labels):
        same(read_mask(target, page), mask)
    first = target.read_bytes()
    write_volume_like(path, labels, target)
    assert target.read_bytes() == first  # without the time


@pytest.mark.parametrize(
    ("highest", "dtype"), [(255, "uint8"), (256, "uint16"), (2**16, "int32"), (2**31, None)]
)
def test_types_of_labels(tmp_path: Path, highest: int, dtype: str | None) -> None:
    path, target = tmp_path / "a.nii", tmp_path / "b.nii"
    save(path, noise(X, Y, Z))
    labels = [np.zeros((Y, X), np.int64) for _ in range(Z)]
    labels[3][1, 2] = highest
    if dtype is None:
        with pytest.raises(SegkitError, match=r"b\.nii: labels from 0 to 2147483648 do not fit"):
            write_volume_like(path, labels, target)
    else:
        write_volume_like(path, labels, target)
        assert nibabel.load(target).get_data_dtype() == dtype
        assert read_mask(target, 3)[1, 2] == highest


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((X, Y), (X, Y, 1, 2)), ((X, Y, Z), (X, Y, Z, 2)), ((X, Y, Z, 5), (X, Y, Z, 5, 2))],
)
def test_maps_of_channels(tmp_path: Path, shape, wanted) -> None:
    path, target = tmp_path / "a.nii", tmp_path / "b.nii.gz"
    image = nibabel.Nifti1Image(noise(*shape), RAS)
    if len(shape) == 4:
        image.header["pixdim"][4] = 2  # seconds
    image.to_filename(path)
    pages = read_all(path)[..., 0]
    maps = [np.stack([page / np.float32(256), 1 - page / np.float32(256)]) for page in pages]
    write_volume_like(path, maps, target)
    given, back = nibabel.load(path), nibabel.load(target)
    assert (back.shape, back.get_data_dtype()) == (wanted, np.float32)
    np.testing.assert_array_equal(back.affine, given.affine)
    first = np.asanyarray(given.dataobj).reshape(wanted[:-1]) / 256
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), np.stack([first, 1 - first], -1))
    np.testing.assert_array_equal(read_all(target), np.stack(maps).transpose(0, 2, 3, 1))


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    path, target = tmp_path / "a.nii", tmp_path / "b.nii.gz"
    save(path, noise(X, Y, Z))
    good = [np.zeros((Y, X), np.uint8)] * Z
    for labels, to, reason in (
        (good[1:], target, r"b\.nii\.gz: 5 pages do not fit .* which has 6 of 7 x 5"),
        ([page.T for page in good], target, "6 pages do not fit"),
        ([page - np.int16(1) for page in good], target, "from -1 to -1"),
        (good, tmp_path / "b.tif", r"b\.tif: volumes are written as"),
    ):
        with pytest.raises(SegkitError, match=reason):
            write_volume_like(path, labels, to)
    with pytest.raises(SegkitError, match=r"c\.nii: cannot be read: No such file"):
        write_volume_like(tmp_path / "c.nii", good, target)
    assert [each.name for each in tmp_path.iterdir()] == ["a.nii"]


# --- what is refused -----------------------------------------------------------------------------


def test_volumes_that_are_not_images(tmp_path: Path) -> None:
    save(tmp_path / "complex.nii", np.zeros((X, Y, Z), np.complex64))
    save(tmp_path / "many.nii", np.zeros((X, Y, Z, 1, 1, 2), np.uint8))
    data = bytearray(nibabel.Nifti1Image(noise(X, Y, Z), RAS).to_bytes())
    struct.pack_into("<f", data, 280, np.nan)  # srow_x
    (tmp_path / "affine.nii").write_bytes(data)
    save(tmp_path / "zero.nii", np.zeros((X, 0, Z), np.uint8))
    for name, reason in (
        ("complex", "complex64 are not an image"),
        ("many", "is not an image"),
        ("affine", "not finite"),
        ("zero", "it is empty"),
    ):
        with pytest.raises(SegkitError, match=rf"{name}\.nii: cannot be read: .*{reason}"):
            read_extent(tmp_path / f"{name}.nii", 0)
    save(tmp_path / "a.nii", noise(X, Y, Z))
    with pytest.raises(SegkitError, match="'top' is no plane: choose axial, coronal, sagittal"):
        read_image(f"{tmp_path / 'a.nii'}::top")
    with pytest.raises(SegkitError, match="has 6 pages"):
        read_image(tmp_path / "a.nii")


def test_slices_without_thickness_keep_their_order(tmp_path: Path) -> None:
    data = bytearray(nibabel.Nifti1Image(noise(X, Y, Z), RAS).to_bytes())
    for row in range(3):  # the third column of the affine
        struct.pack_into("<f", data, 280 + 16 * row + 8, 0)
    (tmp_path / "a.nii").write_bytes(data)
    assert not nibabel.load(tmp_path / "a.nii").affine[:3, 2].any()
    wanted = noise(X, Y, Z)[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(read_all(tmp_path / "a.nii")[..., 0], wanted)
    with ImageReader(tmp_path / "a.nii") as reader:
        assert reader.read_place(0).pixel_size == (3000.0, 2000.0)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / "good.nii", noise(40, 50, 60))
    good = (tmp_path / "good.nii").read_bytes()
    (tmp_path / "good.nii").unlink()
    pack = gzip.compress if suffix == ".nii.gz" else bytes
    unknown = bytearray(good)
    struct.pack_into("<h", unknown, 70, 9999)
    before = bytearray(good)
    struct.pack_into("<f", before, 108, -1000)
    damaged = {
        "cut": pack(good)[:-900],
        "short": pack(good[:-900]),
        "head": pack(good[:346]),
        "head2": pack(struct.pack("<i4s", 540, b"n+2\0") + bytes(300)),
        "magic": pack(good[:344] + b"abc\0" + good[348:]),
        "none": b"",
        "text": b"hello" * 200,
        "type": pack(bytes(unknown)),
        "before": pack(bytes(before)),
        "gzip": b"\x1f\x8b" + b"\x08" * 600,
    }
    if suffix == ".nii.gz":
        packed = bytearray(pack(good))
        packed[-6] ^= 1
        damaged["checksum"] = bytes(packed)
    for name, data in damaged.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(data)
        for use in (read_image, read_mask):
            with pytest.raises(SegkitError, match=rf"{name}\{suffix}: cannot be read: "):
                use(path, 0)


@pytest.mark.parametrize("side", [100, 30000])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_huge_sizes_are_not_allocated(tmp_path: Path, suffix: str, side: int) -> None:
    image = nibabel.Nifti1Image(noise(X, Y, Z), RAS)
    data = bytearray(image.to_bytes())
    struct.pack_into("<5h", data, 40, 4, side, side, side, side)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
    for use in (read_extent, read_image):
        with pytest.raises(SegkitError, match="cannot be read: it is cut short"):
            use(path, 0)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_threads_may_read_at_once(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save(path, noise(X, Y, 60))
    wanted = noise(X, Y, 60)[::-1, ::-1].transpose(2, 1, 0)
    with ImageReader(path) as reader, ThreadPoolExecutor(8) as pool:
        for page, mask in enumerate(pool.map(reader.read_mask, range(60))):
            same(mask, np.ascontiguousarray(wanted[page]))


def test_warnings_of_nibabel_are_not_printed(tmp_path: Path, capfd) -> None:
    save(tmp_path / "a.nii", noise(X, Y, Z))
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<f", data, 80, -2.0)  # pixdim
    (tmp_path / "a.nii").write_bytes(data)
    assert read_mask(tmp_path / "a.nii", 0).shape == (Y, X)
    assert capfd.readouterr() == ("", "")


def test_without_nibabel(tmp_path: Path, monkeypatch) -> None:
    save(tmp_path / "a.nii", noise(X, Y, Z))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(SegkitError, match=r"a\.nii: .*nibabel.* 'segkit-torch\[medical\]'\.$"):
        read_image(tmp_path / "a.nii", 0)
