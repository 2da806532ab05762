"""Whether a file is compressed with loss, against whether imagecodecs gives back what was saved."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from segkit.images.lossy import is_lossy_jpeg2000, is_lossy_jpegxl
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
