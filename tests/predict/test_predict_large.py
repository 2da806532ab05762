"""Images processed by windows: zarr, pages of stacks, progress, failures."""

from __future__ import annotations

import errno

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
from segkit.report.overlay import draw_overlay, make_class_layer


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    monkeypatch.setattr(large, "LARGE", 10_000)
    monkeypatch.setattr(large, "OVERVIEW", 100)


@pytest.fixture
def big(tmp_path):
    tifffile.imwrite(tmp_path / "big.tif", draw(3, (300, 200)).image[..., 0], tile=(64, 64))
    return tmp_path / "big.tif"


def load(run, image: np.ndarray):
    """A predictor of 64 x 64 tiles; half of the image's pixels exceed its threshold."""
    found = segkit.load(run.checkpoint, device="cpu", tile=64)(image, probabilities=True)
    threshold = float(np.median(found.probabilities))
    return segkit.load(run.checkpoint, device="cpu", tile=64, threshold=threshold)


def check(predictor, image: np.ndarray, mask: np.ndarray, extras, name: str, kind: str) -> None:
    """Compare what was written of an image with its prediction in memory."""
    expected = predictor(image, probabilities=True)
    assert 0 < expected.labels.mean() < 1
    np.testing.assert_array_equal(mask, expected.labels * 255)
    step = -(-max(image.shape) // 100)
    layer = make_class_layer(expected.labels[..., ::step, ::step], predictor.card)
    shown = draw_overlay(image[::step, ::step], layer)
    np.testing.assert_array_equal(read_image(extras / f"overlays/{name}.png"), shown)
    place = extras / f"probabilities/{name}.{kind}"
    maps = tifffile.imread(place) if kind == "tif" else zarr.open_array(place)[:]
    maps = maps.reshape(expected.probabilities.shape)
    assert np.abs(maps / 65535 - expected.probabilities).max() < 1e-4


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_tiff_and_zarr_go_by_windows(multilabel_run, big, tmp_path, out, run_predict, kind, capsys):
    image = tifffile.imread(big)
    store = zarr.create_array(
        tmp_path / "store.zarr", shape=image.shape, chunks=(64, 64), dtype="uint8"
    )
    store[:] = image
    predictor = load(multilabel_run, image)
    wanted = [f"threshold={predictor.threshold}", "probabilities=true", f"large_format={kind}"]
    for said in ("2 of 2 masks", "2 images are already finished"):
        run_predict(multilabel_run, tmp_path, "tile=64", *wanted)
        assert said in capsys.readouterr().out
    for name in ("big", "store"):
        path = out / f"{name}.{kind}"
        mask = tifffile.imread(path) if kind == "tif" else zarr.open_array(path)[:]
        check(predictor, image, mask, out, name, kind)


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
        large, "read_image", lambda path, page, *_: whole.append(page) or read_image(path, page)
    )
    predictor = load(run, pages[0])
    wanted = [f"threshold={predictor.threshold}", "probabilities=true", f"large_format={kind}"]
    run_predict(run, tmp_path / "stack.tif", "tile=64", *wanted)
    assert whole == [2]
    with tifffile.TiffFile(out / "stack.tif") as masks:
        assert len(masks.pages) == 3
        for number, page in enumerate(pages):
            mask = masks.pages[number].asarray()
            check(predictor, page, mask, out, f"stack/{number:04}", kind)


def test_large_images_are_unpacked_once_and_whole_for_objects(
    binary_run, big, out, run_predict, files_of, monkeypatch
):
    read, seen = WindowedImage.read, []

    def counted(self, top, left, height, width):
        seen.append(height * width)
        return read(self, top, left, height, width)

    monkeypatch.setattr(WindowedImage, "read", counted)
    run_predict(binary_run, big, "overlays=false")
    alone = sum(seen)
    seen.clear()
    run_predict(binary_run, big, "overwrite=true", "probabilities=true")
    assert sum(seen) == alone
    assert files_of(out) == ["big.tif", "overlays/big.png", "probabilities/big.tif"]
    seen.clear()
    run_predict(binary_run, big, "instances=components", "overwrite=true")
    assert not seen
    assert files_of(out) == ["big.png", "instances/big.png", "overlays/big.png"]


def test_a_large_stack_with_a_bad_page_leaves_no_mask(binary_run, tmp_path, out, run_predict):
    pages = np.zeros((2, 150, 150), np.float32)
    pages[1, 5, 5] = np.inf
    tifffile.imwrite(tmp_path / "stack.tif", pages, tile=(64, 64), photometric="minisblack")
    with pytest.raises(SegkitError, match=r"stack\.tif: .*infinite"):
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
        image[250, 150] = np.inf if name == "a" else 0
        tifffile.imwrite(tmp_path / f"in/{name}.tif", image, tile=(64, 64))
    with pytest.raises(SegkitError, match="1 file could not"):
        run_predict(binary_run, tmp_path / "in", "overlays=false", "tile=64")
    lines = [line for line in capsys.readouterr().out.splitlines() if "images/" in line]
    shares = [float(line.split(":")[1].split()[0]) for line in lines]
    assert len(lines) > 3
    assert shares == sorted(shares)
    assert any(0 < share < 2 and share % 1 for share in shares)
    assert "2 of 2 images" in lines[-1]
    assert " 0:00 left" in lines[-1]


def test_a_disk_that_is_full_ends_the_run(binary_run, big, out, run_predict, monkeypatch):
    write, done = Scratch.write, []

    def full(self, *block):
        done.append(1)
        if len(done) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, *block)

    monkeypatch.setattr(Scratch, "write", full)
    with pytest.raises(SegkitError, match="No space left on device") as error:
        run_predict(binary_run, big, "overlays=false", "tile=64")
    assert "0 of 1 masks were written" in str(error.value)
    assert len(done) == 2
    assert not list(out.glob("*.tif"))


@pytest.mark.parametrize("side", [200, 40])
def test_values_of_12_bits_are_said_once(binary_run, tmp_path, run_predict, capsys, side):
    (tmp_path / "in").mkdir()
    for name in "ab":
        image = draw(3, (side, side)).image[..., 0].astype(np.uint16) * 16
        assert 1023 < image.max() <= 4095
        tifffile.imwrite(tmp_path / f"in/{name}.tif", image, tile=(64, 64))
    run_predict(binary_run, tmp_path / "in")
    said = capsys.readouterr().out
    assert said.count("16 bits and no value above") == 1
    assert f"note: {tmp_path / 'in/a.tif'} has 16 bits" in said
