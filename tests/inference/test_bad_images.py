"""Images and folders that cannot be used: each is named, and no half of a file is left."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import subprocess
import sys
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


def run_predict(checkpoint, folder, given) -> None:
    words = [f"checkpoint='{checkpoint}'", f"input='{given}'", f"output='{folder / 'out'}'"]
    predict(compose([*words, "device=cpu"], "predict"))


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
    tifffile.imwrite(tmp_path / "in/nan.tif", np.full((8, 8), np.nan, np.float32))
    (tmp_path / "in/cut.png").write_bytes((tmp_path / "in/good.png").read_bytes()[:300])
    (tmp_path / "in/empty.jpg").write_bytes(b"")
    with pytest.raises(SegkitError, match="5 files could not be predicted") as error:
        run_predict(binary_run, tmp_path, tmp_path / "in")
    said = str(error.value).splitlines()
    for name, reason in {
        "flat.png": "no pixels, only 0 x 7: save it again or remove it",
        "five.tif": "an image with 5 channels cannot be converted to 1",
        "nan.tif": "not finite (NaN or infinite): replace them first",
        "cut.png": "it is cut short",
        "empty.jpg": "it is empty",
    }.items():
        (line,) = (line for line in said if name in line)
        assert reason in line
    masks = {p.name for p in (tmp_path / "out").iterdir() if p.is_file()}
    assert masks == {"good.png", "colour.png"}
    for name in masks:
        assert read_mask(tmp_path / "out" / name).shape == (40, 48)


def list_results(folder: Path) -> list[str]:
    inside = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(p.as_posix() for p in inside if p.parts[0] != ".segkit")


def test_a_mask_that_cannot_be_written_whole_is_not_there(binary_run, tmp_path):
    """As on a full disk: the limit of the system makes real writes fail."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 1), np.uint8)
    write_image(tmp_path / "noise.png", noise)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # the overlay is larger
    try:
        with pytest.raises(SegkitError) as error:
            run_predict(binary_run, tmp_path, tmp_path / "noise.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"cannot write '{tmp_path}/out/overlays/noise.png': File too large" in str(error.value)
    assert not (tmp_path / "out/overlays/noise.png").exists()
    run_predict(binary_run, tmp_path, tmp_path / "noise.png")
    assert list_results(tmp_path / "out") == ["noise.png", "overlays/noise.png"]
    assert read_mask(tmp_path / "out/noise.png").shape == (256, 256)


def as_anybody() -> None:
    """Take from root the right to ignore permissions."""
    drop, override, search = 24, 1, 2  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    for right in (override, search):
        if os.geteuid() == 0 and ctypes.CDLL(None).prctl(drop, right, 0, 0, 0):
            raise OSError("the right cannot be given up")


@pytest.mark.slow
@pytest.mark.skipif(
    os.name != "posix" or (os.geteuid() == 0 and sys.platform != "linux"),
    reason="permissions do not bind",
)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("locked", "Permission denied"),
        ("above/new", "the folder 'above/new' cannot be made: Permission denied"),
        ("hidden.ckpt", "hidden.ckpt cannot be read as data: Permission denied. Check that"),
    ],
)
def test_folders_and_files_without_permission(binary_run, tmp_path, name, said):
    write_image(tmp_path / "a.png", draw(1, (20, 20)).image)
    for folder in ("locked", "above"):
        (tmp_path / folder).mkdir(mode=0o500)
    hidden = tmp_path / "hidden.ckpt"
    hidden.write_bytes(binary_run.checkpoint.read_bytes())
    hidden.chmod(0)
    given = [f"checkpoint={binary_run.checkpoint}", f"output={name}"]
    if name == "hidden.ckpt":
        given = [f"checkpoint={hidden}", "output=out"]
    command = [sys.executable, "-m", "segkit.predict", *given, "input=a.png", "device=cpu"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=as_anybody
    )
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    assert said in done.stderr
    assert not list_results(tmp_path / "locked")
    assert not list_results(tmp_path / "above")
