from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image
from serve.conftest import as_png, make_card

from segkit.config.settings import ServeSettings
from segkit.core.errors import SegkitError
from segkit.serve.uploads import UploadError, make_stem, read_upload


def read(name, data, max_bytes=10_000, max_pixels=1000, channels=3, **card):
    limits = {"max_upload_mb": max_bytes / 2**20, "max_pixels": max_pixels}
    settings = ServeSettings(checkpoint=["a.ckpt"], **limits)
    return read_upload(name, data, None, settings, make_card(in_channels=channels, **card))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.b.tif", "a.b"),
        ("../../etc/passwd", "passwd"),
        ("C:\\scans\\ü 1.tif", "ü 1"),
        ("", "image"),
        ("..", "image"),
        (".png", "png"),
        ("a\r\nSet-Cookie: b.png", "aSet-Cookie: b"),
        (300 * "x" + ".png", 100 * "x"),
    ],
)
def test_names_have_no_folders_and_no_control_characters(name, stem):
    assert make_stem(name) == stem


def test_limits_are_inclusive():
    image = np.zeros((20, 50), np.uint8)
    data = as_png(image)
    upload = read("a.png", data, len(data))
    assert (upload.image.shape, upload.page, upload.pages, upload.title) == ((20, 50, 1), 0, 1, "a")
    for limits in ((len(data) - 1, 1000), (len(data), 999)):
        with pytest.raises(UploadError) as error:
            read("a.png", data, *limits)
        assert error.value.status == 413


@pytest.mark.parametrize(("orientation", "shape"), [("exif", (50, 20, 1)), ("stored", (20, 50, 1))])
def test_photographs_are_turned_as_in_the_training(orientation, shape):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 50), np.uint8)).save(file, "PNG", exif=exif)
    config = {"data": {"orientation": orientation}}
    assert read("a.png", file.getvalue(), config=config).image.shape == shape


def test_many_channels_are_many_values():
    file = io.BytesIO()
    bands = np.zeros((30, 30, 12), np.uint8)
    tifffile.imwrite(file, bands, photometric="minisblack", planarconfig="contig")
    with pytest.raises(UploadError, match="12 channels"):
        read("a.tif", file.getvalue(), 10**6, channels=3)
    kept = read("a.tif", file.getvalue(), 10**6, channels=12)
    assert kept.image.shape == (30, 30, 12)


def test_errors_name_no_path():
    with pytest.raises(SegkitError, match=r"^the file: cannot be read"):
        read("a.png", as_png(np.zeros((9, 9), np.uint8))[:50])
