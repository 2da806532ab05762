"""GDAL's masks beside images, written and read by rasterio."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from images.conftest import noise

from segkit.core.errors import SegkitError
from segkit.data.checks.summary import check
from segkit.data.sources.folder import FolderSource
from segkit.images.reading import read_image
from segkit.images.windows import open_windows
from segkit.images.writing import write_image

rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")

H, W = 96, 80
SHOWN = np.ones((H, W), bool)
SHOWN[10:20, 50:] = False


def write(path: Path, bands: np.ndarray, shown: np.ndarray, **options) -> Path:
    """Write bands (C, H, W) in the format of the ending, with a mask beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tiff = path if path.suffix == ".tif" else path.with_suffix(".copy.tif")
    profile = {"driver": "GTiff", "count": len(bands), "height": H, "width": W, **options}
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"):
        warnings.simplefilter("ignore")  # it is not georeferenced
        with rasterio.open(tiff, "w", dtype=bands.dtype, **profile) as file:
            file.write(bands)
            file.write_mask(shown)
        if tiff != path:
            from rasterio.shutil import copy, delete

            copy(tiff, path, driver={".png": "PNG", ".jp2": "JP2OpenJPEG"}[path.suffix])
            delete(tiff)
    assert path.with_name(f"{path.name}.msk").exists()
    return path


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jp2"])
@pytest.mark.parametrize("count", [1, 3])
def test_what_the_mask_hides_has_no_data(tmp_path: Path, name: str, count: int) -> None:
    path = write(tmp_path / name, noise(count, H, W), SHOWN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            wanted = file.read(masked=True)
    image = read_image(path)
    np.testing.assert_array_equal(np.ma.getdata(image), wanted.data.transpose(1, 2, 0))
    np.testing.assert_array_equal(np.ma.getmaskarray(image), wanted.mask.transpose(1, 2, 0))
    np.testing.assert_array_equal(image.mask[..., 0], ~SHOWN)


def test_windows_lack_the_same_pixels(tmp_path: Path) -> None:
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    path = write(tmp_path / "a.tif", noise(3, H, W), SHOWN, **blocks)
    with open_windows(path) as image:
        assert image.may_lack_data
        part = image.read(5, 40, 20, 30)
    np.testing.assert_array_equal(np.ma.getmaskarray(part)[..., 0], ~SHOWN[5:25, 40:70])


@pytest.mark.parametrize("ending", [".tif", ".png"])
def test_hidden_labels_are_not_learned_and_hidden_pixels_neither(tmp_path, ending) -> None:
    labels = np.tile(np.uint8([0, 1]), (H, W // 2))
    for number in range(4):
        shown = SHOWN if number == 1 else np.ones_like(SHOWN)
        write(tmp_path / f"images/{number}{ending}", noise(1, H, W) + np.uint8(number), shown)
        write(tmp_path / f"masks/{number}{ending}", labels[None], SHOWN)
    source = FolderSource("binary", root=tmp_path, split="blocks")
    summary = check(source, "binary")
    for part in summary.splits.values():
        for sample in part:
            found = summary.coding.encode(source.read_mask(sample))
            np.testing.assert_array_equal(found, np.where(SHOWN, labels, 255))
    assert summary.with_empty == {f"images/1{ending}"}
    notes = "; ".join(summary.notes)
    assert "no label is there" in notes
    assert "not used" not in notes


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(1, H, W), SHOWN)
    beside = tmp_path / "a.tif.msk"
    content = beside.read_bytes()
    beside.write_bytes(content[:60])
    with pytest.raises(SegkitError, match=r"a\.tif: its mask a\.tif\.msk cannot be read"):
        read_image(path)
    beside.write_bytes(b"not by GDAL")
    assert not np.ma.isMaskedArray(read_image(path))
    beside.write_bytes(content)
    small = tmp_path / "b.tif"
    write_image(small, noise(7, 9, 1))
    small.with_name("b.tif.msk").write_bytes(content)
    with pytest.raises(SegkitError, match=r"b\.tif\.msk has 96 x 80 pixels .*the image 7 x 9"):
        read_image(small)
