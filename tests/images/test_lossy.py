"""Whether a file is compressed with loss, against whether imagecodecs gives back what was saved."""

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from segkit.images.lossy import is_lossy_jpeg2000, is_lossy_jpegxl, is_lossy_lerc
from segkit.images.reading import ImageReader
from segkit.images.windows import open_windows

RNG = np.random.default_rng(0)
TIFF_CODECS = {
    "jpeg2000": ({"reversible": True}, {"level": 40}),
    "APERIO_JP2000_RGB": ({"reversible": True}, {"level": 40}),
    "webp": ({"lossless": True}, {"level": 60, "lossless": False}),
    "jpegxl": ({"lossless": True}, {"lossless": False, "distance": 2.0}),
}


@pytest.mark.parametrize("compression", list(TIFF_CODECS))
@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_a_tiff_tells_it(tmp_path: Path, compression: str, tile) -> None:
    values = RNG.integers(0, 255, (96, 96, 3)).astype(np.uint8)
    for lossy in (False, True):
        path, options = tmp_path / f"{lossy}.tif", TIFF_CODECS[compression][lossy]
        tifffile.imwrite(
            path,
            values,
            photometric="rgb",
            compression=compression,
            compressionargs=options,
            tile=tile,
            metadata=None,
        )
        with ImageReader(path) as reader:
            raster = reader.read()
        assert (raster.values != tifffile.imread(path)).sum() == 0
        assert bool((raster.values != values).any()) == lossy == raster.is_lossy
        if tile:
            with open_windows(path) as image:
                assert image.kind.is_lossy == lossy


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("packed", ["LERC", "LERC_DEFLATE", "LERC_ZSTD"])
def test_lerc_tells_the_error_that_it_allows(tmp_path: Path, dtype: str, packed: str) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    values = RNG.integers(0, 100, (1, 96, 80)) + (RNG.random((1, 96, 80)) * (dtype[0] == "f"))
    values = values.astype(dtype)
    profile = {"driver": "GTiff", "count": 1, "height": 96, "width": 80, "dtype": dtype}
    profile["transform"] = rasterio.Affine(2, 0, 0, 0, -2, 0)
    for allowed in (0, 2.5):
        path = tmp_path / f"{allowed}.tif"
        with rasterio.open(path, "w", compress=packed, MAX_Z_ERROR=allowed, **profile) as file:
            file.write(values)
        with rasterio.open(path) as file:
            is_exact = (file.read() == values).all()
        assert is_exact == (allowed == 0)
        with ImageReader(path) as reader:
            assert reader.read().is_lossy != is_exact


def test_versions_of_lerc() -> None:
    """Each names its own place of the error; unknown ones count as lossy."""
    for version, before in {2: 5, 3: 6, 4: 7, 5: 7, 6: 7}.items():
        for error, kind, lossy in (
            (0.5, 1, False),
            (1.0, 1, True),
            (0.0, 6, False),
            (0.5, 7, True),
        ):
            numbers = [7] * before + [kind]
            more = struct.pack("<iI", 0, 0) if version == 6 else b""
            header = b"Lerc2 " + struct.pack(f"<i{len(numbers)}i", version, *numbers) + more
            assert is_lossy_lerc(header + struct.pack("<ddd", error, 0, 9)) == lossy, version
    assert is_lossy_lerc(b"Lerc2 " + struct.pack("<i", 9) + bytes(80))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1), (24, 32), (256, 256), (300, 200), (9, 513, 3)])
def test_jpeg_xl(shape: tuple[int, ...], dtype: str) -> None:
    values = RNG.integers(0, 3, shape).astype(dtype)
    for options in ({"usecontainer": True}, {"usecontainer": False}):
        data = imagecodecs.jpegxl_encode(values, lossless=True, **options)
        assert not is_lossy_jpegxl(data)
        assert is_lossy_jpegxl(imagecodecs.jpegxl_encode(values, distance=1.0, **options))
    assert is_lossy_jpegxl(b"")


def test_a_jpeg_in_jpeg_xl() -> None:
    data = imagecodecs.jpeg8_encode(RNG.integers(0, 255, (24, 32, 3)).astype(np.uint8))
    assert is_lossy_jpegxl(imagecodecs.jpegxl_encode_jpeg(data))


def test_a_damaged_jpeg_2000_counts_as_lossy() -> None:
    data = imagecodecs.jpeg2k_encode(np.zeros((24, 32), np.uint8), reversible=True)
    assert not is_lossy_jpeg2000(data)
    assert is_lossy_jpeg2000(data[: data.find(b"\xff\x52") + 9])
