"""The classes of a checked data set."""

from pathlib import Path

import numpy as np
import pytest
from data.small_sets import HALF, THREE, find_problems, put, run_check, write
from PIL import Image

from segkit.checkpoint.values import LabelCoding
from segkit.core.labels import find_background
from segkit.data.checks.classes import decide_coding
from segkit.data.mask_files import compare_palettes
from segkit.data.sources.folder import FolderSource


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


@pytest.mark.parametrize(
    ("values", "two", "label_map", "meaning"),
    [
        ({0, 65535}, True, None, 1),  # TGS Salt
        ({65535}, True, None, 1),
        ({0, 1, 65535}, True, None, 65535),
        ({0, 255, 65535}, True, None, 65535),
        ({0, 65535}, False, None, 65535),
        ({0, 65535}, True, {65535: 255}, 255),
    ],
)
def test_white_in_16_bits(values, two, label_map, meaning):
    source = FolderSource("binary", root=Path(), labels="masks", label_map=label_map)
    coding = LabelCoding(dict(label_map or {}))
    notes = decide_coding(coding, values, two, source)
    assert coding.label_of(65535) == meaning
    assert (meaning == 1) == any("white in 16 bits: 65535 is used as class 1" in n for n in notes)


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
