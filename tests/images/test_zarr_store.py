"""Zarrs of every kind, read whole and by windows."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from images.conftest import check_windows, noise, same

from segkit.core.errors import SegkitError
from segkit.images.formats.zarr_store import is_zarr
from segkit.images.reading import count_pages, read_image, read_mask
from segkit.images.windows import open_windows

H, W = 83, 70


def store(path: Path, values: np.ndarray, **options) -> None:
    options = {"chunks": (*(1,) * (values.ndim - 2), 32, 16), **options}
    array = zarr.create_array(path, shape=values.shape, dtype=values.dtype, **options)
    array[:] = values


def ome(path: Path, values: np.ndarray, axes: str, version: str, **options) -> None:
    """A pyramid of two levels, in version 0.4 (zarr 2) or 0.5 (zarr 3)."""
    datasets = [{"path": "full"}, {"path": "half"}]
    described = {"axes": [{"name": name} for name in axes], "datasets": datasets}
    attributes = {"multiscales": [{**described, "version": version}]}
    group = zarr.create_group(
        path,
        zarr_format=2 if version == "0.4" else 3,
        attributes=attributes if version == "0.4" else {"ome": attributes},
    )
    for name, level in (("full", values), ("half", values[..., ::2, ::2])):
        chunks = (*(1,) * (values.ndim - 2), 16, 32)
        group.create_array(name, shape=level.shape, dtype=level.dtype, chunks=chunks)[:] = level


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int16", ">u2", "float16", "float32"])
def test_zarr_of_two_axes(tmp_path: Path, zarr_format: int, dtype: str) -> None:
    pixels = noise(H, W, dtype=dtype)
    store(tmp_path / "a", pixels, zarr_format=zarr_format)  # the content counts, not the suffix
    check_windows(tmp_path / "a")
    assert is_zarr(tmp_path / "a")
    assert count_pages(tmp_path / "a") == 1
    shown = (pixels * np.uint8(255) if dtype == "bool" else pixels)[..., None]
    np.testing.assert_array_equal(read_image(tmp_path / "a"), shown)
    if not dtype.startswith("float"):
        np.testing.assert_array_equal(read_mask(tmp_path / "a"), pixels)
        assert read_mask(tmp_path / "a").dtype.isnative


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("shape", "pages", "order"),
    [
        ((H, W, 3), 1, (0, 1, 2)),
        ((5, H, W), 1, (1, 2, 0)),
        ((4, H, W), 1, (1, 2, 0)),
        ((32, H, W), 1, (1, 2, 0)),
        ((33, H, W), 33, None),
        ((2, 3, H, W), 2, (1, 2, 0)),
        ((2, H, W, 4), 2, (0, 1, 2)),
        ((2, 3, 5, H, W), 6, (1, 2, 0)),
        ((2, 40, H, W), 80, None),
    ],
)
def test_zarr_axes_without_names(tmp_path, zarr_format, shape, pages, order) -> None:
    values, path = noise(*shape), tmp_path / "a.zarr"
    chunks = tuple(min(side, 16) for side in shape)
    store(path, values, zarr_format=zarr_format, chunks=chunks)
    assert count_pages(path) == pages
    flat = values.reshape(pages, *shape[-3 if order else -2 :])
    for page in (0, pages - 1):
        image = flat[page].transpose(order) if order else flat[page][..., None]
        same(read_image(path, page), np.ascontiguousarray(image))
        check_windows(path, page)


def test_zarr_axes_with_names(tmp_path: Path) -> None:
    values, path = noise(H, 40, W, 2), tmp_path / "a.zarr"
    store(path, values, chunks=(16, 16, 16, 1), dimension_names=["Y", "channel", "X", "time"])
    assert count_pages(path) == 2
    for page in range(2):
        same(read_image(path, page), np.ascontiguousarray(values[..., page].transpose(0, 2, 1)))
        check_windows(path, page)
    with pytest.raises(SegkitError, match="2 pages"):
        open_windows(path)
    with pytest.raises(SegkitError, match="no page 2"):
        read_mask(path, 2)
    store(tmp_path / "b.zarr", noise(3, H, W), attributes={"_ARRAY_DIMENSIONS": ["t", "y", "x"]})
    assert count_pages(tmp_path / "b.zarr") == 3


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("axes", "pages", "order"),
    [("yx", 1, "yx"), ("cyx", 1, "yxc"), ("tczyx", 4, "tzyxc"), ("zyx", 2, "zyx")],
)
def test_ome_zarr(tmp_path: Path, version: str, axes: str, pages: int, order: str) -> None:
    lengths = {"t": 2, "c": 3, "z": 2, "y": H, "x": W}
    values = noise(*(lengths[axis] for axis in axes), dtype="uint16")
    path = tmp_path / "a.ome.zarr"
    ome(path, values, axes, version)
    assert count_pages(path) == pages
    images = values.transpose([axes.index(axis) for axis in order]).reshape(pages, H, W, -1)
    for page in range(pages):
        same(read_image(path, page), np.ascontiguousarray(images[page]))
        check_windows(path, page)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_level_has_the_axes_of_its_image(tmp_path: Path, version: str) -> None:
    values = noise(3, H, W)  # three slices, which would pass for channels
    ome(tmp_path / "a.zarr", values, "zyx", version)
    for path in (f"{tmp_path}/a.zarr::half", tmp_path / "a.zarr/half"):
        assert count_pages(path) == 3
        same(read_image(path, 2), np.ascontiguousarray(values[2, ::2, ::2, None]))
    same(read_image(tmp_path / "a.zarr/full", 1), values[1, ..., None])


def test_shards_and_a_single_chunk(tmp_path: Path) -> None:
    store(tmp_path / "a.zarr", noise(H, W), chunks=(16, 16), shards=(48, 48))
    check_windows(tmp_path / "a.zarr")
    store(tmp_path / "b.zarr", noise(H, W), chunks=(H, W))
    assert open_windows(tmp_path / "b.zarr") is None
    same(read_mask(tmp_path / "b.zarr"), noise(H, W))


def chunk_files(path: Path) -> list[Path]:
    marks = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name not in marks)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_missing_chunk_is_the_fill_value(tmp_path: Path, zarr_format: int) -> None:
    path, pixels = tmp_path / "a.zarr", noise(H, W)
    store(path, pixels, zarr_format=zarr_format, fill_value=7)
    chunk_files(path)[0].unlink()
    pixels[:32, :16] = 7
    same(read_mask(path), pixels)
    check_windows(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("damage", ["emptied", "cut", "noise"])
def test_a_damaged_chunk_is_named(tmp_path: Path, zarr_format: int, damage: str) -> None:
    path = tmp_path / "a.zarr"
    store(path, noise(H, W), zarr_format=zarr_format)
    block = chunk_files(path)[0]
    data = block.read_bytes()
    block.write_bytes({"emptied": b"", "cut": data[:50], "noise": b"\xff" * len(data)}[damage])
    with pytest.raises(SegkitError, match=r"a\.zarr: cannot be read"):
        read_image(path)
    with open_windows(path) as image:
        image.read(40, 40, 10, 10)
        with pytest.raises(SegkitError, match=r"a\.zarr: cannot be read"):
            image.read(0, 0, 10, 10)


def test_groups_without_an_image(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "a.zarr")
    with pytest.raises(SegkitError, match=r"a\.zarr: .*no multiscales\. It is empty"):
        read_image(tmp_path / "a.zarr")
    root.create_array("masks", shape=(H, W), dtype="uint8", chunks=(16, 16))
    for use in (read_image, read_mask, count_pages, open_windows):
        with pytest.raises(SegkitError, match=r"no multiscales\. Give the path of .*masks'"):
            use(tmp_path / "a.zarr")
    check_windows(tmp_path / "a.zarr" / "masks")


def test_zarrs_that_are_not_images(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    store(tmp_path / "line", np.arange(5), chunks=(5,))
    store(tmp_path / "complex", np.zeros((H, W), np.complex64))
    zarr.create_array(tmp_path / "none", shape=(0, W), dtype="uint8", chunks=(1, W))
    ome(tmp_path / "gone", noise(H, W), "yx", "0.5")
    shutil.rmtree(tmp_path / "gone/full")
    ome(tmp_path / "axes", noise(3, H, W), "yx", "0.5")
    ome(tmp_path / "damaged", noise(H, W), "yx", "0.5")
    (tmp_path / "damaged/zarr.json").write_text("{")
    for name, reason in (
        ("folder", "it is a folder, but not a zarr"),
        ("line", "is not an image"),
        ("complex", "complex64 are not an image"),
        ("none", "it is empty"),
        ("gone", "array 'full' that does not exist"),
        ("axes", "axes y, x do not fit"),
        ("damaged", ""),
    ):
        assert is_zarr(tmp_path / name) == (name != "folder")
        for use in (read_image, read_mask, open_windows):
            with pytest.raises(SegkitError, match=f"{name}: cannot be read: .*{reason}"):
                use(tmp_path / name)
