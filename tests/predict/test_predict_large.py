"""Images processed by windows: pages of stacks, threads, progress, failures."""

from __future__ import annotations

import errno
import threading

import numpy as np
import pytest
import tifffile
import zarr

import segkit
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.images.reading import read_image
from segkit.images.window_writing import Scratch
from segkit.images.windows import WindowedImage
from segkit.predict import large


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    monkeypatch.setattr(large, "LARGE", 10_000)


def find_threshold(run, image: np.ndarray) -> float:
    """The median probability of an image."""
    found = segkit.load(run.checkpoint, device="cpu", tile=64)(image)
    return float(np.median(found.probabilities))


@pytest.mark.parametrize(
    ("name", "kind"), [("binary_run", "tif"), ("binary_run", "zarr"), ("multilabel_run", "tif")]
)
def test_large_pages_go_one_by_one(name, kind, tmp_path, out, run_predict, monkeypatch, request):
    """Pages differ in size; the last one is small and can only be read whole."""
    run = request.getfixturevalue(name)
    sizes = ((200, 150), (130, 260), (40, 48))
    pages = [draw(i, size).image[..., 0] for i, size in enumerate(sizes)]
    with tifffile.TiffWriter(tmp_path / "stack.tif") as tif:
        for page in pages[:2]:
            tif.write(page, tile=(64, 64), metadata=None)
        tif.write(pages[2], compression="zlib", metadata=None)
    whole = []
    monkeypatch.setattr(
        large, "read_image", lambda path, page: whole.append(page) or read_image(path, page)
    )
    threshold = find_threshold(run, pages[0])
    wanted = [f"threshold={threshold}", "probabilities=true", f"large_format={kind}"]
    run_predict(run, tmp_path / "stack.tif", "tile=64", *wanted)
    assert whole == [2]
    predictor = segkit.load(run.checkpoint, device="cpu", tile=64, threshold=threshold)
    with tifffile.TiffFile(out / "stack.tif") as masks:
        assert len(masks.pages) == 3
        for number, page in enumerate(pages):
            expected = predictor(page)
            assert 0 < expected.labels.mean() < 1
            np.testing.assert_array_equal(masks.pages[number].asarray(), expected.labels * 255)
            picture = read_image(out / f"overlays/stack/{number:04}.png")
            assert picture.shape == (*page.shape, 3)
            place = out / f"probabilities/stack/{number:04}.{kind}"
            maps = tifffile.imread(place) if kind == "tif" else zarr.open_array(place)[:]
            maps = maps.reshape(expected.probabilities.shape)
            assert np.abs(maps / 65535 - expected.probabilities).max() < 1e-4


def test_a_large_stack_with_a_bad_page_leaves_no_mask(binary_run, tmp_path, out, run_predict):
    pages = np.zeros((2, 150, 150), np.float32)
    pages[1, 5, 5] = np.nan
    tifffile.imwrite(tmp_path / "stack.tif", pages, tile=(64, 64), photometric="minisblack")
    with pytest.raises(SegkitError, match=r"stack\.tif: .*not finite"):
        run_predict(binary_run, tmp_path / "stack.tif", "overlays=false", "tile=64")
    assert not list(out.glob("*.tif"))
    assert not list(out.glob(".*.tmp"))


def test_progress_moves_inside_of_an_image_and_counts_failures(
    binary_run, tmp_path, run_predict, monkeypatch, capsys
):
    monkeypatch.setattr("segkit.predict.progress.EVERY", 0.0)
    (tmp_path / "in").mkdir()
    for name in "ab":
        image = draw(3, (300, 200)).image[..., 0].astype(np.float32) / 255
        image[250, 150] = np.nan if name == "a" else 0
        tifffile.imwrite(tmp_path / f"in/{name}.tif", image, tile=(64, 64))
    with pytest.raises(SegkitError, match="1 file could not"):
        run_predict(binary_run, tmp_path / "in", "overlays=false", "tile=64")
    lines = [line for line in capsys.readouterr().out.splitlines() if "images/" in line]
    shares = [float(line.split(":")[1].split()[0]) for line in lines]
    assert len(lines) > 3
    assert shares == sorted(shares)
    assert 0 < shares[0] < 2
    assert any(share % 1 for share in shares)
    assert "2 of 2 images" in lines[-1]
    assert " 0:00 left" in lines[-1]


def test_reading_computing_and_writing_are_in_threads_of_their_own(
    binary_run, tmp_path, run_predict, monkeypatch
):
    tifffile.imwrite(tmp_path / "big.tif", draw(3, (200, 200)).image[..., 0], tile=(64, 64))
    seen: dict[str, set[str]] = {"read": set(), "write": set()}
    read, write = WindowedImage.read, Scratch.write

    def reading(self, *window):
        seen["read"].add(threading.current_thread().name)
        return read(self, *window)

    def writing(self, *block):
        seen["write"].add(threading.current_thread().name)
        return write(self, *block)

    monkeypatch.setattr(WindowedImage, "read", reading)
    monkeypatch.setattr(Scratch, "write", writing)
    run_predict(binary_run, tmp_path / "big.tif", "overlays=false", "tile=64")
    assert seen == {"read": {"segkit-tiles_0"}, "write": {"segkit-writer_0"}}


def test_a_disk_that_is_full_ends_the_run(binary_run, tmp_path, out, run_predict, monkeypatch):
    tifffile.imwrite(tmp_path / "big.tif", draw(3, (300, 200)).image[..., 0], tile=(64, 64))
    write, done = Scratch.write, []

    def full(self, *block):
        done.append(1)
        if len(done) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, *block)

    monkeypatch.setattr(Scratch, "write", full)
    with pytest.raises(SegkitError, match="No space left on device") as error:
        run_predict(binary_run, tmp_path / "big.tif", "overlays=false", "tile=64")
    assert "0 of 1 masks were written" in str(error.value)
    assert len(done) == 2
    assert not list(out.glob("*.tif"))


@pytest.mark.parametrize("by_windows", [True, False])
def test_values_of_12_bits_are_said_once(binary_run, tmp_path, run_predict, capsys, by_windows):
    (tmp_path / "in").mkdir()
    side = 200 if by_windows else 40
    for name in "ab":
        image = draw(3, (side, side)).image[..., 0].astype(np.uint16) * 16
        assert 1023 < image.max() <= 4095
        tifffile.imwrite(tmp_path / f"in/{name}.tif", image, tile=(64, 64))
    run_predict(binary_run, tmp_path / "in")
    said = capsys.readouterr().out
    assert said.count("16 bits and no value above") == 1
    assert f"note: {tmp_path / 'in/a.tif'} has 16 bits" in said
    assert "multiply its values by 16" in said
