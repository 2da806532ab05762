from __future__ import annotations

import io
import resource
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from serve.conftest import gigapixel_png

from segkit.core.errors import SegkitError
from segkit.images.reading import count_pages, has_known_start, read_extent, read_image


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{"photometric": "minisblack", **options})
    return file.getvalue()


def peak(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "BMP", "WEBP", "TIFF"])
def test_it_is_the_size_of_the_decoded_image(suffix, tmp_path):
    path = tmp_path / f"a.{suffix.lower()}"
    Image.new("RGB", (31, 20)).save(path, suffix)
    shape = read_image(path).shape
    assert shape == (20, 31, 3)
    assert read_extent(path) == read_extent(path.read_bytes()) == shape
    assert read_extent(path).pixels == 620
    assert has_known_start(path.read_bytes())
    np.testing.assert_array_equal(read_image(path.read_bytes()), read_image(path))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"compression": "zlib", "rowsperstrip": 7},
        {"compression": "zlib", "tile": (16, 16)},
        {"compression": "zlib", "planarconfig": "contig"},
        {"compression": "zlib", "planarconfig": "separate", "rowsperstrip": 3},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_what_can_be_read_is_no_bomb(options, dtype):
    rgb = np.random.default_rng(0).integers(0, 200, (37, 50, 3)).astype(dtype)
    image = rgb if "planarconfig" in options else rgb[..., 0]
    if options.get("planarconfig") == "separate":
        image = np.moveaxis(image, 2, 0)
    data = tiff(image, **options)
    height, width, channels = read_extent(data)
    assert (height, width) in {(37, 50), (48, 64)}  # or with the rest of the tiles
    assert channels == read_image(data).shape[2]


def test_pages_are_named_as_for_reading():
    data = tiff(np.zeros((3, 10, 12), np.uint8))
    assert count_pages(data) == 3
    assert read_extent(data, 2) == (10, 12, 1)
    for page in (None, 3):
        with pytest.raises(
            SegkitError, match=r"the file: (the file has 3 pages|there is no page 3)"
        ):
            read_extent(data, page)


def test_a_gigapixel_png_costs_nothing():
    data = gigapixel_png()
    assert len(data) < 5000
    assert read_extent(data).pixels == 3_600_000_000
    assert peak(lambda: read_extent(data)) < 10**6


def test_tiles_larger_than_the_picture_count_in_full():
    data = tiff(np.zeros((8, 8), np.uint8), tile=(2048, 1024), compression="zlib")
    assert read_extent(data)[:2] == (2048, 1024)


def test_a_strip_that_unpacks_to_more_than_its_place_is_refused(tmp_path):
    path = tmp_path / "bomb.tif"
    bomb = zlib.compress(bytes(10**8))
    path.write_bytes(tiff(np.zeros((8, 8), np.uint8), compression="zlib"))
    with path.open("ab") as file:
        place = file.tell()
        file.write(bomb)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages[0].tags
        tags["StripOffsets"].overwrite(place)
        tags["StripByteCounts"].overwrite(len(bomb), dtype="I")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SegkitError, match=r"bomb\.tif: cannot be read"):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG", b"II*\0", b"BM", b"RIFF1234"])
def test_what_is_no_image_is_one_error(data):
    with pytest.raises(SegkitError, match="the file: cannot be read"):
        read_extent(data)


def test_starts():
    assert not has_known_start(b"")
    assert not has_known_start(b"GIF89a")
    assert has_known_start(b"MM\0*")
