"""The check of a whole set: every problem by file and at once, and what is said of a good set."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.data.checks import scanning
from segkit.data.checks.checking import DataSummary, check
from segkit.data.sources.cells import CellsSource
from segkit.data.sources.folder import FolderSource
from segkit.images.reading import write_image, write_mask

H, W = 7, 5
NOISE = np.random.default_rng(0).integers(0, 256, (H, W)).astype(np.uint8)
HALF = np.zeros((H, W), np.uint8)
HALF[:, 2:] = 1
THREE = HALF.copy()
THREE[0] = 2


def image(root: Path, name: str, pixels: np.ndarray = NOISE) -> None:
    path = root / "images" / name
    if path.suffix == ".tif":
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"planarconfig": "contig"} if pixels.shape[2:] > (1,) else {}
        tifffile.imwrite(path, pixels, photometric="minisblack", **options)
    else:
        write_image(path, pixels)


def mask(root: Path, name: str, labels: np.ndarray) -> None:
    path = root / "masks" / name
    if labels.ndim == 2:
        write_mask(path, labels)
    elif path.suffix == ".tif":
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, labels, photometric="minisblack", planarconfig="contig")
    else:
        write_image(path, labels)


def put(root: Path, *masks: np.ndarray, pixels: np.ndarray = NOISE, kind: str = ".png") -> Path:
    """A set of images a, b, ... with these masks."""
    for name, labels in zip("abcdefgh", masks, strict=False):
        image(root, f"{name}{kind}", pixels)
        mask(root, f"{name}{kind}", labels)
    return root


def checked(
    root: Path, mode: Any = "binary", num_classes: int | None = None, **options: Any
) -> DataSummary:
    options = {"split": "blocks", "val_fraction": 0.4, **options}
    return check(FolderSource(mode, root=root, **options), mode, num_classes)


def problems(root: Path, *args: Any, **options: Any) -> list[str]:
    with pytest.raises(SegkitError) as caught:
        checked(root, *args, **options)
    title, *lines = str(caught.value).split("\n")
    assert all(line.startswith("  - ") for line in lines)
    assert title.startswith(f"the data set has {len(lines)} problem")
    return [line[4:] for line in lines]


# --- what is wrong -------------------------------------------------------------------------------


def test_all_kinds_of_problems_are_said_at_once(tmp_path: Path) -> None:
    put(tmp_path, *[HALF] * 8)
    (tmp_path / "masks" / "a.png").unlink()
    (tmp_path / "images" / "b.png").write_bytes(b"\x89PNG and no more")
    (tmp_path / "masks" / "b.png").write_bytes(b"")
    mask(tmp_path, "c.png", np.ones((H, W + 1), np.uint8))
    image(tmp_path, "d.png", np.dstack([NOISE] * 3))
    mask(tmp_path, "e.png", HALF * 7)
    mask(tmp_path, "x.png", HALF)
    mask(tmp_path, "f.png", np.dstack([HALF, HALF, 0 * HALF]))
    said = problems(tmp_path)
    for start, words in [
        ("images/a.png", "no mask"),
        ("masks/x.png", "without an image"),
        (str(tmp_path / "images" / "b.png"), "cannot be read"),
        (str(tmp_path / "masks" / "b.png"), "it is empty"),
        ("images/c.png", "the image has 7 x 5 pixels (height x width), its mask 7 x 6"),
        ("images/f.png", "3 channels, like a colour image"),
        ("images/d.png", "3 channels, most have 1: data.channels=1 or data.channels=3"),
        ("images/e.png", "the values 7, which are outside the 2 classes 0 to 1"),
    ]:
        assert [line for line in said if line.startswith(start) and words in line], (start, said)
    assert len(said) == 8


def test_many_problems_do_not_hide_those_of_other_kinds(tmp_path: Path) -> None:
    for i in range(50):
        image(tmp_path, f"{i}.png")
        mask(tmp_path, f"{i}.png", HALF * (i % 2 + 1))
    (tmp_path / "images" / "0.png").write_bytes(b"\x89PNG")
    with pytest.raises(SegkitError) as caught:
        checked(tmp_path)
    lines = str(caught.value).split("\n")
    assert lines[0] == "the data set has 26 problems:"
    assert "0.png: cannot be read" in lines[1]
    assert lines[-2] == "  - ... and 4 more like these"
    assert "head=multiclass" in lines[-1]  # the remedy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_that_are_not_finite(tmp_path: Path, dtype: str) -> None:
    pixels = NOISE.astype(dtype)
    put(tmp_path, HALF, HALF, HALF, pixels=pixels, kind=".tif")
    pixels[3, 3] = np.nan
    image(tmp_path, "b.tif", pixels)
    assert problems(tmp_path) == [
        "images/b.tif: the image has values that are not finite (NaN or infinite)"
    ]


def test_types_that_differ(tmp_path: Path) -> None:
    put(tmp_path, HALF, HALF, HALF)
    (tmp_path / "images" / "b.png").unlink()
    image(tmp_path, "b.tif", NOISE.astype(np.uint16))
    [problem] = problems(tmp_path)
    assert problem.startswith("images/b.tif: the image is uint16, most are uint8")


def test_channels_that_no_option_makes_alike(tmp_path: Path) -> None:
    put(tmp_path, HALF, HALF, HALF, pixels=np.dstack([NOISE] * 12), kind=".tif")
    image(tmp_path, "a.tif", np.dstack([NOISE] * 5))
    [problem] = problems(tmp_path)
    assert "5 channels, most have 12: give all images the same channels" in problem


def test_a_set_without_anything(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    [problem] = problems(tmp_path)
    assert "contains no images" in problem


def test_a_split_without_samples(tmp_path: Path) -> None:
    put(tmp_path, HALF, HALF)
    [problem] = problems(tmp_path, val_fraction=0)
    assert "the split 'val' has no samples" in problem
    source = FolderSource("binary", root=tmp_path, val_fraction=0)
    assert check(source, "binary", needed=("train",)).splits["val"] == []


def test_a_training_without_foreground(tmp_path: Path) -> None:
    put(tmp_path, 0 * HALF, 0 * HALF, HALF)
    [problem] = problems(tmp_path)
    assert "no training mask has a pixel of the class 'foreground'" in problem
    source = FolderSource("binary", root=tmp_path, split="blocks", val_fraction=0.4)
    assert check(source, "binary", needed=("val",)).num_classes == 2


def test_a_training_without_labels(tmp_path: Path) -> None:
    put(tmp_path, HALF * 0 + 255, HALF)
    [problem] = problems(tmp_path, label_map={255: 255})
    assert "no pixel of the training masks is labelled" in problem


@pytest.mark.parametrize("kind", [".png", ".tif"])
def test_a_mask_in_colours(tmp_path: Path, kind: str) -> None:
    put(tmp_path, HALF, HALF, HALF, kind=kind)
    mask(tmp_path, f"b{kind}", np.dstack([HALF * 200, HALF * 0, HALF]))
    for mode in ("binary", "multiclass"):
        [problem] = problems(tmp_path, mode)
        assert problem.startswith(f"images/b{kind}: its mask has 3 channels")
        assert "head=multilabel" in problem


def test_ids_of_objects_need_to_be_called_so(tmp_path: Path) -> None:
    ids = np.arange(H * W, dtype=np.uint16).reshape(H, W) + 500
    put(tmp_path, ids * HALF, ids * THREE, HALF)
    said = problems(tmp_path)
    assert [line.split(":")[0] for line in said] == ["images/a.png", "images/b.png"]
    assert "data.instances=true" in said[-1]
    summary = checked(tmp_path, instances=True)
    assert summary.num_classes == 2
    assert "every id is foreground" in summary.notes[0]
    np.testing.assert_array_equal(summary.coding.encode(ids * HALF), HALF)


def test_a_mask_saved_as_jpeg_gets_a_hint(tmp_path: Path) -> None:
    put(tmp_path, HALF * 255, HALF * 255)
    (tmp_path / "masks" / "a.png").unlink()
    Image.fromarray(NOISE // 128 * 255).save(tmp_path / "masks" / "a.jpg", quality=30)
    [problem] = problems(tmp_path)
    assert "save masks as PNG" in problem


# --- what the classes are ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["binary", "multiclass"])
def test_black_and_white_masks(tmp_path: Path, mode: str) -> None:
    put(tmp_path, HALF * 255, HALF * 255, HALF * 0)
    summary = checked(tmp_path, mode)
    assert summary.num_classes == 2
    assert summary.coding.to_label == {255: 1}
    assert any("255 is used as class 1" in note for note in summary.notes)
    assert summary.class_share == pytest.approx((0.6, 0.4))  # one of three is empty


@pytest.mark.parametrize("mode", ["binary", "multiclass"])
def test_255_is_not_labelled_where_there_is_a_1(tmp_path: Path, mode: str) -> None:
    partly = HALF.copy()
    partly[0] = 255
    put(tmp_path, partly, HALF, HALF)
    summary = checked(tmp_path, mode)
    assert summary.num_classes == 2
    assert any("'not labelled'" in note for note in summary.notes)
    assert summary.class_share == pytest.approx((0.4, 0.6))  # of the other rows
    assert (summary.coding.encode(partly)[0] == 255).all()


def test_255_in_some_masks_and_1_in_others_is_asked_about(tmp_path: Path) -> None:
    put(tmp_path, HALF, HALF * 255, HALF)
    [problem] = problems(tmp_path)
    assert "(images/b.png)" in problem
    assert "(images/a.png)" in problem
    assert checked(tmp_path, label_map={255: 1}).class_share == pytest.approx((0.4, 0.6))
    assert checked(tmp_path, label_map={255: 255}).class_share == pytest.approx((0.5, 0.5), abs=0.1)


def test_a_mixture_of_0_255_and_another_value(tmp_path: Path) -> None:
    trimap = HALF * 255
    trimap[0] = 128
    put(tmp_path, trimap, HALF * 255)
    [problem] = problems(tmp_path)
    assert "images/a.png: its mask has the values 128" in problem
    summary = checked(tmp_path, label_map={128: 255})
    labels = summary.coding.encode(trimap)
    assert (labels[0] == 255).all()
    np.testing.assert_array_equal(labels[1:], HALF[1:])


def test_a_map_of_values_beyond_8_bits(tmp_path: Path) -> None:
    high = THREE.astype(np.uint16) * 300
    put(tmp_path, high, high)
    summary = checked(tmp_path, "multiclass", label_map={300: 1, 600: 2})
    assert summary.num_classes == 3
    np.testing.assert_array_equal(summary.coding.encode(high), THREE)
    said = problems(tmp_path, "multiclass", label_map={300: 1})
    assert "the values 600" in said[0]


def test_255_is_ignored_among_several_classes(tmp_path: Path) -> None:
    labels = THREE.copy()
    labels[-1] = 255
    put(tmp_path, labels, labels)
    summary = checked(tmp_path, "multiclass")
    assert summary.num_classes == 3
    assert summary.class_names == ("class 0", "class 1", "class 2")
    assert summary.class_share == pytest.approx((10 / 30, 15 / 30, 5 / 30))
    # also if the others do not occur
    two = put(tmp_path / "two", HALF * 255, HALF * 255)
    summary = checked(two, "multiclass", 3)
    assert summary.coding.label_of(255) == 255
    assert "no training mask has a pixel of: class 1, class 2" in summary.notes


def test_indices_of_a_palette_are_the_labels(tmp_path: Path) -> None:
    put(tmp_path, THREE, THREE)
    for name in "ab":
        picture = Image.fromarray(THREE).convert("P")
        picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
        picture.save(tmp_path / "masks" / f"{name}.png")
    assert checked(tmp_path, "multiclass").num_classes == 3


def test_grey_levels_are_not_taken_for_hundreds_of_classes(tmp_path: Path) -> None:
    put(tmp_path, THREE * 85, THREE * 85)
    [problem] = problems(tmp_path, "multiclass")
    assert "data.label_map={85: 1, 170: 2}" in problem
    assert checked(tmp_path, "multiclass", label_map={85: 1, 170: 2}).num_classes == 3
    assert checked(tmp_path, "multiclass", 171).num_classes == 171


def test_numbers_of_classes_that_contradict_each_other(tmp_path: Path) -> None:
    put(tmp_path, THREE, THREE)
    assert "outside the 2 classes" in problems(tmp_path, "multiclass", 2)[0]
    assert "outside the 2 classes" in problems(tmp_path, "multiclass", class_names=("a", "b"))[0]
    [problem] = problems(tmp_path, "multiclass", 4, class_names=("a", "b", "c"))
    assert "head.num_classes is 4, but data.class_names has 3 names" in problem
    assert "head=binary has 2" in problems(tmp_path, "binary", 3)[0]
    assert "head=binary has 2" in problems(tmp_path, "binary", class_names=("cell",))[0]
    assert "has 2" in problems(tmp_path, "multiclass", 3, instances=True)[0]
    [problem] = problems(tmp_path, "multiclass", class_colors=((0, 0, 0),))
    assert "data.class_colors has 1 colours, but there are 3 classes" in problem
    summary = checked(tmp_path, "multiclass", 5)
    assert summary.num_classes == 5
    assert summary.notes == ["no training mask has a pixel of: class 3, class 4"]


def test_names_give_the_number(tmp_path: Path) -> None:
    put(tmp_path, THREE, THREE)
    summary = checked(tmp_path, "multiclass", class_names=("sky", "tree", "road", "car"))
    assert summary.num_classes == 4
    assert summary.class_names == ("sky", "tree", "road", "car")
    assert summary.class_share[3] == 0
    assert summary.notes == ["no training mask has a pixel of: car"]


@pytest.mark.parametrize("high", [1, 255])
def test_overlapping_classes(tmp_path: Path, high: int) -> None:
    layers = np.dstack([HALF, 1 - HALF, HALF * 0, 1 | HALF]) * np.uint8(high)
    put(tmp_path, layers, layers, kind=".tif")
    summary = checked(tmp_path, "multilabel")
    assert summary.num_classes == 4
    assert summary.class_share == pytest.approx((0.6, 0.4, 0, 1))
    assert summary.coding.encode(layers).max() == 1
    assert "no training mask has a pixel of: class 2" in summary.notes
    [problem, _] = problems(tmp_path, "multilabel", 3)
    assert problem == "images/a.tif: its mask has 4 layers, but there are 3 classes"
    layers[0, 0, 0] = 9
    mask(tmp_path, "b.tif", layers)
    assert "the values 9, which are outside the 2 classes" in problems(tmp_path, "multilabel")[0]


def test_pixels_of_a_layer_that_are_not_labelled(tmp_path: Path) -> None:
    layers = np.dstack([HALF, HALF, HALF])
    layers[:, 0, 1] = 255
    put(tmp_path, layers, layers, kind=".tif")
    assert checked(tmp_path, "multilabel").class_share == pytest.approx((0.6, 0.75, 0.6))


def test_label_maps_with_a_multilabel_head(tmp_path: Path) -> None:
    put(tmp_path, THREE, THREE)
    summary = checked(tmp_path, "multilabel")
    assert summary.num_classes == 3
    assert "class 0 is learned like the others" in summary.notes[0]
    assert sum(summary.class_share) == pytest.approx(1)


def test_a_set_has_layers_or_has_none(tmp_path: Path) -> None:
    layers = np.dstack([HALF, HALF, HALF])
    put(tmp_path, layers, layers, HALF, kind=".tif")
    [problem] = problems(tmp_path, "multilabel")
    assert problem.startswith("images/c.tif: its mask has the shape (7, 5)")


# --- what is said of a good set ------------------------------------------------------------------


def test_empty_masks_are_noted_by_file(tmp_path: Path) -> None:
    put(tmp_path, HALF, HALF * 0, HALF)
    wanted = "1 of 3 masks are empty (background only): images/b.png"
    assert wanted in checked(tmp_path).notes
    assert wanted in checked(tmp_path, class_names=("membrane", "cell")).notes
    assert wanted in checked(tmp_path, "multiclass").notes
    assert checked(tmp_path, "multiclass", class_names=("sky", "tree")).notes == []


def test_masks_without_a_label_are_noted_by_file(tmp_path: Path) -> None:
    partly = HALF.copy()
    partly[0] = 255
    put(tmp_path, partly, HALF * 0 + 255, HALF)
    assert "1 of 3 masks have no labelled pixel: images/b.png" in checked(tmp_path).notes


def test_sizes_may_differ_between_images(tmp_path: Path) -> None:
    put(tmp_path, HALF, HALF, HALF)
    image(tmp_path, "a.png", np.tile(NOISE, (2, 1)))
    mask(tmp_path, "a.png", np.tile(HALF, (2, 1)))
    assert checked(tmp_path).one_size == {"train": False, "val": True, "test": True}


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_the_intensities_are_those_of_the_training(
    tmp_path: Path, dtype: str, channels: int
) -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(10, 200, (3, 40, 30, channels)).astype(dtype)
    labels = rng.integers(0, 2, (40, 30)).astype(np.uint8)
    for name, pixels in zip("abc", values, strict=True):
        image(tmp_path, f"{name}.tif", pixels)
        mask(tmp_path, f"{name}.png", labels)
    summary = checked(tmp_path)
    assert summary.in_channels == channels
    norm = summary.normalization
    assert norm.dtype == dtype
    if dtype == "uint8":
        assert (norm.low, norm.high) == (0, 255)
    else:
        assert np.shape(norm.low) == (() if channels in (1, 3) else (channels,))
        assert (np.array(norm.low) >= 10).all()
        assert (np.array(norm.low) < 11).all()
        assert (np.array(norm.high) >= 199).all()
        assert (np.array(norm.high) <= 200).all()
    train = np.stack([norm(pixels) for pixels in values[:2]]).reshape(-1, channels)
    assert summary.splits["train"][-1].name == "images/b.tif"
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-4)


def test_images_of_one_value(tmp_path: Path) -> None:
    put(tmp_path, HALF, HALF, pixels=np.full((H, W), 7, np.uint16), kind=".tif")
    norm = checked(tmp_path).normalization
    assert np.isfinite(norm(np.full((2, 2, 1), 7, np.uint16))).all()


def test_large_sets_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, HALF, HALF, HALF)
    monkeypatch.setattr(scanning, "PIXELS_PER_SET", 20)
    source = FolderSource("binary", root=tmp_path, split="blocks")
    kept = [facts.pixels for facts in scanning.scan(source, source.splits())]
    assert [None if pixels is None else pixels.shape for pixels in kept] == [(11, 1), (11, 1), None]


def stack(root: Path, **options: Any) -> DataSummary:
    for folder, values in (("images", NOISE), ("masks", HALF)):
        (root / folder).mkdir(exist_ok=True)
        pages = np.stack([values] * 20)
        tifffile.imwrite(root / folder / "s.tif", pages, photometric="minisblack", metadata=None)
    return checked(root, **options)


def test_pages_that_are_shuffled_are_noted(tmp_path: Path) -> None:
    assert stack(tmp_path, split="blocks").notes == []
    [note] = stack(tmp_path, split="random").notes
    assert "neighbouring pages of s.tif" in note
    assert "data.split=blocks" in note


def test_a_quick_scan_shows_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, HALF, HALF)
    checked(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not logging.getLogger("tifffile").disabled


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_the_built_in_set(mode: Any) -> None:
    summary = check(CellsSource(mode, train=6, val=2, test=0, size=(64, 48)), mode)
    assert summary.num_classes == (2 if mode == "binary" else 3)
    assert summary.class_names[0] == "background"
    assert summary.in_channels == 1
    assert all(summary.one_size.values())
    assert sum(summary.class_share) == pytest.approx(1)
    assert min(summary.class_share) > 0.01
