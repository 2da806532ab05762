"""Images that cannot be used: each is named, and the others are predicted."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.images.reading import read_mask
from segkit.images.writing import write_image
from segkit.predict.command import predict


def write_png_without_pixels(path: Path) -> None:
    """7 pixels wide and none high."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 7, 0, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_each_bad_image_is_named_and_the_others_are_predicted(binary_run, tmp_path):
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in/good.png", draw(1, (40, 48)).image)
    write_image(tmp_path / "in/colour.png", draw(1, (40, 48), 3).image)
    write_png_without_pixels(tmp_path / "in/flat.png")
    tifffile.imwrite(
        tmp_path / "in/five.tif",
        np.zeros((8, 8, 5), np.uint8),
        photometric="minisblack",
        planarconfig="contig",
    )
    tifffile.imwrite(tmp_path / "in/inf.tif", np.full((8, 8), np.inf, np.float32))
    (tmp_path / "in/cut.png").write_bytes((tmp_path / "in/good.png").read_bytes()[:300])
    (tmp_path / "in/empty.jpg").write_bytes(b"")
    given = [f"checkpoint='{binary_run.checkpoint}'", f"input='{tmp_path / 'in'}'", "device=cpu"]
    config = compose([*given, f"output='{tmp_path / 'out'}'"], "predict")
    with pytest.raises(SegkitError, match="5 files could not be predicted") as error:
        predict(config)
    said = str(error.value).splitlines()
    for name, reason in {
        "flat.png": "no pixels, only 0 x 7: save it again or remove it",
        "five.tif": "an image with 5 channels cannot be converted to 1",
        "inf.tif": "infinite values: replace them by numbers or NaN first",
        "cut.png": "it is cut short",
        "empty.jpg": "it is empty",
    }.items():
        (line,) = (line for line in said if name in line)
        assert reason in line
    masks = {p.name for p in (tmp_path / "out").iterdir() if p.is_file()}
    assert masks == {"good.png", "colour.png"}
    for name in masks:
        assert read_mask(tmp_path / "out" / name).shape == (40, 48)
