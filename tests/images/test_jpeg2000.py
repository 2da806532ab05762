"""JPEG 2000 against what other libraries wrote into it: components as stored, whole or refused."""

import struct
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from images.conftest import noise, same
from PIL import Image, ImageCms

from segkit.core.errors import SegkitError
from segkit.images.reading import ImageReader, read_extent, read_image, read_mask

H, W = 48, 70


def encode(pixels: np.ndarray, **options) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, reversible=True, level=0, **options))


def add_profile(data: bytes, profile: bytes) -> bytes:
    """A JP2 whose colours are those of an ICC profile, as Photoshop and Kakadu write it."""
    at = data.index(b"colr") - 4
    size = struct.unpack_from(">I", data, at)[0]
    box = struct.pack(">I4sBBB", 11 + len(profile), b"colr", 2, 0, 0) + profile
    header = data.index(b"jp2h") - 4
    length = struct.pack(">I", struct.unpack_from(">I", data, header)[0] - size + len(box))
    return data[:header] + length + data[header + 4 : at] + box + data[at + size :]


def write_gdal_palette(path: Path, indices: np.ndarray, colours: np.ndarray) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    profile = {"driver": "JP2OpenJPEG", "height": H, "width": W, "count": 1, "dtype": "uint8"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not georeferenced
        with rasterio.open(path, "w", **profile, QUALITY=100, REVERSIBLE="YES") as file:
            file.write(indices, 1)
            file.write_colormap(1, {i: (*map(int, row), 255) for i, row in enumerate(colours)})
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(file.read(1), indices)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_colour_profile_changes_no_value(tmp_path: Path, dtype: str) -> None:
    pixels, path = noise(H, W, 3, dtype=dtype), tmp_path / "a.jp2"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    linear = profile.replace(b"\0\2\x66\x66", b"\0\1\0\0")  # a gamma of 1 instead of 2.4
    data = add_profile(encode(pixels, colorspace="SRGB"), linear)
    assert (imagecodecs.jpeg2k_decode(data) != pixels).any()
    path.write_bytes(data)
    same(read_image(path), pixels)
    same(read_mask(path), pixels)


def test_a_palette_that_gdal_wrote(tmp_path: Path) -> None:
    path, indices = tmp_path / "a.jp2", noise(H, W) % 4
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 100, 0], [7, 8, 9]], np.uint8)
    write_gdal_palette(path, indices, colours)
    same(read_mask(path), indices)
    same(read_image(path), colours[indices])
    assert read_extent(path) == (H, W, 1)
    with ImageReader(path) as reader:
        np.testing.assert_array_equal(reader.read_palette(), colours)


@pytest.mark.parametrize("suffix", [".jp2", ".j2k"])
def test_one_that_is_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(H, W, 3)).save(path, irreversible=False, tile_size=(32, 32))
    same(read_image(path), noise(H, W, 3))
    data = path.read_bytes()
    last_tile = data.rindex(b"\xff\x90\0\x0a")
    for end in (len(data) // 4, last_tile, last_tile + 40, len(data) - 3):
        path.write_bytes(data[:end])
        with pytest.raises(SegkitError, match=rf"a{suffix}: cannot be read: it is cut short"):
            read_image(path)


def test_a_height_that_is_damaged_costs_nothing(tmp_path: Path) -> None:
    Image.fromarray(noise(H, W)).save(tmp_path / "a.j2k", tile_size=(32, 32))
    data = bytearray((tmp_path / "a.j2k").read_bytes())
    struct.pack_into(">I", data, data.index(b"\xff\x4f\xff\x51") + 12, 2**21)
    (tmp_path / "a.j2k").write_bytes(data)
    with pytest.raises(SegkitError, match="it is cut short"):
        read_image(tmp_path / "a.j2k")


def test_the_size_of_many_components(tmp_path: Path) -> None:
    (tmp_path / "a.jp2").write_bytes(encode(noise(H, W, 7, dtype="uint16")))
    assert read_extent(tmp_path / "a.jp2") == (H, W, 7)
    with ImageReader(tmp_path / "a.jp2") as reader:
        assert reader.read_size() == (H, W)
