"""Sets of images that are read by windows, and others in the same layout."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from segkit.data import file_reading
from segkit.data.sources.base import Sample
from segkit.data.sources.folder import FolderSource

RNG = np.random.default_rng(5)
H, W = 150, 130
COLOURS = RNG.integers(0, 256, (H, W, 3)).astype(np.uint8)
REGIONS = np.kron(RNG.integers(0, 3, (15, 13)), np.ones((10, 10))).astype(np.uint8)
TILED: dict[str, Any] = {"tile": (32, 32), "compression": "zlib"}


def put(root: Path, image: Any = COLOURS, mask: Any = REGIONS, name: str = "a") -> Path:
    """An image and a mask as tiled TIFFs that are read by windows."""
    for where, array in (("images", image), ("masks", mask)):
        (root / where).mkdir(parents=True, exist_ok=True)
        kind = "rgb" if array.shape[2:] == (3,) else "minisblack"
        options: Any = {"planarconfig": "contig"} if array.shape[2:] else {}
        path = root / where / f"{name}.tif"
        tifffile.imwrite(path, array, photometric=kind, **TILED, **options)
    return root


def in_blocks(root: Path, mode: Any = "multiclass", **options: Any) -> FolderSource:
    return FolderSource(mode, root, split="tiles", **{"tile_size": 40, **options})


def list_samples(source: FolderSource) -> list[Sample]:
    assert source.problems() == []
    return [sample for part in source.splits().values() for sample in part]


def files(root: Path, name: str = "a") -> tuple[Path, Path]:
    return root / "images" / f"{name}.tif", root / "masks" / f"{name}.tif"


def at(sample: Sample) -> tuple[slice, slice]:
    assert sample.window is not None
    top, left, height, width = sample.window
    return slice(top, top + height), slice(left, left + width)


def put_png(root: Path) -> FolderSource:
    for where, array in (("images", COLOURS), ("masks", REGIONS)):
        (root / where).mkdir()
        Image.fromarray(array).save(root / where / "a.png")
    return in_blocks(root)


def put_turned(root: Path) -> FolderSource:
    put_png(root)
    (root / "images" / "a.png").unlink()
    turned = Image.fromarray(np.ascontiguousarray(COLOURS[::-1, ::-1]))
    exif = turned.getexif()
    exif[0x0112] = 3
    turned.save(root / "images" / "a.png", exif=exif)
    return in_blocks(root)


def put_alpha(root: Path) -> FolderSource:
    alpha = np.where(REGIONS == 2, 0, 255).astype(np.uint8)
    put(root)
    image, _ = files(root)
    options = {**TILED, "photometric": "rgb", "planarconfig": "contig"}
    tifffile.imwrite(image, np.dstack([COLOURS, alpha]), extrasamples=["unassalpha"], **options)
    return in_blocks(root)


def put_nodata(root: Path) -> FolderSource:
    put(root)
    image = COLOURS[..., 0].astype(np.uint16) * 7
    image[30:90, 20:60] = 9
    tags = [(42113, "s", 0, "9", True)]
    tifffile.imwrite(files(root)[0], image, photometric="minisblack", extratags=tags, **TILED)
    return in_blocks(root)


def put_nan(root: Path) -> FolderSource:
    image = RNG.normal(3, 1, (H, W, 2)).astype(np.float32)
    image[40:80, :50] = np.nan
    image[100, 100, 0] = np.nan
    return in_blocks(put(root, image))


def put_palettes(root: Path) -> FolderSource:
    """Masks whose palettes differ, so that colours count."""
    for name, order in (("a", [0, 1, 2]), ("b", [2, 1, 0])):
        put(root, name=name)
        colours = np.zeros((3, 256), np.uint16)
        colours[:, :3] = np.array([[0, 0, 0], [255, 0, 0], [0, 200, 50]])[order].T * 257
        mask = np.array(order, np.uint8)[REGIONS]
        path = files(root, name)[1]
        tifffile.imwrite(path, mask, photometric="palette", colormap=colours, **TILED)
    colors = ((0, 0, 0), (255, 0, 0), (0, 200, 50))
    return in_blocks(root, class_colors=colors)


def put_colours(root: Path) -> FolderSource:
    colors = ((0, 0, 0), (255, 0, 0), (0, 200, 50))
    return in_blocks(
        put(root, mask=np.array(colors, np.uint8)[REGIONS]), class_colors=colors, channels=1
    )


def put_nearest(root: Path) -> FolderSource:
    colors = ((0, 0, 0), (255, 0, 0), (0, 200, 50))
    mask = np.clip(np.array(colors)[REGIONS] + RNG.integers(-20, 20, (H, W, 3)), 0, 255)
    put(root, mask=mask.astype(np.uint8))
    return in_blocks(root, class_colors=colors, mask_values="nearest")


def put_bits(root: Path) -> FolderSource:
    """1 bit, in which white is stored as 0."""
    put(root)
    for path, shift in zip(files(root), (0, 3), strict=True):
        bits = np.roll(REGIONS, shift) > 0
        tifffile.imwrite(path, bits, photometric="miniswhite", tile=(32, 32))
    return in_blocks(root, "binary")


def put_white(root: Path) -> FolderSource:
    put(root)
    options = {**TILED, "photometric": "miniswhite"}
    tifffile.imwrite(files(root)[0], COLOURS[..., 0], **options)
    return in_blocks(root)


def put_ids(root: Path) -> FolderSource:
    ids = 1000 * np.kron(np.arange(195).reshape(15, 13), np.ones((10, 10), int)).astype(np.int32)
    return in_blocks(put(root, mask=ids), "binary", instances=True)


def put_ids_nodata(root: Path) -> FolderSource:
    put_nodata(root)
    tifffile.imwrite(files(root)[1], REGIONS * np.uint16(300), photometric="minisblack", **TILED)
    return in_blocks(root, "binary", instances=True)


def put_layers(root: Path) -> FolderSource:
    layers = np.stack([REGIONS == 1, REGIONS == 2, REGIONS > 0, REGIONS < 9], 2).astype(np.uint8)
    return in_blocks(put(root, mask=layers), "multilabel")


def put_pages_of_layers(root: Path) -> FolderSource:
    put(root)
    with tifffile.TiffWriter(files(root)[1]) as out:
        for value in (1, 2):
            layer = np.equal(REGIONS, value).astype(np.uint8)
            out.write(layer, photometric="minisblack", metadata=None, **TILED)
    return in_blocks(root, "multilabel")


def put_same_channels(root: Path) -> FolderSource:
    """RGB masks whose channels are equal but for one pixel, which only the whole mask tells."""
    mask = np.dstack([REGIONS > 0] * 3).astype(np.uint8)
    mask[-1, -1] = 0, 1, 0
    return in_blocks(put(root, mask=mask), "multilabel")


def put_stack(root: Path) -> FolderSource:
    for where, array in (("images", COLOURS[..., 0]), ("masks", REGIONS)):
        (root / where).mkdir()
        with tifffile.TiffWriter(root / where / "a.tif") as out:
            for page in range(2):
                turned = np.roll(array, 5 * page)
                out.write(turned, photometric="minisblack", metadata=None, **TILED)
    return in_blocks(root)


def put_npy(root: Path) -> FolderSource:
    for where, array in (("images", COLOURS), ("masks", REGIONS.astype(np.int16))):
        (root / where).mkdir()
        np.save(root / where / "a.npy", array)
    return in_blocks(root)


def put_zarr(root: Path) -> FolderSource:
    for where, array in (("images", COLOURS), ("masks", REGIONS)):
        (root / where).mkdir()
        chunks = (40, 40, *array.shape[2:])
        zarr.create_array(root / where / "a.zarr", data=array, chunks=chunks)
    return in_blocks(root)


def put_hdf5(root: Path) -> FolderSource:
    h5py = pytest.importorskip("h5py", reason="the extra hdf5 is not installed")
    for where, array in (("images", COLOURS), ("masks", REGIONS)):
        (root / where).mkdir()
        with h5py.File(root / where / "a.h5", "w") as file:
            chunks = (40, 40, *array.shape[2:])
            file.create_dataset("raw", data=array, chunks=chunks, compression="gzip")
    return in_blocks(root)


def put_slide(root: Path) -> FolderSource:
    put(root)
    tifffile.imwrite(root / "images" / "a.svs", COLOURS, photometric="rgb", **TILED)
    (root / "images" / "a.tif").unlink()
    return in_blocks(root)


BY_WINDOWS: list[Callable[[Path], FolderSource]] = [
    *(put_alpha, put_nodata, put_nan, put_palettes, put_colours, put_nearest, put_bits, put_white),
    *(
        put_ids,
        put_ids_nodata,
        put_layers,
        put_pages_of_layers,
        put_stack,
        put_npy,
        put_zarr,
        put_hdf5,
        put_slide,
    ),
]
WHOLE: list[Callable[[Path], FolderSource]] = [put_png, put_turned, put_same_channels]


def same(one: Any, two: Any) -> None:
    """Equal masked arrays, or equal arrays of the same type."""
    assert type(one) is type(two) or not np.ma.is_masked(two)
    if np.ma.is_masked(two):
        np.testing.assert_array_equal(np.ma.getmaskarray(one), np.ma.getmaskarray(two))
    np.testing.assert_array_equal(np.ma.getdata(one), np.ma.getdata(two))


def put_again(source: FolderSource) -> FolderSource:
    """A copy that has measured nothing yet."""
    copied: FolderSource = pickle.loads(pickle.dumps(source))
    copied._files._large.clear()
    return copied


@pytest.fixture
def large(monkeypatch):
    """Images of any size are large."""
    monkeypatch.setattr(file_reading, "LARGE", 0)


@pytest.fixture
def bands(monkeypatch):
    """Bands of a few rows."""
    monkeypatch.setattr("segkit.data.layout.blocks.BAND_BYTES", 1)
    monkeypatch.setattr("segkit.data.layout.blocks.TILE", 16)
