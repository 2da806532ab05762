"""HDF5 files of every kind, against the arrays that h5py wrote."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from images.conftest import check_windows, cut, noise, pick_windows, same

from segkit.core.errors import SegkitError
from segkit.images.formats.base import find_format, is_image
from segkit.images.reading import ImageReader, count_pages, read_extent, read_image, read_mask
from segkit.images.windows import open_windows

h5py = pytest.importorskip("h5py", reason="the extra hdf5 is not installed")

H, W = 83, 70


def store(path: Path, values: np.ndarray, name: str = "deep/raw", **options):
    """Write one dataset; the file is closed by the with statement."""
    file = h5py.File(path, "w")
    options = {"chunks": (*(1,) * (values.ndim - 2), 32, 16), **options}
    file.create_dataset(name, data=values, **options)
    return file


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", ">u2", "int16", "uint64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "shuffle": True}])
def test_two_axes(tmp_path: Path, dtype: str, options: dict) -> None:
    pixels, path = noise(H, W, dtype=dtype), tmp_path / "Zelle größe 細胞.h5"
    store(path, pixels, **options).close()
    assert is_image(path)
    check_windows(path)
    shown = (pixels * np.uint8(255) if dtype == "bool" else pixels)[..., None]
    np.testing.assert_array_equal(read_image(path), shown)
    np.testing.assert_array_equal(read_image(f"{path}::deep/raw"), shown)
    np.testing.assert_array_equal(read_image(f"{path}::/deep/raw"), shown)
    np.testing.assert_array_equal(read_mask(path), pixels)
    assert read_extent(path) == (H, W, 1)


def test_enums(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        kind = h5py.enum_dtype({"sky": 0, "tree": 3}, basetype="u1")
        file.create_dataset("labels", data=noise(H, W) % 4, dtype=kind)
    same(read_mask(tmp_path / "a.h5"), noise(H, W) % 4)


def test_contiguous_and_magic_behind_other_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    store(path, noise(H, W), chunks=None).close()
    check_windows(path)
    with h5py.File(tmp_path / "b.h5", "w", userblock_size=2048) as file:
        file["raw"] = noise(H, W)
    assert not (tmp_path / "b.h5").read_bytes().startswith(b"\x89HDF")
    same(read_mask(tmp_path / "b.h5"), noise(H, W))
    assert find_format((tmp_path / "a.hdf5").read_bytes()) is None  # uploads are none


def label(dataset, names: list[str]) -> None:
    for axis, name in zip(dataset.dims, names, strict=True):
        axis.label = name


def test_axes(tmp_path: Path) -> None:
    """By labels, by ilastik's tags, by netCDF's scales, and without any."""
    values = noise(H, 40, W, 2)
    wanted = [np.ascontiguousarray(values[..., page].transpose(0, 2, 1)) for page in range(2)]
    with store(tmp_path / "labels.h5", values, chunks=None) as file:
        label(file["deep/raw"], ["Y", "Channel", "X", "time"])
    with store(tmp_path / "tags.h5", values, chunks=None) as file:
        tags = {"axes": [{"key": key, "typeFlags": 2} for key in "ycxt"]}
        file["deep/raw"].attrs["axistags"] = json.dumps(tags)
    with store(tmp_path / "scales.nc4", values, "raw", chunks=None) as file:
        for axis, name in enumerate(("lat", "band", "lon", "t")):
            file[name] = np.arange(values.shape[axis])
            file[name].make_scale(name)
            file["raw"].dims[axis].attach_scale(file[name])
    for name in ("labels.h5", "tags.h5", "scales.nc4"):
        assert count_pages(tmp_path / name) == 2
        for page in range(2):
            same(read_image(tmp_path / name, page), wanted[page])
            check_windows(tmp_path / name, page)
    with store(tmp_path / "some.h5", noise(3, 2, H, W)) as file:
        label(file["deep/raw"], ["", "", "y", "x"])
    assert count_pages(tmp_path / "some.h5") == 6
    with store(tmp_path / "none.h5", noise(3, 2, H, W)) as file:
        file["deep/raw"].attrs["axistags"] = "{"
    assert count_pages(tmp_path / "none.h5") == 3
    with store(tmp_path / "twice.h5", noise(3, H, W)) as file:
        label(file["deep/raw"], ["y", "y", "x"])
    with pytest.raises(SegkitError, match=r"twice\.h5: cannot be read: the axes y, y, x do not"):
        read_image(tmp_path / "twice.h5")


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([2.0, 0.5, 0.25], (0.5, 0.25)),
        ([1, 3], (1.0, 3.0)),
        ([0.0, 1.0], None),
        ([np.nan, 1.0], None),
        ([1.0], None),
        ("1 2 3", None),
    ],
)
def test_size_of_a_pixel(tmp_path: Path, sizes, wanted) -> None:
    with store(tmp_path / "a.h5", noise(5, H, W)) as file:
        file["deep/raw"].attrs["element_size_um"] = sizes
    with ImageReader(tmp_path / "a.h5") as reader:
        place = reader.read_place()
    assert (place and place.pixel_size) == wanted


def test_packed_numbers_of_netcdf(tmp_path: Path) -> None:
    """A fill value is no data, and values are the numbers times a scale."""
    numbers, path = noise(H, W, dtype="int16"), tmp_path / "a.nc4"
    numbers[:9, :20] = -9999
    with store(path, numbers) as file:
        file["deep/raw"].attrs["_FillValue"] = np.int16([-9999])
    image = read_image(path)
    np.testing.assert_array_equal(np.ma.getmaskarray(image)[..., 0], numbers == -9999)
    assert (image.compressed() == numbers[numbers != -9999]).all()
    check_windows(path)
    with store(path, numbers) as file:
        file["deep/raw"].attrs.update(
            missing_value=-9999.0, scale_factor=np.float32(0.5), add_offset=[100]
        )
    image = read_image(path)
    np.testing.assert_array_equal(np.ma.getmaskarray(image)[..., 0], numbers == -9999)
    assert image.dtype == np.float32
    assert (image.compressed() == numbers[numbers != -9999] * 0.5 + 100).all()
    check_windows(path)
    with store(path, numbers) as file:
        file["deep/raw"].attrs.update(_FillValue="none", scale_factor=np.float32([]))
    np.testing.assert_array_equal(read_image(path)[..., 0], numbers)


def test_minc_is_refused() -> None:
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    path = Path(nibabel.__file__).parent / "tests/data/minc2_1_scale.mnc"
    with pytest.raises(SegkitError, match="it is MINC: convert it to NIfTI"):
        read_image(path)


def test_several_datasets(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = noise(H, W, 3)
        file["masks/all cells"] = noise(H, W)
        file["line"], file["text"], file["zero"] = np.arange(5), "hello", 3
        file["empty"] = h5py.Empty("f4")
        file["records"] = np.zeros((H, W), [("a", "u1")])
        file["link"] = h5py.SoftLink("/masks/all cells")
        file["masks/far link"] = h5py.SoftLink("../link")
        file["masks/near link"] = h5py.SoftLink("all cells")
        file["circle"] = h5py.SoftLink("/circle")
        file["broken"] = h5py.SoftLink("/nowhere")
        file["complex"] = np.zeros((H, W), np.complex64)
    listed = r"'masks/all cells' \(83, 70\), 'raw' \(83, 70, 3\)"
    with pytest.raises(SegkitError, match=rf"a\.h5: .*FILE::NAME, from {listed}\.$"):
        read_image(path)
    same(read_image(f"{path}::raw"), noise(H, W, 3))
    for name in ("masks/all cells", "link", "/masks/near link"):
        same(read_mask(f"{path}::{name}"), noise(H, W))
    for name, reason in (
        ("maks/all cells", rf"no dataset .* Did you mean 'masks/all cells'\? It has {listed}"),
        ("masks", rf"is a group; it has {listed}"),
        ("raw/deeper", "no dataset"),
        ("broken", "no dataset"),
        ("circle", "do not end"),
        ("line", "not an image"),
        ("text", ""),
        ("zero", "not an image"),
        ("empty", "'/empty' is empty"),
        ("records", "are not an image"),
        ("complex", "complex64 are not an image"),
    ):
        with pytest.raises(SegkitError, match=rf"a\.h5::{name}: .*{reason}"):
            read_image(f"{path}::{name}")
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file["line"] = np.arange(5)
    with pytest.raises(SegkitError, match=r"none\.h5: it holds no dataset"):
        read_image(tmp_path / "none.h5")


def test_other_files_are_not_opened(tmp_path: Path) -> None:
    secret, path = tmp_path / "secret.h5", tmp_path / "a.h5"
    store(secret, noise(H, W), "raw", chunks=None).close()
    layout = h5py.VirtualLayout((H, W), "u1")
    layout[:] = h5py.VirtualSource(secret, "raw", (H, W))
    with h5py.File(path, "w") as file:
        file["away"] = h5py.ExternalLink(secret, "raw")
        file["group/all"] = h5py.ExternalLink(secret, "/")
        file["detour"] = h5py.SoftLink("/group/all/raw")
        file.create_virtual_dataset("virtual", layout)
        external = [(str(secret), 0, H * W)]
        file.create_dataset("external", (H, W), "u1", external=external)
    secret.rename(tmp_path / "elsewhere.h5")
    (tmp_path / "secret.h5").mkdir()  # opening it is another error
    for name in ("away", "group/all/raw", "detour"):
        with pytest.raises(SegkitError, match=rf"{name}: .* a link to another file"):
            read_image(f"{path}::{name}")
    for name in ("virtual", "external"):
        with pytest.raises(SegkitError, match=rf"a\.h5::{name}: .*lie in other files"):
            read_image(f"{path}::{name}")
    with pytest.raises(SegkitError, match=r"holds several datasets: .*'external' .*'virtual'"):
        read_image(path)


def test_packed_with_what_h5py_lacks(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.h5"
    store(path, noise(H, W), compression="gzip").close()
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(SegkitError, match=r"a\.h5: .* packed with deflate.*pip install hdf5plugin"):
        read_image(path)


def test_a_file_that_is_open_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with store(path, noise(H, W)) as file:
        file.flush()
        code = f"from segkit.images.reading import read_mask; print(read_mask({str(path)!r}).sum())"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == str(noise(H, W).sum()), run.stderr
    with h5py.File(path):
        same(read_mask(path), noise(H, W))


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    path, values = tmp_path / "a.h5", noise(40, H, W)
    store(path, values, compression="gzip").close()
    with ImageReader(path) as reader, ThreadPoolExecutor(8) as pool:
        for page, mask in enumerate(pool.map(reader.read_mask, range(40))):
            same(mask, values[page])
    todo = pick_windows(H, W, 100)
    with open_windows(path, 3) as image, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda window: image.read(*window), todo)
        for window, got in zip(todo, found, strict=True):
            same(got, cut(values[3][..., None], *window))


def test_damaged_files(tmp_path: Path) -> None:
    store(tmp_path / "cut.h5", noise(H, W)).close()
    data = (tmp_path / "cut.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: len(data) // 2])
    (tmp_path / "magic.h5").write_bytes(data[:8])
    (tmp_path / "noise.h5").write_bytes(data[:8] + b"\xaa" * 3000)
    (tmp_path / "none.h5").write_bytes(b"")
    (tmp_path / "other.h5").write_bytes(b"hello" * 1000)
    for path in tmp_path.iterdir():
        for use in (read_image, read_mask, read_extent, open_windows):
            with pytest.raises(SegkitError, match=f"{path.name}: cannot be read: "):
                use(path)


def test_a_damaged_chunk_spoils_only_its_windows(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with store(path, noise(H, W), compression="gzip") as file:
        chunk = file["deep/raw"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(data)
    with open_windows(path) as image:
        image.read(40, 40, 10, 10)
        with pytest.raises(SegkitError, match=r"a\.h5: cannot be read"):
            image.read(0, 0, 10, 10)


def test_huge_sizes_cost_nothing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", (10**9, 10**9), "f8", chunks=(512, 512))
    assert read_extent(tmp_path / "a.h5") == (10**9, 10**9, 1)
    with open_windows(tmp_path / "a.h5") as image:
        assert not image.read(10**8, 10**8, 5, 5).any()


def test_without_h5py(tmp_path: Path, monkeypatch) -> None:
    store(tmp_path / "a.h5", noise(H, W)).close()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SegkitError, match=r"a\.h5: .*h5py.* pip install 'segkit-torch\[hdf5\]'\.$"):
        read_image(tmp_path / "a.h5")
