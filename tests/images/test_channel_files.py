"""Images whose channels lie in several files, compared with the libraries that wrote these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from images.conftest import check_windows, noise, same
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.images.paths import (
    MARK,
    drop_channels,
    join_channels,
    name_channels,
    split_array,
    split_channels,
    strip_ending,
)
from segkit.images.reading import ImageReader, read_extent, read_image
from segkit.images.windows import open_windows
from segkit.images.writing import write_image


@pytest.mark.parametrize(
    ("path", "parts", "stem"),
    [
        ("d/case_{0000,0001}.nii.gz", ["d/case_0000.nii.gz", "d/case_0001.nii.gz"], "d/case"),
        ("{red/red,nir/nir}_1.tif", ["red/red_1.tif", "nir/nir_1.tif"], "1"),
        ("cell1{w1,w2,w3}.tif", ["cell1w1.tif", "cell1w2.tif", "cell1w3.tif"], "cell1"),
        ("x_{r,g}_raw.tif", ["x_r_raw.tif", "x_g_raw.tif"], "x_raw"),
        ("T32.1/{B02,B03}.jp2", ["T32.1/B02.jp2", "T32.1/B03.jp2"], "T32.1"),
        ("{r,g}.tif", ["r.tif", "g.tif"], "r-g"),
        ("a.h5::{x,y}", ["a.h5::x", "a.h5::y"], "a"),
        ("a_{1,2}.h5::v/raw", ["a_1.h5::v/raw", "a_2.h5::v/raw"], "a_v-raw"),
        ("a{b}.tif", ["a{b}.tif"], "a{b}"),
        ("a,b.tif", ["a,b.tif"], "a,b"),
        ("a_{red,nir}/{red,nir}_1.tif", ["a_red/red_1.tif", "a_nir/nir_1.tif"], "a/1"),
    ],
)
def test_how_they_are_written(path: str, parts: list[str], stem: str) -> None:
    assert list(map(str, split_channels(path))) == parts
    assert strip_ending(Path(path)).as_posix() == stem
    if len(parts) > 1:
        assert split_array(path) == (Path(path), None)


def test_how_they_are_joined() -> None:
    place = f"train_{MARK}/{MARK}_1.tif"
    path = join_channels(place, ["red", "nir"])
    assert path == "train_{red,nir}/{red,nir}_1.tif"
    assert name_channels(path) == ("red", "nir")
    assert drop_channels(f"train_{MARK}/{MARK}_1") == "train/1"
    assert name_channels("a.tif") == ()


def test_a_file_with_braces_in_its_name_is_itself(tmp_path: Path) -> None:
    image = noise(5, 6)
    write_image(tmp_path / "a_{0,1}.png", image[..., None])
    same(read_image(tmp_path / "a_{0,1}.png"), image[..., None])
    assert strip_ending(tmp_path / "a_{0,1}.png").name == "a_{0,1}"
    folder = tmp_path / "{a,b,c}"
    folder.mkdir()
    assert split_channels(folder / "x_{0,1}.png") == [folder / "x_0.png", folder / "x_1.png"]
    assert strip_ending(folder / "x_{0,1}.png") == folder / "x"
    with pytest.raises(SegkitError, match="its braces list 2 and 3 channels"):
        split_channels("{a,b}/x_{a,b,c}.png")


def test_volumes(tmp_path: Path) -> None:
    """The pages are slices, and lie where those of the first file do."""
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    affine = np.diag([-2, -2, 3, 1])  # rows and columns as those of the array
    values = noise(2, 7, 6, 3, dtype="int16") - 20
    for number, volume in enumerate(values):
        nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / f"a_000{number}.nii.gz")
    with ImageReader(tmp_path / "a_{0001,0000}.nii.gz") as reader:
        assert len(reader) == 3
        for page in range(3):
            stored = [
                np.asarray(nibabel.load(tmp_path / f"a_000{n}.nii.gz").dataobj) for n in (1, 0)
            ]
            wanted = np.stack([volume[:, :, page].T for volume in stored], axis=2)
            same(reader.read_image(page), wanted.astype(np.float32))
        assert reader.read_extent(2) == (6, 7, 2)
        with ImageReader(tmp_path / "a_0000.nii.gz") as first:
            assert reader.read_place(1) == first.read_place(1)
            assert reader.directions == first.directions == "LPS"
    coronal = str(tmp_path / "a_{0000,0001}.nii.gz::coronal")
    one = read_image(str(tmp_path / "a_0001.nii.gz::coronal"), 2)
    same(np.ascontiguousarray(read_image(coronal, 2)[..., 1:]), one)


def write_band(path: Path, band: np.ndarray, left: float = 0, **options) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    transform = rasterio.Affine(10, 0, 500_000 + left, 0, -10, 5_600_000)
    profile = {"driver": "GTiff", "count": 1, "dtype": band.dtype, "crs": "EPSG:32633"}
    profile |= {"height": band.shape[0], "width": band.shape[1], "transform": transform}
    with rasterio.open(path, "w", **(profile | options)) as file:
        file.write(band, 1)


def test_bands_of_satellites(tmp_path: Path) -> None:
    """A pixel without data in one band has none; the place is theirs; windows equal the whole."""
    bands = noise(2, 64, 80, dtype="uint16") + 1
    bands[0, :3, :4] = bands[1, 5, 6] = 0
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16, "nodata": 0}
    for name, band in zip(("B02", "B8A"), bands, strict=True):
        write_band(tmp_path / f"{name}.tif", band, **blocks)
    path = tmp_path / "{B02,B8A}.tif"
    image = read_image(path)
    np.testing.assert_array_equal(image.data, np.moveaxis(bands, 0, 2))
    empty = np.zeros((64, 80), bool)
    empty[:3, :4] = empty[5, 6] = True
    np.testing.assert_array_equal(image.mask, np.stack([empty, empty], axis=2))
    assert check_windows(path).may_lack_data
    with ImageReader(path) as reader:
        place = reader.read_place()
    assert place is not None
    assert (place.crs, place.transform) == ("EPSG:32633", (10, 0, 500_000, 0, -10, 5_600_000))


def test_what_a_viewer_shows_of_each_file_is_stacked(tmp_path: Path) -> None:
    """Bits become black and white, palettes colours, and transparent pixels are left out."""
    bits, grey = noise(4, 5, dtype="bool"), noise(4, 5)
    Image.fromarray(bits).save(tmp_path / "a_bits.png")
    alpha = np.full((4, 5), 255, np.uint8)
    alpha[0, 0] = 0
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(tmp_path / "a_grey.png")
    palette = Image.fromarray(grey % 2, "P")
    palette.putpalette([1, 2, 3, 40, 50, 60])
    palette.save(tmp_path / "a_map.png")
    image = read_image(tmp_path / "a_{bits,grey,map}.png")
    colours = np.asarray(Image.open(tmp_path / "a_map.png").convert("RGB"))
    wanted = np.concatenate([bits[..., None] * 255, grey[..., None], colours], axis=2)
    np.testing.assert_array_equal(image.data, wanted)
    assert image.mask.all(axis=2).sum() == image.mask.any(axis=2).sum() == 1
    assert read_extent(tmp_path / "a_{bits,map}.png").channels >= 2


def test_types_become_the_common_one_and_nan_stays_in_its_channel(tmp_path: Path) -> None:
    small, wide, real = noise(4, 5), noise(4, 5, dtype="uint16"), noise(4, 5, dtype="float32")
    real[1, 2] = np.nan
    for name, values in (("s", small), ("w", wide), ("r", real)):
        tifffile.imwrite(tmp_path / f"{name}.tif", values)
    same(read_image(tmp_path / "{s,w}.tif"), np.stack([small, wide], axis=2).astype(np.uint16))
    image = read_image(tmp_path / "{w,r}.tif")
    assert image.dtype == np.float32
    assert np.argwhere(image.mask).tolist() == [[1, 2, 1]]
    same(image.data[..., 0].copy(), wide.astype(np.float32))


def test_arrays_of_a_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra hdf5 is not installed")
    first, second = noise(4, 5), noise(5, 4).T
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw/x"], file["raw/y"] = first, second
    same(read_image(f"{tmp_path}/a.h5::raw/{{y,x}}"), np.stack([second, first], axis=2))


def test_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "ab":
        Image.fromarray(noise(8, 16)).save(tmp_path / f"{name}.png", exif=exif)
    image = read_image(tmp_path / "{a,b}.png")
    assert image.shape == (16, 8, 2)
    with ImageReader(tmp_path / "{a,b}.png") as reader:
        assert reader.read_size() == (16, 8)
    same(np.ascontiguousarray(image[..., :1]), read_image(tmp_path / "a.png"))
    Image.fromarray(noise(8, 16)).save(tmp_path / "c.png")
    with pytest.raises(SegkitError, match=r"the orientation of .*a\.png is 6, that of .*c\.png 1"):
        read_image(tmp_path / "{a,c}.png")


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    write_band(tmp_path / "a.tif", noise(8, 9))
    write_band(tmp_path / "b.tif", noise(8, 9), left=3)
    write_band(tmp_path / "c.tif", noise(8, 9), left=6)
    write_band(tmp_path / "d.tif", noise(8, 9), crs="EPSG:32632")
    tifffile.imwrite(tmp_path / "e.tif", noise(8, 10))
    tifffile.imwrite(tmp_path / "f.tif", noise(2, 8, 9), photometric="minisblack", metadata=None)
    (tmp_path / "g.tif").write_bytes(b"no image")
    assert read_image(tmp_path / "{a,b}.tif").shape == (8, 9, 2)  # within rounding
    for other, reason in {
        "c": r"a\.tif and .*c\.tif lie up to 0\.6 pixels apart",
        "d": r"a\.tif and .*d\.tif lie in other coordinate systems",
        "e": r"the size of .*a\.tif is 8 x 9, that of .*e\.tif 8 x 10",
        "f": r"the number of pages of .*a\.tif is 1, that of .*f\.tif 2",
        "g": r"g\.tif: cannot be read: it is not an image",
        "h": r"h\.tif: cannot be read: No such file",
    }.items():
        path = tmp_path / f"{{a,{other}}}.tif"
        with pytest.raises(SegkitError, match=reason) as caught:
            read_image(path)
        assert str(caught.value).startswith(f"{path}: ")
        with pytest.raises(SegkitError, match=reason):
            open_windows(path)
