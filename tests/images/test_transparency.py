"""Additional channels, inks, and pixels without data, in files of the libraries that make them."""

import warnings
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from images.conftest import check_windows, noise, same
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.images.reading import read_extent, read_image, read_mask
from segkit.images.windows import open_windows

H, W = 21, 34


def split(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, and where they are missing in all channels."""
    mask = np.ma.getmaskarray(image)
    assert (mask.any(axis=2) == mask.all(axis=2)).all()
    return np.ma.getdata(image), mask.all(axis=2)


def write_geotiff(path: Path, bands: np.ndarray, mask: np.ndarray | None = None, **options) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    count, height, width = bands.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not georeferenced
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(path, "w", dtype=bands.dtype, **profile, **options) as file,
        ):
            file.write(bands)
            if mask is not None:
                file.write_mask(mask)


@pytest.mark.parametrize(("meaning", "channels"), [("unspecified", 4), ("unassalpha", 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_fourth_band_is_what_the_file_says(tmp_path, dtype, meaning, channels) -> None:
    pixels, path = noise(H, W, 4, dtype=dtype), tmp_path / "a.tif"
    pixels[3, 5, 3] = 0
    options = {"photometric": "rgb", "extrasamples": [meaning], "rowsperstrip": 4}
    tifffile.imwrite(path, pixels, compression="zlib", **options)
    values, missing = split(read_image(path))
    same(values, np.ascontiguousarray(pixels[..., :channels]))
    hidden = pixels[..., 3] == 0 if channels == 3 else np.zeros((H, W), bool)
    np.testing.assert_array_equal(missing, hidden)
    same(np.ma.getdata(read_image(path, keep_alpha=True)), pixels)
    with open_windows(path) as image:
        assert image.shape == (H, W, channels)
        part = image.read(2, 3, 9, 8)
        np.testing.assert_array_equal(np.ma.getdata(part), values[2:11, 3:11])
        np.testing.assert_array_equal(np.ma.getmaskarray(part)[..., 0], hidden[2:11, 3:11])


def test_premultiplied_colours_are_restored(tmp_path: Path) -> None:
    pixels = np.full((H, W, 4), (100, 50, 20, 128), np.uint8)
    pixels[0] = 0
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    values, missing = split(read_image(tmp_path / "a.tif"))
    assert values[5, 5].tolist() == [199, 100, 40]  # 100 * 255 / 128
    assert missing[0].all()
    assert not missing[1:].any()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_palette_with_alpha(tmp_path: Path, dtype: str) -> None:
    path, full = tmp_path / "a.tif", int(np.iinfo(dtype).max)
    indices, opacity = noise(H, W) % 4, np.full((H, W), full, dtype)
    opacity[2, 3] = 0
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 100, 0], [7, 8, 9]], np.uint8)
    if dtype == "uint8":
        palette = Image.fromarray(indices).convert("P")
        palette.putpalette(colours.tobytes())
        shown = palette.convert("PA")
        shown.putalpha(Image.fromarray(opacity))
        shown.save(path)
        with Image.open(path) as picture:
            assert picture.mode == "PA"
            np.testing.assert_array_equal(picture.convert("RGB"), colours[indices])
    else:
        table = np.zeros((3, 2**16), np.uint16)
        table[:, :4] = colours.T.astype(np.uint16) * 257
        tifffile.imwrite(
            path,
            np.stack([indices.astype(dtype), opacity], axis=2),
            photometric="minisblack",
            planarconfig="contig",
            metadata=None,
            extratags=[(320, "H", table.size, table.ravel().tolist(), True)],
        )
        with tifffile.TiffFile(path, mode="r+") as tif:
            tif.pages.first.tags["PhotometricInterpretation"].overwrite(3)
            tif.pages.first.tags["ExtraSamples"].overwrite(2)
    values, missing = split(read_image(path))
    same(values, colours[indices])
    np.testing.assert_array_equal(missing, opacity == 0)
    assert read_image(path, keep_alpha=True).shape == (H, W, 4)
    assert read_mask(path).shape == (H, W, 2)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_opacity_of_pictures(tmp_path: Path, mode: str, suffix: str) -> None:
    picture = Image.new(mode, (W, H), (90, 80, 70, 255)[-len(mode) :])
    picture.putalpha(picture.getchannel("A").point(lambda _: 255))
    for transparent in (False, True):
        if transparent:
            picture.paste(0, (0, 0, 4, 3))
        picture.save(tmp_path / f"a{suffix}", lossless=True)
        image = read_image(tmp_path / f"a{suffix}")
        values, missing = split(image)
        channels = 3 if mode == "RGBA" or suffix == ".webp" else 1
        assert values.shape == (H, W, channels)
        assert missing.sum() == 12 * transparent
        assert missing[:3, :4].all() == transparent
        assert np.ma.isMaskedArray(image) == transparent


def test_transparent_colours_of_a_png(tmp_path: Path) -> None:
    indices = noise(H, W) % 4
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 100, 0], [7, 8, 9]], np.uint8)
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / "p.png", transparency=b"\xff\x00")  # index 1
    Image.fromarray(colours[indices]).save(tmp_path / "rgb.png", transparency=(200, 0, 0))
    Image.fromarray(indices * 60).save(tmp_path / "grey.png", transparency=60)
    for name in ("p", "rgb", "grey"):
        values, missing = split(read_image(tmp_path / f"{name}.png"))
        np.testing.assert_array_equal(missing, indices == 1)
        if name != "grey":
            same(values, colours[indices])
    same(read_mask(tmp_path / "p.png"), indices)  # the background of a mask is often transparent


def test_gdals_value_without_data(tmp_path: Path) -> None:
    bands = noise(2, H, W, dtype="uint16").astype("float32")
    bands[:, :3, :5] = -9999
    bands[0, 9, 9] = -9999  # the other band has data
    bands[1, 7, 7] = np.nan
    write_geotiff(tmp_path / "a.tif", bands, nodata=-9999)
    image = read_image(tmp_path / "a.tif")
    mask = np.ma.getmaskarray(image)
    assert mask[:3, :5].all()
    assert mask.sum() == 2 * 15 + 1
    assert mask[7, 7].tolist() == [False, True]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("nodata", [0, 255, -32768, -3.4028234663852886e38, 0.1])
def test_values_without_data_of_every_type(tmp_path: Path, dtype: str, nodata: float) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    fits = np.issubdtype(np.dtype(dtype), np.floating) or (
        nodata == int(nodata) and np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max
    )
    if not fits or (dtype == "float64" and abs(nodata) > 1e30):
        return
    band = np.arange(H * W).reshape(1, H, W).astype(dtype)
    band[0, 2] = nodata
    write_geotiff(tmp_path / "a.tif", band, nodata=nodata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(tmp_path / "a.tif") as file:
            expected = file.read(1, masked=True).mask
    _, missing = split(read_image(tmp_path / "a.tif"))
    np.testing.assert_array_equal(missing, expected)
    assert missing[2].all()


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_gdals_mask_inside_of_the_file(tmp_path: Path, tiled: bool, count: int) -> None:
    bands, valid = noise(count, 96, 80), np.ones((96, 80), bool)
    valid[10:20, 50:] = False
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16} if tiled else {}
    write_geotiff(tmp_path / "a.tif", bands, valid, compress="deflate", **blocks)
    values, missing = split(read_image(tmp_path / "a.tif"))
    same(values, np.ascontiguousarray(bands.transpose(1, 2, 0)))
    np.testing.assert_array_equal(missing, ~valid)
    if tiled:
        with open_windows(tmp_path / "a.tif") as image:
            part = image.read(5, 40, 20, 30)
            np.testing.assert_array_equal(np.ma.getmaskarray(part)[..., 0], ~valid[5:25, 40:70])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_inks_become_colours(tmp_path: Path, dtype: str) -> None:
    scale = np.iinfo(dtype).max
    inks = (np.array([[[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0.5]]]) * scale).astype(
        dtype
    )
    inks = np.repeat(inks, H, axis=0)
    tifffile.imwrite(tmp_path / "a.tif", inks, photometric="separated")
    colours = read_image(tmp_path / "a.tif") / scale
    wanted = [[1, 1, 1], [0, 1, 1], [1, 1, 0], [0.5, 0, 0]]
    np.testing.assert_allclose(colours[4], wanted, atol=0.004)
    check_windows(tmp_path / "a.tif")
    # bands that are separated but are not inks stay what they are
    tifffile.imwrite(
        tmp_path / "b.tif", inks, photometric="separated", extratags=[(332, 3, 1, 2, True)]
    )
    same(read_image(tmp_path / "b.tif"), inks)


def test_inks_as_pillow_shows_them(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(H, W, 3)).convert("CMYK")
    picture.save(tmp_path / "a.tif")
    shown = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(read_image(tmp_path / "a.tif") - shown).max() <= 1


@pytest.mark.parametrize("photometric", ["cielab", "cfa", "logluv"])
def test_colours_that_are_not_converted(tmp_path: Path, photometric: str) -> None:
    pixels = noise(H, W) if photometric == "cfa" else noise(H, W, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, planarconfig="contig")
    with pytest.raises(SegkitError, match=f"{photometric.upper()}, which is not converted"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("channels", [2, 5, 13])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_last_axis_of_an_array_that_tifffile_wrote(tmp_path, channels, dtype) -> None:
    pixels = noise(64, 80, channels, dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    same(read_image(tmp_path / "a.tif"), pixels)
    assert read_extent(tmp_path / "a.tif") == pixels.shape


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_jpeg_2000(tmp_path: Path, dtype: str, channels: int) -> None:
    pixels = noise(64, 48, channels, dtype=dtype)
    path = tmp_path / "a.jp2"
    path.write_bytes(imagecodecs.jpeg2k_encode(pixels.squeeze(), reversible=True, level=0))
    same(np.ma.getdata(read_image(path)), pixels)
    if dtype == "uint8" and channels < 4:
        Image.fromarray(pixels.squeeze()).save(path, irreversible=False)
        same(read_image(path), pixels)
        assert read_extent(path) == pixels.shape


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(H, W) // (i + 1)).convert("RGB") for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.gif") as picture:
        shown = np.asarray(picture.convert("RGB"))
    same(read_image(tmp_path / "a.gif"), shown.copy())


def test_other_names_of_jpeg(tmp_path: Path) -> None:
    data = cv2.imencode(".jpg", noise(H, W, 3))[1].tobytes()
    for name in ("a.jfif", "b.JPE", "c.jpg"):
        (tmp_path / name).write_bytes(data)
        assert read_image(tmp_path / name).shape == (H, W, 3)
