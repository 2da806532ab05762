from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

import segkit
from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.evaluate.command import evaluate
from segkit.images.reading import read_image, read_mask, write_image
from segkit.images.windows import WindowedImage
from segkit.predict import large
from segkit.predict.command import predict
from segkit.report.overlay import flatten_labels, make_legend, overlay


def run_predict(run, given: Path | str, output: Path, *overrides: str):
    predict(
        compose(
            [
                f"checkpoint='{run.checkpoint}'",
                f"input='{given}'",
                f"output='{output}'",
                "device=cpu",
                *overrides,
            ],
            "predict",
        )
    )


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name, size in {"a.png": (64, 48), "sub/b.c.PNG": (33, 20), "tiny.png": (7, 5)}.items():
        big = draw(len(name), (64, 64)).image[: size[0], : size[1]]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, big)
    (folder / "._a.png").write_bytes(b"what a Mac leaves behind")
    return folder


def cut(run, image: Path | np.ndarray) -> float:
    """A threshold that half of an image is above of: seconds of training do not reach 0.5."""
    probabilities = segkit.load(run.checkpoint, device="cpu")(image).probabilities
    return float(np.median(probabilities))


def files_of(folder: Path) -> list[str]:
    """The files of the user's, without the record."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return sorted(name for name in names if not name.startswith(".segkit/"))


def test_masks_have_the_size_the_name_and_the_values_of_the_training(binary_run, images, tmp_path):
    out = tmp_path / "out"
    run_predict(binary_run, images, out)
    names = ["a.png", "sub/b.c.png", "tiny.png"]
    assert files_of(out) == sorted([*names, *(f"overlays/{name}" for name in names)])
    mask = read_mask(out / "sub/b.c.png")
    assert mask.shape == (33, 20)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 255}
    assert read_image(out / "overlays/tiny.png").shape == (7, 5, 3)


def test_a_stack_becomes_a_stack(binary_run, tmp_path):
    pages = np.stack([draw(i, (32, 40)).image[..., 0] for i in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    threshold = cut(binary_run, pages[2])
    wanted = ["overlays=false", f"threshold={threshold}"]
    run_predict(binary_run, tmp_path / "stack.tif", tmp_path / "out", *wanted)
    masks = tifffile.imread(tmp_path / "out" / "stack.tif")
    assert masks.shape == (3, 32, 40)
    assert files_of(tmp_path / "out") == ["stack.tif"]
    alone = segkit.load(binary_run.checkpoint, device="cpu", threshold=threshold)(pages[2]).labels
    assert 0 < alone.mean() < 1
    np.testing.assert_array_equal(masks[2], alone * 255)


def test_one_bad_file_does_not_keep_the_others(binary_run, images, tmp_path):
    (images / "broken.png").write_bytes(b"no picture")
    write_image(images / "alpha.png", np.zeros((9, 9, 4), np.uint8))
    with pytest.raises(SegkitError, match=r"1 file could not be predicted") as error:
        run_predict(binary_run, images, tmp_path / "out")
    assert "broken.png" in str(error.value)
    assert (tmp_path / "out" / "a.png").is_file()
    assert (tmp_path / "out" / "alpha.png").is_file()


def test_instances_are_written(binary_run, images, tmp_path):
    threshold = f"threshold={cut(binary_run, images / 'a.png')}"
    given = images / "a.png", tmp_path / "out", "instances=components", threshold
    run_predict(binary_run, *given)
    ids, mask = (read_mask(tmp_path / "out" / p) for p in ("instances/a.png", "a.png"))
    assert ids.max() > 1
    np.testing.assert_array_equal(ids > 0, mask > 0)


def test_the_masks_of_overlapping_classes_are_a_stack(multilabel_run, images, tmp_path):
    run_predict(multilabel_run, images / "a.png", tmp_path / "out")
    assert tifffile.imread(tmp_path / "out" / "a.tif").shape == (3, 64, 48)
    assert read_image(tmp_path / "out/overlays/a.png").shape == (64, 48, 3)


def test_missing_and_wrong_values_are_named(binary_run):
    with pytest.raises(SegkitError) as error:
        predict(compose([], "predict"))
    assert "checkpoint is missing" in str(error.value)
    assert "input is missing" in str(error.value)
    with pytest.raises(SegkitError) as error:
        run_predict(binary_run, "x", "y", "tta=d5", "overlap=2", "instances=magic")
    for key in ("tta='d5'", "overlap=2", "instances='magic'"):
        assert key in str(error.value)


def test_masks_never_overwrite_the_images(binary_run, images):
    before = (images / "a.png").read_bytes()
    with pytest.raises(SegkitError, match=r"would overwrite the image .*a\.png"):
        run_predict(binary_run, images, images)
    assert (images / "a.png").read_bytes() == before


def test_an_output_folder_that_cannot_be_made_is_named(binary_run, images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SegkitError, match=r"the folder '.*file' cannot be made"):
        run_predict(binary_run, images, tmp_path / "file")


def test_brackets_in_a_path_stay(binary_run, images, tmp_path, capsys):
    run_predict(binary_run, images / "a.png", tmp_path / "o[red]x[", "overlays=false")
    assert "o[red]x[" in capsys.readouterr().out


def test_masks_predicted_can_be_evaluated_as_truth(binary_run, images, tmp_path):
    """Predictions are written in the values of the training's masks: the score is perfect."""
    run_predict(binary_run, images / "a.png", tmp_path / "set/masks", "overlays=false")
    write_image(tmp_path / "set/images/a.png", read_image(images / "a.png"))
    given = [
        f"checkpoint='{binary_run.checkpoint}'",
        f"output='{tmp_path / 'out'}'",
        "data=folder",
        f"data.root='{tmp_path / 'set'}'",
        "split=all",
        "device=cpu",
    ]
    assert evaluate(compose(given, "evaluate")).scores.accuracy == 1


def test_labels_may_be_written_as_they_are(binary_run, images, tmp_path):
    threshold = f"threshold={cut(binary_run, images / 'a.png')}"
    run_predict(binary_run, images / "a.png", tmp_path / "ids", "values=ids", threshold)
    run_predict(binary_run, images / "a.png", tmp_path / "values", threshold)
    ids, values = (read_mask(tmp_path / name / "a.png") for name in ("ids", "values"))
    assert ids.max() == 1
    np.testing.assert_array_equal(ids * 255, values)


def test_probabilities_are_written_with_16_bits(multiclass_run, images, tmp_path):
    run_predict(multiclass_run, images / "a.png", tmp_path / "out", "probabilities=true")
    stored = tifffile.imread(tmp_path / "out/probabilities/a.tif")
    assert stored.dtype == np.uint16
    result = segkit.load(multiclass_run.checkpoint, device="cpu")(images / "a.png")
    assert stored.shape == result.probabilities.shape
    assert np.abs(stored / 65535 - result.probabilities).max() < 1e-5


def test_options_reach_the_predictor(binary_run, images, tmp_path):
    threshold = cut(binary_run, images / "a.png")
    options = {"threshold": threshold, "tta": "flips", "tile": 64, "context": 16, "batch_size": 2}
    given = [f"{key}={value}" for key, value in options.items()]
    path = binary_run.checkpoint
    run_predict(binary_run, images, tmp_path / "out", f"checkpoint=['{path}','{path}']", *given)
    expected = segkit.load([path, path], device="cpu", **options)(images / "a.png")
    assert 0 < expected.labels.mean() < 1
    np.testing.assert_array_equal(read_mask(tmp_path / "out/a.png"), expected.labels * 255)


def test_a_stack_of_overlapping_classes_has_a_page_of_all_classes_for_each(
    multilabel_run, tmp_path
):
    pages = np.stack([draw(i, (32, 40)).image[..., 0] for i in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    threshold = cut(multilabel_run, pages[1])
    wanted = ["probabilities=true", "polygons=geojson", f"threshold={threshold}"]
    run_predict(multilabel_run, tmp_path / "stack.tif", tmp_path / "out", *wanted)
    mask = read_mask(tmp_path / "out/stack.tif", 1)
    predictor = segkit.load(multilabel_run.checkpoint, device="cpu", threshold=threshold)
    expected = predictor(pages[1]).labels
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(mask, expected.transpose(1, 2, 0) * 255)
    extras = {"overlays": "png", "probabilities": "tif", "polygons": "geojson"}
    expected_files = [f"{k}/stack/{i:04}.{v}" for k, v in extras.items() for i in range(3)]
    assert files_of(tmp_path / "out") == sorted(["stack.tif", *expected_files])


def test_one_bad_page_leaves_no_half_stack(binary_run, images, tmp_path):
    pages = [np.zeros((8, 8), np.float32) for _ in range(3)]
    pages[1][2, 2] = np.nan
    with tifffile.TiffWriter(images / "stack.tif") as tif:
        for page in pages:
            tif.write(page, metadata=None)
    with pytest.raises(SegkitError, match=r"stack\.tif: .*not finite"):
        run_predict(binary_run, images, tmp_path / "out", "overlays=false")
    assert files_of(tmp_path / "out") == ["a.png", "sub/b.c.png", "tiny.png"]


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_large_images_go_by_windows(multilabel_run, tmp_path, monkeypatch, kind, capsys):
    zarr = pytest.importorskip("zarr")
    image = draw(3, (300, 280)).image[..., 0]
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/big.tif", image, tile=(64, 64))
    place, blocks = tmp_path / "in/store.zarr", (64, 64)
    zarr.create_array(place, shape=image.shape, chunks=blocks, dtype="uint8")[:] = image
    monkeypatch.setattr(large, "LARGE", 10_000)
    monkeypatch.setattr(large, "OVERVIEW", 100)
    threshold = cut(multilabel_run, image)
    wanted = ["probabilities=true", f"large_format={kind}", "tile=128", f"threshold={threshold}"]
    run_predict(multilabel_run, tmp_path / "in", tmp_path / "out", *wanted)
    options = {"tile": 128, "threshold": threshold}
    predictor = segkit.load(multilabel_run.checkpoint, device="cpu", **options)
    expected, card = predictor(image), predictor.card
    colors = make_legend(card).colors
    small = flatten_labels(expected.labels[:, ::3, ::3], card.mode)
    shown = overlay(image[::3, ::3, None], small, colors, background=make_legend(card).unpainted)
    assert 0 < expected.labels.mean() < 1
    read = tifffile.imread if kind == "tif" else lambda path: zarr.open_array(path)[:]
    for name in ("big", "store"):
        mask = read(tmp_path / f"out/{name}.{kind}")
        np.testing.assert_array_equal(mask, expected.labels * 255)
        maps = read(tmp_path / f"out/probabilities/{name}.{kind}")
        assert np.abs(maps / 65535 - expected.probabilities).max() < 1e-4
        picture = read_image(tmp_path / f"out/overlays/{name}.png")
        assert picture.shape == (100, 94, 3)
        np.testing.assert_array_equal(picture, shown)
    capsys.readouterr()
    run_predict(multilabel_run, tmp_path / "in", tmp_path / "out", *wanted)
    assert "2 images are already finished" in capsys.readouterr().out


def test_large_images_are_unpacked_once(binary_run, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "big.tif", draw(3, (200, 200)).image[..., 0], tile=(64, 64))
    monkeypatch.setattr(large, "LARGE", 10_000)
    read, seen = WindowedImage.read, []

    def counted(self, top, left, height, width):
        seen.append(height * width)
        return read(self, top, left, height, width)

    monkeypatch.setattr(WindowedImage, "read", counted)
    run_predict(binary_run, tmp_path / "big.tif", tmp_path / "out", "overlays=false")
    alone = sum(seen)
    seen.clear()
    run_predict(binary_run, tmp_path / "big.tif", tmp_path / "out", "overwrite=true")
    assert sum(seen) == alone
    assert (tmp_path / "out/overlays/big.png").is_file()


def test_large_images_are_whole_where_objects_are_told_apart(binary_run, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "big.tif", draw(3, (200, 200)).image[..., 0], tile=(64, 64))
    monkeypatch.setattr(large, "LARGE", 10_000)
    run_predict(binary_run, tmp_path / "big.tif", tmp_path / "out", "instances=components")
    assert files_of(tmp_path / "out") == ["big.png", "instances/big.png", "overlays/big.png"]


def test_the_folder_of_a_training_means_its_images(binary_run, images, tmp_path, capsys):
    write_image(tmp_path / "masks/a.png", np.zeros((64, 48), np.uint8))
    run_predict(binary_run, tmp_path, tmp_path / "out", "overlays=false")
    assert "holds images and masks" in capsys.readouterr().out
    assert files_of(tmp_path / "out") == ["a.png", "sub/b.c.png", "tiny.png"]


def test_outlines_are_written(binary_run, images, tmp_path):
    threshold = f"threshold={cut(binary_run, images / 'sub/b.c.PNG')}"
    wanted = ["polygons=geojson", "overlays=false", threshold]
    run_predict(binary_run, images, tmp_path / "out", *wanted)
    found = json.loads((tmp_path / "out/polygons/sub/b.c.geojson").read_text())
    assert found["type"] == "FeatureCollection"
    area = sum(feature["properties"]["area"] for feature in found["features"])
    assert area == (read_mask(tmp_path / "out/sub/b.c.png") > 0).sum() > 0
