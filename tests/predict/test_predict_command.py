"""What predict writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import torch

import segkit
from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.evaluate.command import evaluate
from segkit.images.reading import read_image, read_mask
from segkit.images.writing import write_image
from segkit.inference.runtimes.network import SmallerBatchWarning
from segkit.models.segmenter import Segmenter
from segkit.predict import large

MASKS = ["a.png", "sub/b.c.png", "tiny.png"]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name, size in {"a.png": (64, 48), "sub/b.c.PNG": (33, 20), "tiny.png": (7, 5)}.items():
        write_image(folder / name, draw(len(name), (64, 64)).image[: size[0], : size[1]])
    (folder / "._a.png").write_bytes(b"what a Mac leaves behind")
    return folder


@pytest.fixture
def stack(tmp_path):
    pages = np.stack([draw(i, (32, 40)).image[..., 0] for i in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    return tmp_path / "stack.tif"


def find_threshold(run, image, **options) -> float:
    """The threshold that half of an image exceeds: seconds of training do not reach 0.5."""
    result = segkit.load(run.checkpoint, device="cpu", **options)(image, probabilities=True)
    return float(np.median(result.probabilities))


@pytest.mark.parametrize("name", ["binary_run", "multilabel_run"])
def test_a_stack_becomes_a_stack(name, stack, out, run_predict, files_of, request):
    run = request.getfixturevalue(name)
    page = tifffile.imread(stack)[2]
    threshold = find_threshold(run, page)
    wanted = ["probabilities=true", "polygons=geojson", f"threshold={threshold}"]
    run_predict(run, stack, *wanted)
    mask = read_mask(out / "stack.tif", 2)
    alone = segkit.load(run.checkpoint, device="cpu", threshold=threshold)(page).labels
    assert 0 < alone.mean() < 1
    expected = alone.transpose(1, 2, 0) if name == "multilabel_run" else alone
    np.testing.assert_array_equal(mask, expected * 255)
    extras = {"overlays": "png", "probabilities": "tif", "polygons": "geojson"}
    expected_files = [f"{k}/stack/{i:04}.{v}" for k, v in extras.items() for i in range(3)]
    assert files_of(out) == sorted(["stack.tif", *expected_files])


def test_bad_files_do_not_stop_the_others(binary_run, images, out, run_predict, files_of):
    (images / "broken.png").write_bytes(b"not a picture")
    write_image(images / "alpha.png", np.zeros((9, 9, 4), np.uint8))
    pages = [np.zeros((8, 8), np.float32) for _ in range(3)]
    pages[1][2, 2] = np.inf
    with tifffile.TiffWriter(images / "stack.tif") as tif:
        for page in pages:
            tif.write(page, metadata=None)
    with pytest.raises(SegkitError, match=r"2 files could not be predicted") as error:
        run_predict(binary_run, images)
    assert "broken.png" in str(error.value)
    assert "stack.tif: the image has infinite values" in str(error.value)
    masks = [*MASKS, "alpha.png"]  # and no part of the stack
    found = files_of(out)
    assert [name for name in found if "stack" not in name] == sorted(
        [*masks, *(f"overlays/{name}" for name in masks)]
    )
    assert "stack.tif" not in found
    mask = read_mask(out / "sub/b.c.png")
    assert (mask.shape, mask.dtype) == ((33, 20), np.uint8)
    assert set(np.unique(mask)) <= {0, 255}
    assert read_image(out / "overlays/tiny.png").shape == (7, 5, 3)


def test_images_that_exceed_the_memory_of_the_device_do_not_stop_the_others(
    binary_run, tmp_path, out, run_predict, files_of, monkeypatch
):
    for i in range(12):
        write_image(tmp_path / f"in/{i:02}.png", draw(i, (32, 32)).image)
    tifffile.imwrite(tmp_path / "in/big.tif", draw(1, (64, 128)).image[..., 0], tile=(32, 32))
    forward = Segmenter.forward

    def full(self, x):
        if x.shape[0] > 3 or x.shape[-1] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return forward(self, x)

    def predict_all() -> None:
        with pytest.raises(SegkitError, match="1 file could not be predicted") as error:
            run_predict(binary_run, tmp_path / "in", "overlays=false", "batch_size=4", "tile=128")
        assert "big.tif: device cpu has too little memory" in str(error.value)
        assert "tile=256 batch_size=1" in str(error.value)
        assert files_of(out) == [f"{i:02}.png" for i in range(12)]

    monkeypatch.setattr(Segmenter, "forward", full)
    with pytest.warns(SmallerBatchWarning, match="halved until they fit"):
        predict_all()
    monkeypatch.setattr(large, "LARGE", 4096)  # big.tif goes by windows
    predict_all()


def test_instances_and_outlines_are_written(binary_run, images, out, run_predict):
    threshold = f"threshold={find_threshold(binary_run, images / 'a.png')}"
    run_predict(binary_run, images / "a.png", "instances=components", "polygons=geojson", threshold)
    ids, mask = (read_mask(out / name) for name in ("instances/a.png", "a.png"))
    assert ids.max() > 1
    np.testing.assert_array_equal(ids > 0, mask > 0)
    features = json.loads((out / "polygons/a.geojson").read_text())["features"]
    assert len(features) == ids.max()
    assert sum(each["properties"]["area"] for each in features) == (mask > 0).sum()


def test_the_output_folder(binary_run, images, tmp_path, run_predict, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SegkitError, match=r"the folder '.*file' cannot be made"):
        run_predict(binary_run, images, f"output='{tmp_path / 'file'}'")
    before = (images / "a.png").read_bytes()
    with pytest.raises(SegkitError, match=r"would overwrite the image .*a\.png"):
        run_predict(binary_run, images, f"output='{images}'")
    assert (images / "a.png").read_bytes() == before
    write_image(tmp_path / "masks/a.png", np.zeros((64, 48), np.uint8))
    brackets = tmp_path / "o[red]x["  # not a style of the terminal
    run_predict(binary_run, tmp_path, "overlays=false", f"output='{brackets}'")
    said = capsys.readouterr().out
    assert "note: " in said
    assert "holds images and masks" in said
    assert "o[red]x[" in said


def test_masks_predicted_can_be_evaluated_as_truth(binary_run, images, tmp_path, run_predict):
    """Predictions are written in the values of the training's masks: the score is perfect."""
    target = f"output='{tmp_path / 'set/masks'}'"
    run_predict(binary_run, images / "a.png", "overlays=false", target)
    write_image(tmp_path / "set/images/a.png", read_image(images / "a.png"))
    given = [
        f"checkpoint='{binary_run.checkpoint}'",
        f"output='{tmp_path / 'scores'}'",
        "data=folder",
        f"data.root='{tmp_path / 'set'}'",
        "split=all",
        "device=cpu",
    ]
    assert evaluate(compose(given, "evaluate")).scores.accuracy == 1


@pytest.mark.parametrize("values", ["ids", "training"])
def test_options_reach_the_predictor(binary_run, images, out, run_predict, values):
    threshold = find_threshold(binary_run, images / "a.png")
    options = {"threshold": threshold, "tta": "flips", "tile": 64, "context": 16, "batch_size": 2}
    given = [f"{key}={value}" for key, value in options.items()]
    path = binary_run.checkpoint
    given += [f"checkpoint=['{path}','{path}']", f"values={values}", "probabilities=true"]
    run_predict(binary_run, images, *given)
    expected = segkit.load([path, path], device="cpu", **options)(
        images / "a.png", probabilities=True
    )
    assert 0 < expected.labels.mean() < 1
    factor = 1 if values == "ids" else 255
    np.testing.assert_array_equal(read_mask(out / "a.png"), expected.labels * factor)
    stored = tifffile.imread(out / "probabilities/a.tif")
    assert stored.dtype == np.uint16
    assert np.abs(stored / 65535 - expected.probabilities[0]).max() < 1e-5
