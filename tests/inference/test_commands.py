from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segkit.config import compose
from segkit.data.builtin import CellsSource
from segkit.data.cells import draw
from segkit.data.reading import read_image, read_mask, write_image, write_mask
from segkit.errors import SegkitError
from segkit.inference.commands import evaluate, find_images, predict
from segkit.report.table import read_csv


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


def run_evaluate(run, output: Path, *overrides: str):
    return evaluate(
        compose(
            [f"checkpoint='{run.checkpoint}'", f"output='{output}'", "device=cpu", *overrides],
            "evaluate",
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


def test_masks_have_the_size_the_name_and_the_values_of_the_training(binary_run, images, tmp_path):
    out = tmp_path / "out"
    run_predict(binary_run, images, out)
    found = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    names = ["a.png", "sub/b.c.png", "tiny.png"]
    assert found == sorted([*names, *(f"overlays/{name}" for name in names)])
    mask = read_mask(out / "sub/b.c.png")
    assert mask.shape == (33, 20)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 255}
    assert read_image(out / "overlays/tiny.png").shape == (7, 5, 3)


def test_a_stack_becomes_a_stack(binary_run, tmp_path):
    pages = np.stack([draw(i, (32, 40)).image[..., 0] for i in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    run_predict(binary_run, tmp_path / "stack.tif", tmp_path / "out", "overlays=false")
    masks = tifffile.imread(tmp_path / "out" / "stack.tif")
    assert masks.shape == (3, 32, 40)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["stack.tif"]


def test_one_bad_file_does_not_keep_the_others(binary_run, images, tmp_path):
    (images / "broken.png").write_bytes(b"no picture")
    write_image(images / "alpha.png", np.zeros((9, 9, 4), np.uint8))
    with pytest.raises(SegkitError, match=r"1 files could not be predicted") as error:
        run_predict(binary_run, images, tmp_path / "out")
    assert "broken.png" in str(error.value)
    assert (tmp_path / "out" / "a.png").is_file()
    assert (tmp_path / "out" / "alpha.png").is_file()


def test_instances_are_written(binary_run, images, tmp_path):
    run_predict(binary_run, images / "a.png", tmp_path / "out", "instances=components")
    ids, mask = (read_mask(tmp_path / "out" / p) for p in ("instances/a.png", "a.png"))
    np.testing.assert_array_equal(ids > 0, mask > 0)


def test_the_masks_of_overlapping_classes_are_a_stack(multilabel_run, images, tmp_path):
    run_predict(multilabel_run, images / "a.png", tmp_path / "out")
    assert tifffile.imread(tmp_path / "out" / "a.tif").shape == (3, 64, 48)
    assert read_image(tmp_path / "out/overlays/a.png").shape == (64, 48, 3)


def test_inputs(images, tmp_path):
    assert find_images(str(images / "a.png")) == [(images / "a.png", Path("a"))]
    assert [stem.as_posix() for _, stem in find_images(str(images))] == ["a", "sub/b.c", "tiny"]
    assert [p.name for p, _ in find_images(f"{images}/*.png")] == ["a.png", "tiny.png"]
    with pytest.raises(SegkitError, match="there is no file or folder"):
        find_images(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegkitError, match="has no images"):
        find_images(str(tmp_path / "empty"))
    write_image(images / "a.bmp.png", np.zeros((3, 3), np.uint8))
    (images / "a.jpg").write_bytes((images / "a.png").read_bytes())
    with pytest.raises(SegkitError, match=r"a\.jpg and .*a\.png would both be written to a\.png"):
        find_images(str(images))


def test_missing_and_wrong_values_are_named(binary_run):
    with pytest.raises(SegkitError) as error:
        predict(compose([], "predict"))
    assert "checkpoint is missing" in str(error.value)
    assert "input is missing" in str(error.value)
    with pytest.raises(SegkitError) as error:
        run_predict(binary_run, "x", "y", "tta=d5", "overlap=2", "instances=magic")
    for key in ("tta='d5'", "overlap=2", "instances='magic'"):
        assert key in str(error.value)


def test_evaluation_repeats_the_validation_of_the_training(binary_run, tmp_path):
    result = run_evaluate(binary_run, tmp_path)
    assert result.means == pytest.approx(binary_run.evaluation.means, nan_ok=True)
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["accuracy"] == result.scores.accuracy
    assert stored["images"] == 4
    images = read_csv(tmp_path / "images.csv")
    assert len(images) == 4
    assert [row["iou"] for row in images] == sorted(row["iou"] for row in images)
    low, high = stored["intervals"]["iou"]
    assert low <= stored["iou"] <= high
    assert len(read_csv(tmp_path / "thresholds.csv")) == 19
    assert [row["class"] for row in read_csv(tmp_path / "classes.csv")] == ["cell", "mean"]
    assert "Worst predictions" in (tmp_path / "report.html").read_text()


def test_evaluation_of_a_folder(multiclass_run, tmp_path):
    source = CellsSource("multiclass", train=1, val=3, size=(40, 56), channels=3)
    for sample in source.splits()["val"]:
        write_image(tmp_path / f"data/images/{sample.name}.png", source.read_image(sample))
        write_mask(tmp_path / f"data/masks/{sample.name}.png", source.read_mask(sample))
    result = run_evaluate(
        multiclass_run,
        tmp_path / "out",
        "data=folder",
        f"data.root='{tmp_path / 'data'}'",
        "split=all",
    )
    assert sum(result.scores.support) == 3 * 40 * 56
    scores = [row["iou"] for row in read_csv(tmp_path / "out" / "images.csv")]
    assert scores == sorted(scores, key=lambda s: (math.isnan(s), s))


def test_masks_predicted_can_be_evaluated_as_truth(binary_run, images, tmp_path):
    """Predictions are written in the values of the training's masks: the score is perfect."""
    run_predict(binary_run, images / "a.png", tmp_path / "set/masks", "overlays=false")
    write_image(tmp_path / "set/images/a.png", read_image(images / "a.png"))
    result = run_evaluate(
        binary_run, tmp_path / "out", "data=folder", f"data.root='{tmp_path / 'set'}'", "split=all"
    )
    assert result.scores.accuracy == 1


def test_masks_never_overwrite_the_images(binary_run, images):
    before = (images / "a.png").read_bytes()
    with pytest.raises(SegkitError, match=r"would overwrite the image .*a\.png"):
        run_predict(binary_run, images, images)
    assert (images / "a.png").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named_before_any_work(binary_run, images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SegkitError, match=r"the folder '.*file' cannot be made"):
        run_predict(binary_run, images, tmp_path / "file")
    with pytest.raises(SegkitError, match=r"the folder '.*file' cannot be made"):
        run_evaluate(binary_run, tmp_path / "file")


def test_evaluating_images_of_other_channels_names_the_remedy(binary_run, tmp_path):
    for i in range(2):
        write_image(tmp_path / f"images/{i}.png", draw(i, (32, 32), 3).image)
        write_mask(tmp_path / f"masks/{i}.png", draw(i, (32, 32), 3).binary)
    options = ["data=folder", f"data.root='{tmp_path}'", "split=all"]
    with pytest.raises(SegkitError, match=r"have 3 channels.*give data\.channels=1"):
        run_evaluate(binary_run, tmp_path / "out", *options)
    run_evaluate(binary_run, tmp_path / "out", *options, "data.channels=1")


def test_brackets_in_a_path_stay(binary_run, images, tmp_path, capsys):
    run_predict(binary_run, images / "a.png", tmp_path / "o[red]x[", "overlays=false")
    assert "o[red]x[" in capsys.readouterr().out
