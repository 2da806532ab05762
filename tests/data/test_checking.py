"""The check of a data set: every problem by file and at once, and the summary of a good set."""

import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import segkit
from segkit.checkpoint.values import LabelCoding
from segkit.core.errors import SegkitError
from segkit.core.labels import find_background
from segkit.data.checks import facts, parts
from segkit.data.checks.classes import decide_coding
from segkit.data.checks.summary import DataSummary, check
from segkit.data.mask_files import compare_palettes
from segkit.data.sources.folder import FolderSource
from segkit.images.writing import write_image, write_mask

H, W = 7, 5
NOISE = np.random.default_rng(0).integers(0, 256, (H, W)).astype(np.uint8)
HALF = np.zeros((H, W), np.uint8)
HALF[:, 2:] = 1
THREE = HALF.copy()
THREE[0] = 2


def write(path: Path, values: np.ndarray) -> None:
    if path.suffix == ".tif":
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"planarconfig": "contig"} if values.shape[2:] > (1,) else {}
        tifffile.imwrite(path, values, photometric="minisblack", **options)
    elif path.parent.name == "masks" and values.ndim == 2:
        write_mask(path, values)
    else:
        write_image(path, values)


def put(root: Path, *masks: np.ndarray, pixels: Any = NOISE, kind: str = ".png") -> Path:
    """Write images a, b, ... with these masks; the pixels are repeated to the size of the mask."""
    for number, (name, labels) in enumerate(zip(string.ascii_lowercase, masks, strict=False)):
        image = np.resize(pixels, labels.shape[:2] + pixels.shape[2:])
        write(root / f"images/{name}{kind}", np.roll(image, number, 1))  # else they would be leaks
        write(root / f"masks/{name}{kind}", labels)
    return root


def run_check(
    root: Path, mode: Any = "binary", num_classes: int | None = None, **options: Any
) -> DataSummary:
    options = {"split": "blocks", "val_fraction": 0.4, **options}
    return check(FolderSource(mode, root=root, **options), mode, num_classes)


def find_problems(root: Path, *args: Any, **options: Any) -> list[str]:
    with pytest.raises(SegkitError) as caught:
        run_check(root, *args, **options)
    title, *lines = str(caught.value).split("\n")
    assert all(line.startswith("  - ") for line in lines)
    assert title.startswith(f"the data set has {len(lines)} problem")
    return [line[4:] for line in lines]


# --- problems ------------------------------------------------------------------------------------


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


# --- classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "two", "label_map", "meaning_of_255", "note"),
    [
        ({255}, True, None, 1, "255 is used as class 1"),
        ({0, 1, 255}, True, None, 255, "not labelled"),
        ({0, 255}, False, None, 255, "not labelled"),
        ({0, 3, 255}, True, {3: 1}, 255, "not labelled"),
        ({0, 128, 255}, True, {128: 255}, 1, "255 is used as class 1"),
        ({0, 1, 255}, True, {255: 1}, 1, None),
        ({0, 1, 255}, True, {255: 255}, 255, None),
    ],
)
def test_what_255_means(values, two, label_map, meaning_of_255, note):
    source = FolderSource("binary", root=Path(), labels="masks", label_map=label_map)
    coding = LabelCoding(dict(label_map or {}))
    notes = decide_coding(coding, values, two, source)
    assert coding.label_of(255) == meaning_of_255
    assert [note in found for found in notes] == ([] if note is None else [True])
    assert source.label_map == label_map  # unchanged


def test_shares_of_black_and_white_and_of_partly_labelled_masks(tmp_path):
    put(tmp_path / "white", HALF * 255, HALF * 255, HALF * 0)
    summary = run_check(tmp_path / "white")
    assert (summary.num_classes, summary.coding.to_label) == (2, {255: 1})
    assert summary.class_share == pytest.approx((0.6, 0.4))  # one of three is empty
    partly = HALF.copy()
    partly[0] = 255
    summary = run_check(put(tmp_path / "ones", partly, HALF, HALF))
    assert summary.class_share == pytest.approx((0.4, 0.6))  # of the other rows


def test_255_in_some_masks_and_1_in_others_is_ambiguous(tmp_path):
    put(tmp_path, HALF, HALF * 255, HALF)
    [problem] = find_problems(tmp_path)
    assert "(images/b.png)" in problem
    assert "(images/a.png)" in problem
    assert run_check(tmp_path, label_map={255: 1}).class_share == pytest.approx((0.4, 0.6))
    share = run_check(tmp_path, label_map={255: 255}).class_share
    assert share == pytest.approx((0.5, 0.5), abs=0.1)


def test_label_maps(tmp_path):
    trimap = HALF * 255
    trimap[0] = 128
    put(tmp_path / "trimap", trimap, HALF * 255)
    [problem] = find_problems(tmp_path / "trimap")
    assert "images/a.png: the mask has the values 128" in problem
    labels = run_check(tmp_path / "trimap", label_map={128: 255}).coding.encode(trimap)
    assert (labels[0] == 255).all()
    np.testing.assert_array_equal(labels[1:], HALF[1:])


def test_255_is_ignored_among_several_classes(tmp_path):
    labels = THREE.copy()
    labels[-1] = 255
    put(tmp_path, labels, labels)
    summary = run_check(tmp_path, "multiclass")
    assert summary.num_classes == 3
    assert summary.class_names == ("class 0", "class 1", "class 2")
    assert summary.class_share == pytest.approx((10 / 30, 15 / 30, 5 / 30))


def test_palette_indices_are_labels_and_grey_levels_are_not(tmp_path):
    put(tmp_path, THREE, THREE)
    for name in "ab":
        picture = Image.fromarray(THREE).convert("P")
        picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
        picture.save(tmp_path / "masks" / f"{name}.png")
    assert run_check(tmp_path, "multiclass").num_classes == 3
    put(tmp_path, THREE * 85, THREE * 85)
    [problem] = find_problems(tmp_path, "multiclass")
    assert "data.label_map={85: 1, 170: 2}" in problem
    assert run_check(tmp_path, "multiclass", label_map={85: 1, 170: 2}).num_classes == 3
    assert run_check(tmp_path, "multiclass", 171).num_classes == 171


def test_palettes_are_found_among_masks_without_one(tmp_path):
    put(tmp_path, THREE, THREE, THREE)
    files = sorted((tmp_path / "masks").iterdir())
    picture = Image.fromarray(THREE).convert("P")
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    picture.save(files[1])
    files += [tmp_path / "masks/gone.png", tmp_path / "masks/empty.png"]
    files[-1].write_bytes(b"")
    found = compare_palettes(files)
    assert (found.count, found.differ) == (1, False)
    assert found.usual is not None
    assert found.usual[:3].tolist() == [[0, 0, 0], [200, 0, 0], [0, 200, 0]]


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (("multiclass", 2), {}, "outside the 2 classes"),
        (("multiclass",), {"class_names": ("a", "b")}, "outside the 2 classes"),
        (("binary", 3), {}, "head=binary has 2"),
        (("binary",), {"class_names": ("cell",)}, "head=binary has 2"),
        (("multiclass", 3), {"instances": True}, "data.instances=true has 2"),
        (("multiclass", 4), {"class_names": ("a", "b", "c")}, "data.class_names has 3 names"),
        (("multiclass",), {"class_colors": ((0, 0, 0),)}, "1 colours, but there are 3 classes"),
    ],
)
def test_contradicting_numbers_of_classes(tmp_path, args, options, message):
    assert message in find_problems(put(tmp_path, THREE, THREE), *args, **options)[0]


def test_more_classes_than_the_masks_show(tmp_path):
    put(tmp_path, THREE, THREE)
    notes = run_check(tmp_path, "multiclass", 5).notes
    assert notes == ["no training mask has a pixel of: class 3, class 4"]
    names = ("sky", "tree", "road", "car")
    summary = run_check(tmp_path, "multiclass", class_names=names)
    assert (summary.num_classes, summary.class_names) == (4, names)
    assert summary.class_share[3] == 0
    assert summary.notes == ["no training mask has a pixel of: car"]


@pytest.mark.parametrize("high", [1, 255])
def test_overlapping_classes(tmp_path, high):
    layers = np.dstack([HALF, 1 - HALF, HALF * 0, 1 | HALF]) * np.uint8(high)
    put(tmp_path, layers, layers, kind=".tif")
    summary = run_check(tmp_path, "multilabel")
    assert summary.num_classes == 4
    assert summary.class_share == pytest.approx((0.6, 0.4, 0, 1))
    assert summary.coding.encode(layers).max() == 1
    assert "no training mask has a pixel of: class 2" in summary.notes
    [problem] = find_problems(tmp_path, "multilabel", 3)
    assert problem.startswith("2 samples (images/a.tif, images/b.tif): the mask has 4 layers, but")
    layers[0, 0, 0] = 9
    write(tmp_path / "masks/b.tif", layers)
    problem, *_ = find_problems(tmp_path, "multilabel")
    assert "the values 9, which are outside the 2 classes" in problem


def test_masks_with_one_class_per_pixel_and_a_multilabel_head(tmp_path):
    summary = run_check(put(tmp_path, THREE, THREE), "multilabel")
    assert "class 0 is learned like the others" in summary.notes[0]
    assert sum(summary.class_share) == pytest.approx(1)


def test_layers_may_have_unlabelled_pixels_but_all_masks_need_them(tmp_path):
    layers = np.dstack([HALF, HALF, HALF])
    layers[:, 0, 1] = 255
    put(tmp_path, layers, layers, kind=".tif")
    assert run_check(tmp_path, "multilabel").class_share == pytest.approx((0.6, 0.75, 0.6))
    put(tmp_path, layers, layers, HALF, kind=".tif")
    [problem] = find_problems(tmp_path, "multilabel")
    assert problem.startswith("images/c.tif: the mask has the shape (7, 5)")


@pytest.mark.parametrize(
    ("names", "background"),
    [
        (("background", "cell", "other"), 0),
        ((" Background", "cell", "other"), 0),
        (("BACKGROUND", "cell", "other"), 0),
        (("sky", "cell", "other"), None),
        (None, 0),
    ],
)
def test_the_background_is_found_by_its_name_in_any_case(tmp_path, names, background):
    labels = np.zeros((60, 60), np.uint8)
    labels[50:54, 50:54], labels[50:54, 4:8] = 1, 2
    put(tmp_path, labels, 0 * labels, labels, labels)
    summary = run_check(tmp_path, "multiclass", 3, class_names=names)
    assert summary.background == find_background(names, "multiclass") == background
    assert any("are empty" in note for note in summary.notes) == (background == 0)
    area = 16 if background == 0 else 3600
    assert (summary.measures.object_diameter or 0) == pytest.approx(
        np.sqrt(4 * area / np.pi), rel=0.01
    )


# --- notes ---------------------------------------------------------------------------------------


def test_empty_masks_are_noted_by_file(tmp_path):
    put(tmp_path, HALF, HALF * 0, HALF)
    wanted = "1 of 3 masks are empty (background only): images/b.png"
    assert wanted in run_check(tmp_path).notes
    assert wanted in run_check(tmp_path, "multiclass").notes
    assert not run_check(tmp_path, "multiclass", class_names=("sky", "tree")).notes
    put(tmp_path, HALF, HALF * 0 + 255, HALF)
    notes = run_check(tmp_path, label_map={255: 255}).notes
    assert "1 of 3 masks have no labelled pixel: images/b.png" in notes


def test_sizes_may_differ_between_images(tmp_path):
    put(tmp_path, np.tile(HALF, (2, 1)), HALF, HALF)
    assert run_check(tmp_path).one_size == {"train": False, "val": True, "test": True}


def test_shuffled_pages_are_noted(tmp_path):
    for folder, values in (("images", NOISE), ("masks", HALF)):
        (tmp_path / folder).mkdir()
        pages = np.stack([values + np.uint8(page * (values is NOISE)) for page in range(20)])
        tifffile.imwrite(tmp_path / folder / "s.tif", pages, photometric="minisblack")
    assert run_check(tmp_path, split="blocks").notes == []
    [note] = run_check(tmp_path, split="random").notes
    assert "neighbouring pages of s.tif" in note
    assert "data.split=blocks" in note


def test_a_quick_scan_prints_nothing(tmp_path, capfd):
    put(tmp_path, HALF, HALF)
    run_check(tmp_path)
    assert capfd.readouterr() == ("", "")


# --- intensities ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 3), ("uint16", 2), ("float32", 1)])
def test_intensities_are_those_of_the_training_images(tmp_path, dtype, channels):
    values = np.random.default_rng(0).uniform(10, 200, (3, 40, 30, channels)).astype(dtype)
    values[2] += 50  # the validation image
    for name, pixels in zip("abc", values, strict=True):
        write(tmp_path / f"images/{name}.tif", pixels)
        write(tmp_path / f"masks/{name}.png", np.eye(40, 30, dtype=np.uint8))
    summary = run_check(tmp_path)
    norm = summary.normalization
    assert (summary.in_channels, norm.dtype) == (channels, dtype)
    np.testing.assert_allclose(norm.high, 255 if dtype == "uint8" else 200, atol=1)
    train = np.stack([norm(pixels) for pixels in values[:2]]).reshape(-1, channels)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-4)


def test_large_sets_are_sampled(tmp_path, monkeypatch):
    put(tmp_path, HALF, HALF, HALF)
    monkeypatch.setattr(facts, "PIXELS_PER_SET", 20)
    source = FolderSource("binary", root=tmp_path, split="blocks")
    kept = [each.pixels for each in facts.scan(source, source.splits())]
    assert [None if pixels is None else pixels.shape for pixels in kept] == [(11, 1), (11, 1), None]


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "?"])
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (70, 90), (40, 30, 5)])
def test_fast_counting_gives_what_sorting_gives(kind, shape, monkeypatch):
    monkeypatch.setattr(parts, "EXACT_COUNTS", 1000)  # several parts
    values = np.random.default_rng(0).integers(-300, 300, shape).astype(kind)
    for array in (values, values[..., ::2], values.T, values[:, :0]):
        found, counts = np.unique(array, return_counts=True)
        wanted = list(zip(map(int, found), counts.tolist(), strict=True))
        assert list(parts.count_values(array).items()) == wanted


def test_counts_are_exact_beyond_what_float32_holds():
    array = np.zeros((2**12 + 1, 2**12), np.uint8)
    array[0, 0] = 7
    assert parts.count_values(array) == {0: array.size - 1, 7: 1}


@pytest.mark.parametrize(("dtype", "channels"), [("u1", 3), ("u2", 1), ("u2", 13), ("f4", 2)])
def test_intensities_of_an_image(tmp_path, dtype, channels):
    image = np.random.default_rng(0).uniform(20, 200, (41, 30, channels)).astype(dtype)
    image[:9] += image.dtype.type(50)
    write(tmp_path / "images/a.tif", image)
    write(tmp_path / "masks/a.png", np.eye(41, 30, dtype=np.uint8))
    source = FolderSource("binary", root=tmp_path)
    [found] = facts.scan(source, source.splits())
    assert found.intensities is not None
    values = image.astype(np.float64)
    wanted = (values.min(), values.max(), values.mean(), values.std())
    assert found.intensities[:4] == pytest.approx(wanted)
    assert found.intensities.at_top == pytest.approx((values == values.max()).mean())
    above = (values[:20].mean() - values[-20:].mean()) / values.std()
    assert found.brighter_above == pytest.approx(above)


def test_intensities_are_those_of_pixels_with_data(tmp_path):
    image = np.full((8, 8, 4), 60, np.uint8)
    image[:4] = 90
    image[2:6, :, 3] = 0
    image[image[..., 3] > 0, 3] = 255
    image[image[..., 3] == 0, :3] = 255  # hidden
    for name, pixels in (("a", image), ("b", image * [1, 1, 1, 0])):
        write(tmp_path / f"images/{name}.png", pixels.astype(np.uint8))
        write(tmp_path / f"masks/{name}.png", np.eye(8, dtype=np.uint8))
    source = FolderSource("binary", root=tmp_path)
    first, second = sorted(facts.scan(source, source.splits()), key=lambda f: f.sample.name)
    assert first.intensities == (60, 90, 75, 15, 0.5)
    assert second.intensities is None


# --- sizes ---------------------------------------------------------------------------------------


def draw_squares(*sides: int) -> np.ndarray:
    """A mask with squares of these sides along its diagonal."""
    mask, at = np.zeros((64, 64), np.uint8), 1
    for side in sides:
        mask[at : at + side, at : at + side] = 1
        at += side + 2
    return mask


TOUCHING = np.zeros((64, 64), np.uint8)
TOUCHING[:10, :10], TOUCHING[:10, 10:20], TOUCHING[10:20, :10] = 1, 2, 3
HALVES = draw_squares(30)
HALVES[1:31, 1:16] = 2
PARTLY = draw_squares(10)
PARTLY[40:] = 255


@pytest.mark.parametrize(
    ("mask", "mode", "options", "area"),
    [
        # a typical foreground pixel lies in the large object
        (draw_squares(20, 1, 1, 1, 1, 1, 1), "binary", {}, 400),
        (TOUCHING, "binary", {"instances": True}, 100),
        ((TOUCHING > 0).astype(np.uint8), "binary", {}, 300),
        (HALVES, "multiclass", {}, 450),  # regions of one class
        (PARTLY, "binary", {}, 100),  # unlabelled pixels and background are not objects
        (255 * draw_squares(12), "binary", {}, 144),
    ],
    ids=["specks", "ids", "regions", "classes", "unlabelled", "black and white"],
)
def test_typical_objects(tmp_path, mask, mode, options, area):
    summary = run_check(put(tmp_path, mask, mask, mask), mode, **options)
    assert summary.measures.object_diameter == pytest.approx(np.sqrt(4 * area / np.pi))


def test_large_masks_are_subsampled(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "PIXELS_PER_MASK", 32 * 32)
    found = run_check(put(tmp_path, *[draw_squares(20)] * 3)).measures.object_diameter
    assert found == pytest.approx(np.sqrt(4 * 400 / np.pi))


def test_sizes(tmp_path):
    sizes = [(30, 40), (10, 12), (20, 90), (22, 30), (400, 8)]  # the last one validates
    put(tmp_path, *[np.eye(*size, dtype=np.uint8) for size in sizes])
    found = run_check(tmp_path, val_fraction=0.2).measures
    assert (found.median, found.largest) == ((21, 35), (400, 90))


@pytest.mark.parametrize(
    ("sky", "count", "expected"), [(200, 12, True), (0, 12, False), (200, 5, None)]
)
def test_images_with_a_sky_are_upright(tmp_path, sky, count, expected):
    rng = np.random.default_rng(0)
    put(tmp_path, *[np.eye(20, dtype=np.uint8)] * count)
    for path in (tmp_path / "images").iterdir():
        pixels = rng.integers(0, 56, (20, 20, 3)).astype(np.uint8)
        pixels[:8] += np.uint8(sky)
        write(path, pixels)
    assert run_check(tmp_path, val_fraction=0.2).measures.upright is expected


def test_an_image_of_one_row_and_value(tmp_path):
    put(tmp_path, np.ones((1, 9), np.uint8), pixels=np.full((1, 9), 7, np.uint8))
    found = check(FolderSource("binary", root=tmp_path), "binary", needed=()).measures
    assert (found.median, found.upright) == ((1, 9), None)
