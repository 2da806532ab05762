"""The check of a data set: every problem by file and at once."""

import numpy as np
import pytest
from data.small_sets import HALF, NOISE, THREE, H, W, find_problems, put, run_check, write
from PIL import Image

import segkit
from segkit.core.errors import SegkitError
from segkit.data.checks.summary import check
from segkit.data.sources.folder import FolderSource


def test_all_kinds_of_problems_are_reported_at_once(tmp_path):
    put(tmp_path, *[HALF] * 8)
    (tmp_path / "masks" / "a.png").unlink()
    (tmp_path / "images" / "b.png").write_bytes(b"\x89PNG and no more")
    (tmp_path / "masks" / "b.png").write_bytes(b"")
    write(tmp_path / "masks/c.png", np.ones((H, W + 1), np.uint8))
    write(tmp_path / "images/d.png", np.dstack([NOISE] * 3))
    write(tmp_path / "masks/e.png", HALF * 7)
    write(tmp_path / "masks/x.png", HALF)
    write(tmp_path / "masks/f.png", np.dstack([HALF * 255, 0 * HALF, 0 * HALF]))
    problems = find_problems(tmp_path)
    for start, words in [
        ("images/a.png", "no mask"),
        ("masks/x.png", "without an image"),
        (str(tmp_path / "images" / "b.png"), "cannot be read"),
        (str(tmp_path / "masks" / "b.png"), "it is empty"),
        ("images/c.png", "the image has 7 x 5 pixels (height x width), its mask 7 x 6"),
        ("1 of 6 masks (images/f.png) hold colours", "'data.class_colors=[[0,0,0],"),
        ("images/d.png", "3 channels, most have 1: data.channels=1 or data.channels=3"),
        ("images/e.png", "the values 7, which are outside the 2 classes 0 to 1"),
    ]:
        assert [p for p in problems if p.startswith(start) and words in p], (start, problems)
    assert len(problems) == 8


def test_many_problems_do_not_hide_other_kinds(tmp_path):
    put(tmp_path, *[HALF * value for value in range(2, 28)])
    (tmp_path / "images" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(SegkitError) as caught:
        run_check(tmp_path)
    lines = str(caught.value).split("\n")
    assert "a.png: cannot be read" in lines[1]
    assert lines[-2] == "  - ... and 4 more like these"
    assert "head=multiclass" in lines[-1]  # the remedy


def test_a_problem_of_many_samples_is_one_line(tmp_path):
    [problem] = find_problems(put(tmp_path, *[HALF * 2] * 5))
    start = "5 samples (images/a.png, images/b.png, images/c.png ...): the mask has the values 2,"
    assert problem.startswith(start)
    assert "head=multiclass" in problem


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            np.where(NOISE[3, 3] == NOISE, np.inf, NOISE),
            "images/b.tif: the image has infinite values",
        ),
        (NOISE.astype(np.uint16), "images/b.tif: the image is uint16, most are float64"),
        (np.dstack([NOISE.astype(float)] * 5), "5 channels, most have 1: give all images the same"),
    ],
)
def test_images_that_differ(tmp_path, pixels, message):
    put(tmp_path, HALF, HALF, HALF, pixels=NOISE.astype(float), kind=".tif")
    write(tmp_path / "images/b.tif", pixels)
    [problem] = find_problems(tmp_path)
    assert message.replace("float64", "float32") in problem


def test_a_split_without_samples(tmp_path):
    put(tmp_path, HALF, HALF)
    [problem] = find_problems(tmp_path, val_fraction=0)
    assert "the split 'val' has no samples" in problem
    source = FolderSource("binary", root=tmp_path, val_fraction=0)
    assert check(source, "binary", needed=("train",)).splits["val"] == []


def test_one_sample_cannot_be_divided(tmp_path):
    [problem] = find_problems(put(tmp_path, HALF), val_fraction=0.5)
    assert problem.endswith(
        "of 1 in all: add images, or divide the one into blocks for training and validation:"
        " data.split=tiles"
    )


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_slices_in_channels_are_no_classes(tmp_path, mode):
    slices = np.stack([HALF] * 20)
    for name in "abc":
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            np.save(tmp_path / folder / f"{name}.npy", slices)
    [problem] = find_problems(tmp_path, mode)
    assert "the image and the mask have 20 channels each: if these are slices" in problem
    assert "multilabel" not in problem


def test_keeping_alpha_is_proposed_only_where_all_images_have_four_channels(tmp_path):
    put(tmp_path, HALF, HALF, HALF)
    opacity = np.where(NOISE > 99, 255, 0).astype(np.uint8)
    for others, is_proposed in ((opacity[..., None], True), (np.zeros((H, W, 0)), False)):
        for name in "abc":
            extra = opacity[..., None] if name == "a" else others
            image = np.dstack([NOISE, NOISE, NOISE, extra]).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / f"images/{name}.png")
        [note] = [note for note in run_check(tmp_path).notes if "alpha" in note]
        assert ("data.channels=4" in note) == is_proposed
        if is_proposed:
            assert run_check(tmp_path, channels=4).in_channels == 4
    for name in "abc":
        Image.fromarray(np.dstack([NOISE, opacity]), "LA").save(tmp_path / f"images/{name}.png")
    assert "data.channels=4" not in "".join(run_check(tmp_path).notes)


def test_a_training_without_foreground_or_labels(tmp_path):
    put(tmp_path, 0 * HALF, 0 * HALF, HALF)
    [problem] = find_problems(tmp_path)
    assert "no training mask has a pixel of the class 'foreground'" in problem
    source = FolderSource("binary", root=tmp_path, split="blocks", val_fraction=0.4)
    assert check(source, "binary", needed=("val",)).num_classes == 2
    put(tmp_path, HALF * 0 + 255, HALF * 0 + 255, HALF)
    [problem] = find_problems(tmp_path, label_map={255: 255})
    assert "no pixel of the training masks is labelled" in problem


def test_object_ids_need_the_option(tmp_path):
    ids = np.arange(H * W, dtype=np.uint16).reshape(H, W) + 500
    put(tmp_path, ids * HALF, ids * THREE, HALF)
    problems = find_problems(tmp_path)
    assert [line.split(":")[0] for line in problems] == ["images/a.png", "images/b.png"]
    assert "data.instances=true" in problems[-1]
    summary = run_check(tmp_path, instances=True)
    assert summary.num_classes == 2
    assert "every id is foreground" in summary.notes[0]
    np.testing.assert_array_equal(summary.coding.encode(ids * HALF), HALF)


def test_a_mask_saved_as_jpeg_gets_a_hint(tmp_path):
    put(tmp_path, HALF * 255, HALF * 255)
    (tmp_path / "masks" / "a.png").unlink()
    Image.fromarray(NOISE // 128 * 255).save(tmp_path / "masks" / "a.jpg", quality=30)
    [problem] = find_problems(tmp_path)
    assert "save masks as PNG" in problem


SQUARE = np.zeros((8, 8), np.uint8)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (SQUARE, SQUARE, r"read_image returned .* \(8, 8\) .* uint8: it must return \(H, W, C\)"),
        (SQUARE[..., None] / 255, SQUARE, r"read_image returned .* \(8, 8, 1\) .* type float64"),
        (SQUARE[..., None], SQUARE / 2, r"read_mask returned .* \(8, 8\) .* type float64"),
        (SQUARE[..., None], SQUARE[0], r"read_mask returned .* \(8,\) .* integers"),
    ],
)
def test_a_source_that_returns_other_arrays(image, mask, message):
    class Mine(segkit.DataSource, name="mine"):
        def splits(self):
            return {"train": [segkit.Sample("one"), segkit.Sample("two")], "val": [], "test": []}

        def read_image(self, sample):
            return image

        def read_mask(self, sample):
            return mask

    del segkit.DataSource._members["mine"]  # only this test knows it
    with pytest.raises(SegkitError, match=rf"\n.*2 samples \(one, two\): Mine\.{message}"):
        check(Mine(), "binary", needed=())


def test_a_source_that_fails_or_repeats_a_name():
    class Mine(segkit.DataSource, name="mine"):
        def splits(self):
            return {"train": [segkit.Sample(name) for name in ("one", "one", "two")]}

        def read_image(self, sample):
            return SQUARE[..., None]

        def read_mask(self, sample):
            return {"one": SQUARE}[sample.name]

    del segkit.DataSource._members["mine"]
    with pytest.raises(SegkitError) as caught:
        check(Mine(), "binary", needed=())
    assert "2 samples are named 'one': give each its own name" in str(caught.value)
    assert "two: Mine cannot read it: KeyError('two')" in str(caught.value)


@pytest.mark.parametrize("found", [[], {"train": [], "valid": []}])
def test_a_source_with_other_splits(found):
    class Mine(segkit.DataSource, name="mine"):
        def splits(self):
            return found

        read_image = read_mask = None

    del segkit.DataSource._members["mine"]
    with pytest.raises(SegkitError, match=r"Mine\.splits\(\) returns .* by split: train, val"):
        check(Mine(), "binary")


def test_remedies_are_options_of_the_source():
    class Mine(segkit.DataSource, name="mine"):
        class_names = ("background", "cell")

        def __init__(self, mode):
            self.masks = {"ones": SQUARE + 1, "white": SQUARE + 255, "ids": SQUARE + 9}

        def splits(self):
            return {"train": [segkit.Sample(name) for name in self.masks]}

        def read_image(self, sample):
            return SQUARE[..., None]

        def read_mask(self, sample):
            return self.masks[sample.name]

    del segkit.DataSource._members["mine"]
    for mode, num_classes in (("binary", None), ("multiclass", 3)):
        with pytest.raises(SegkitError) as caught:
            check(Mine(mode), mode, num_classes, needed=())
        assert "data." not in str(caught.value)
