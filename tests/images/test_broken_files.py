"""Broken and hostile files."""

import io
import logging
import resource
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from images.conftest import noise
from images.png_files import H, W, encode_png
from PIL import Image
from serve.conftest import gigapixel_png

from segkit.core.errors import SegkitError
from segkit.images.reading import (
    count_pages,
    read_extent,
    read_image,
    read_mask,
)
from segkit.images.windows import open_windows
from segkit.images.writing import write_image


def encode(kind: str) -> bytes:
    pixels, buffer = noise(60, 50, 3), io.BytesIO()
    if kind == "png16":
        return bytes(cv2.imencode(".png", pixels.astype(np.uint16) * 200)[1])
    if kind.startswith("tiff "):
        compression = kind.removeprefix("tiff ")
        tifffile.imwrite(buffer, pixels, compression=None if compression == "raw" else compression)
    else:
        Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", ["png", "png16", "jpeg", "bmp", "webp", "tiff zlib", "tiff raw", "tiff lzw"]
)
def test_a_file_that_is_cut_short(tmp_path: Path, kind: str, capfd) -> None:
    data, path = encode(kind), tmp_path / "cut.img"
    path.write_bytes(data)
    read_image(path)
    for part in (0.0, 0.001, 0.02, 0.3, 0.7, 0.98):
        path.write_bytes(data[: int(len(data) * part)])
        for read in (read_image, read_mask):
            with pytest.raises(SegkitError, match=r"cut\.img: cannot be read: "):
                read(path)
    assert capfd.readouterr() == ("", "")


def test_files_that_are_not_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello, I am not an image\n" * 20)
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8" + bytes(100))
    (tmp_path / "c.tif").write_bytes(b"II*\0" + bytes(100))
    (tmp_path / "d.tif").mkdir()
    (tmp_path / "f.png").write_bytes(encode_png(8, 0, [], W))
    tifffile.imwrite(tmp_path / "g.tif", noise(H, W))
    with tifffile.TiffFile(tmp_path / "g.tif", mode="r+") as tif:
        tif.pages.first.tags["ImageLength"].overwrite(0)
    tifffile.imwrite(tmp_path / "h.tif", noise(H, W), compression="zlib")
    with tifffile.TiffFile(tmp_path / "h.tif", mode="r+") as tif:
        tif.pages.first.tags["Compression"].overwrite(32771)
    for name, reason in (
        ("a.png", r"it is not an image; known are .*\.png, .*\.tif"),
        ("b.jpg", ""),
        ("c.tif", "no pages"),
        ("d.tif", "it is a folder, but not a zarr"),
        ("e.tif", "No such file"),
        ("f.png", f"no pixels, only 0 x {W}"),
        ("g.tif", f"no pixels, only 0 x {W}"),
        ("h.tif", r"CCIRLEW.* not supported\. Save it again with deflate or LZW"),
    ):
        for read in (read_image, read_mask, open_windows):
            if read is open_windows and name in ("a.png", "b.jpg", "f.png", "h.tif"):
                continue  # it decodes nothing
            with pytest.raises(SegkitError, match=rf"{name}: cannot be read: .*{reason}"):
                read(tmp_path / name)
    for data in (b"", b"text", b"\x89PNG", b"II*\0", b"BM", b"RIFF1234"):
        with pytest.raises(SegkitError, match="the file: cannot be read"):
            read_extent(data)


def test_a_codec_that_is_not_installed(tmp_path: Path, monkeypatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W), compression="zstd")

    def fail(*_: object, **__: object) -> None:
        raise ImportError("No module named 'compression'")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    with pytest.raises(
        SegkitError, match=r"a\.tif: cannot be read: the installed imagecodecs has no"
    ):
        read_image(tmp_path / "a.tif")


def test_a_gigapixel_png_costs_nothing() -> None:
    data = gigapixel_png()
    assert len(data) < 5000
    tracemalloc.start()
    assert read_extent(data).pixels == 3_600_000_000
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_tiles_larger_than_the_picture_count_in_full(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), tile=(2048, 1024), compression="zlib")
    assert read_extent(path)[:2] == (2048, 1024)


def test_a_strip_that_unpacks_to_more_than_its_place_is_refused(tmp_path: Path) -> None:
    path, bomb = tmp_path / "bomb.tif", zlib.compress(bytes(10**8))
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), compression="zlib")
    place = path.stat().st_size
    path.write_bytes(path.read_bytes() + bomb)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["StripOffsets"].overwrite(place)
        tif.pages[0].tags["StripByteCounts"].overwrite(len(bomb), dtype="I")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SegkitError, match=r"bomb\.tif: cannot be read"):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ("ImageJ=1.53\nimages=2000000000\nslices=2000000000\n", "it should hold 2000000000 images"),
        ('{"shape": [1000000, 1000000, 7, 5]}', "it should hold 1000000000000 images"),
        (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
            '<Image ID="Image:0"><Pixels ID="P" DimensionOrder="XYCZT" Type="uint8" SizeX="5" '
            'SizeY="7" SizeC="1" SizeZ="10000" SizeT="10000"><TiffData/></Pixels></Image></OME>',
            "its OME metadata describe 100000000 images",
        ),
    ],
)
def test_metadata_that_promise_too_much(tmp_path: Path, described: str, reason: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W), description=described, metadata=None)
    for use in (count_pages, read_image, read_extent, open_windows):
        with pytest.raises(SegkitError, match=rf"a\.tif: cannot be read: .*{reason}"):
            use(tmp_path / "a.tif")


def test_threads_that_read_leave_the_logger_as_it_was(tmp_path: Path, caplog) -> None:
    write_image(tmp_path / "a.png", noise(H, W))
    (tmp_path / "b.tif").write_bytes(b"II*\0\xff\0\0\0")

    def read(number: int) -> bool:
        try:
            read_image(tmp_path / ("a.png" if number % 2 else "b.tif"))
        except SegkitError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(read, range(200))) == 100
    assert not caplog.messages
    logging.getLogger("tifffile").warning("still heard")
    assert caplog.messages == ["still heard"]
