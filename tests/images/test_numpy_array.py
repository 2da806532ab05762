"""Files of NumPy, against the arrays that they were made from."""

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from images.conftest import check_windows, cut, noise, pick_windows, same

from segkit.core.errors import SegkitError
from segkit.images.formats.base import find_format, is_image
from segkit.images.reading import ImageReader, count_pages, read_extent, read_image, read_mask
from segkit.images.windows import open_windows

H, W = 83, 70


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">u2", "int16", "int64", "float16", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_two_axes(tmp_path: Path, dtype: str, order: str) -> None:
    pixels, path = noise(H, W, dtype=dtype), tmp_path / "Zelle größe 細胞.npy"
    np.save(path, np.asarray(pixels, order=order))
    assert is_image(path)
    image = check_windows(path)
    assert image.shape == (H, W, 1)
    shown = (pixels * np.uint8(255) if dtype == "bool" else pixels)[..., None]
    np.testing.assert_array_equal(read_image(path), shown)
    np.testing.assert_array_equal(read_mask(path), pixels)
    assert read_extent(path) == (H, W, 1)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize(
    ("shape", "pages", "order"),
    [((H, W, 3), 1, (0, 1, 2)), ((5, H, W), 1, (1, 2, 0)), ((40, H, W), 40, None)],
)
def test_axes_and_versions(tmp_path: Path, version, shape, pages, order) -> None:
    values, path = noise(*shape, dtype="uint16"), tmp_path / "no suffix"
    with path.open("wb") as file:
        np.lib.format.write_array(file, values, version)
    assert count_pages(path) == pages
    for page in {0, pages - 1}:
        image = values.transpose(order) if order else values[page][..., None]
        same(read_image(path, page), np.ascontiguousarray(image))
        check_windows(path, page)


def test_windows_of_a_npy_read_little(tmp_path: Path) -> None:
    """A file of a terabyte, most of which is not on the disk."""
    path, side = tmp_path / "a.npy", 10**6
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (side, side)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + side * side)
        file.seek(-3, 2)
        file.write(b"\1\2\3")
    assert read_extent(path) == (side, side, 1)
    with open_windows(path) as image:
        assert image.read(side - 1, side - 4, 1, 4).ravel().tolist() == [0, 1, 2, 3]


def test_npz(tmp_path: Path) -> None:
    one, many = tmp_path / "one.npz", tmp_path / "many arrays.npz"
    np.savez_compressed(one, noise(H, W, dtype="uint16"))
    same(read_mask(one), noise(H, W, dtype="uint16"))
    same(read_mask(f"{one}::arr_0"), noise(H, W, dtype="uint16"))
    assert open_windows(one) is None
    np.savez(many, **{"image": noise(H, W, 3), "deep/mask": noise(H, W), "text": np.array("a")})
    same(read_image(f"{many}::image"), noise(H, W, 3))
    same(read_mask(f"{many}::deep/mask"), noise(H, W))
    assert read_extent(f"{many}::image") == (H, W, 3)
    with pytest.raises(SegkitError, match=r"many arrays\.npz: .* 'image', 'deep/mask', 'text'"):
        read_image(many)
    with pytest.raises(SegkitError, match="no array 'masks'; it has 'image'"):
        read_image(f"{many}::masks")
    with pytest.raises(SegkitError, match=r"text: cannot be read: .*not an image"):
        read_image(f"{many}::text")
    np.savez(tmp_path / "none.npz")
    with pytest.raises(SegkitError, match=r"none\.npz: it holds no arrays"):
        read_image(tmp_path / "none.npz")


def test_other_zips_are_not_images(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
        archive.writestr("b.npy", "hello")
    (tmp_path / "none.zip").write_bytes(b"PK\5\6" + bytes(18))
    for name in ("a.zip", "none.zip"):
        assert find_format(tmp_path / name) is None
    with pytest.raises(SegkitError, match=r"a\.zip: cannot be read: it is not an image"):
        read_image(tmp_path / "a.zip")


def test_uploads_are_not_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(H, W))
    assert find_format((tmp_path / "a.npy").read_bytes()) is None


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[{}]], object), "Python objects"),
        (np.zeros((3, 3), [("a", "u1")]), "records"),
        (np.zeros((3, 3), [("größe", "u1")]), "records"),
        (np.zeros((3, 3), [("細", "u1")]), "records"),
        (np.zeros((3, 3), np.complex64), "complex64 are not an image"),
        (np.zeros(3), "not an image"),
        (np.zeros((0, 3)), "empty"),
        (np.array("text"), "not an image"),
        (np.array([["text"]]), "not an image"),
    ],
)
@pytest.mark.filterwarnings("ignore:Stored array in format:UserWarning")  # numpy of text
def test_arrays_that_are_not_images(tmp_path: Path, suffix, values, reason) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, values, allow_pickle=True)
    else:
        np.savez(path, values)
    for use in (read_image, read_mask, read_extent, open_windows, count_pages):
        with pytest.raises(SegkitError, match=rf"a\{suffix}: cannot be read: .*{reason}"):
            use(path)


def declare(path: Path, shape: tuple[int, ...]) -> None:
    """A .npy of a few bytes that claims to be large."""
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        file.write(bytes(50))


def test_damaged_files(tmp_path: Path) -> None:
    np.save(tmp_path / "cut.npy", noise(H, W))
    data = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[:-1])
    (tmp_path / "head.npy").write_bytes(data[:60])
    (tmp_path / "text.npy").write_bytes(data[:10] + b"x" * 200)
    (tmp_path / "version.npy").write_bytes(data[:6] + b"\x09" + data[7:])
    (tmp_path / "magic.npy").write_bytes(b"\x93NUMBY" + data[6:])
    (tmp_path / "none.npy").write_bytes(b"")
    declare(tmp_path / "huge.npy", (10**7, 10**7))
    declare(tmp_path / "negative.npy", (-5, -5))
    np.savez_compressed(tmp_path / "cut.npz", noise(H, W))
    data = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:-40])
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.write(tmp_path / "huge.npy", "a.npy")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 10
    for path in files:
        for use in (read_image, read_mask, read_extent, open_windows):
            with pytest.raises(SegkitError, match=f"{path.name}: cannot be read: "):
                use(path)
    with pytest.raises(SegkitError, match="cut short"):
        read_extent(tmp_path / "huge.npy")


def test_damaged_values_of_a_npz_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, noise(H, W))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert read_extent(path) == (H, W, 1)
    with pytest.raises(SegkitError, match=r"a\.npz: cannot be read: it is damaged.*Bad CRC"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_threads_may_read_at_once(tmp_path: Path, suffix: str) -> None:
    values, path = noise(40, H, W), tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, values)
    else:
        np.savez(path, values)
    with ImageReader(path) as reader, ThreadPoolExecutor(8) as pool:
        for page, mask in enumerate(pool.map(reader.read_mask, range(40))):
            same(mask, values[page])
    if suffix == ".npy":
        todo = pick_windows(H, W, 100)
        with open_windows(path, 3) as image, ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda window: image.read(*window), todo)
            for window, got in zip(todo, found, strict=True):
                same(got, cut(values[3][..., None], *window))
