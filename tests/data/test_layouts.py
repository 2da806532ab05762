"""Where images and masks lie, as people and public sets arrange them."""

import re
import shlex
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from data.layouts import LABELS, found, notes, put

from segkit.data.layout.names import Rule, find_rules
from segkit.data.sources.base import SPLITS
from segkit.data.sources.folder import FolderSource
from segkit.images.writing import write_image, write_mask

# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "{split}/images/{n}.jpg {split}/masks/{n}.png",
        "images/{split}/{n}.jpg masks/{split}/{n}.png",
        "images/{split}/deep/{n}.jpg masks/{split}/deep/{n}.png",
        "{split}/{n}.jpg {split}annot/{n}.png",  # SegNet's CamVid
        "{split}/{n}.jpg {split}_labels/{n}.png",  # CamVid of Kaggle
        "{split}/img/{n}.jpg {split}/gt/{n}.png",
        "images/{split}/{n}.jpg annotations/{split}/{n}.png",  # ADE20K
        "JPEGImages/{split}/{n}.jpg SegmentationClass/{split}/{n}.png",
    ],
)
@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("training", "validation", "testing"), ("Train", "Valid")]
)
def test_splits_of_folders(tmp_path: Path, place: str, names: tuple[str, ...]) -> None:
    for split, count in zip(names, (3, 2, 1), strict=False):
        for n in range(count):
            put(tmp_path, *place.format(split=split, n=f"{split}{n}").split())
    options = {"masks": "annotations"} if "annotations" in place else {}
    divided = found(tmp_path, **options)
    assert [len(divided[split]) for split in SPLITS] == [3, 2, 1 if len(names) > 2 else 0]
    for split, name in zip(SPLITS, names, strict=False):
        assert all(f"{name}" in path for path in divided[split])


def test_validation_is_taken_from_training_where_only_a_test_is_given(tmp_path: Path) -> None:
    for n in range(8):
        put(tmp_path, f"images/train/{n}.jpg", f"masks/train/{n}.png")
    put(tmp_path, "images/test/t.jpg", "masks/test/t.png")
    divided = found(tmp_path, val_fraction=0.25)
    assert [len(divided[split]) for split in SPLITS] == [6, 2, 1]
    assert divided["test"] == ["images/test/t.jpg"]


def test_images_outside_of_the_folders_of_splits_are_no_training_images(tmp_path: Path) -> None:
    for name in ("train/a", "val/b", "extra/c", "d"):
        put(tmp_path, f"images/{name}.jpg", f"masks/{name}.png")
    source = FolderSource("binary", root=tmp_path)
    [problem] = source.problems()
    assert problem.startswith(
        "2 images are in no folder of a split (images/d.jpg, images/extra/c.jpg)"
    )


def test_folders_that_are_called_like_a_split_by_chance(tmp_path: Path) -> None:
    """Photographs of trains, and no validation beside them."""
    put(tmp_path, *[f"{kind}/{x}/a{e}" for x in ("train", "car", "bus") for kind, e in KINDS])
    divided = found(tmp_path)
    assert sum(map(len, divided.values())) == 3
    assert len(divided["val"]) == 1


KINDS = [("images", ".jpg"), ("masks", ".png")]


def test_several_roots_are_one_set(tmp_path: Path) -> None:
    for name in ("first", "second"):
        put(tmp_path / name, "images/a.jpg", "masks/a.png")
    divided = found([tmp_path / "first", tmp_path / "second"], val_fraction=0.5)
    names = sorted(name for part in divided.values() for name in part)
    assert names == ["first/images/a.jpg", "second/images/a.jpg"]
    put(tmp_path / "third", "images/train/a.jpg", "masks/train/a.png")
    put(tmp_path / "third", "images/val/b.jpg", "masks/val/b.png")
    divided = found([tmp_path / "third", tmp_path / "third"][:1])
    assert divided["val"] == ["images/val/b.jpg"]


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("top_{}_RGBIR.jpg", "top_{}_label.png"),  # ISPRS Potsdam
        ("aachen_{}_leftImg8bit.jpg", "aachen_{}_gtFine_labelIds.png"),
        ("case_{}_0000.jpg", "case_{}.png"),  # nnU-Net
        ("IMG_{}.jpg", "MASK_{}.png"),
        ("{}.jpg", "{}_segmentation.png"),
        ("{}_sat.jpg", "{}_mask.png"),
        ("sub/{}_a.jpg", "sub/{}_b.png"),
        ("frame{}.jpg", "label{}.png"),
    ],
)
def test_names_that_pair_by_a_rule(tmp_path: Path, image: str, mask: str) -> None:
    for n in ("10", "11", "2_7", "130"):
        put(tmp_path, f"images/{image.format(n)}", f"masks/{mask.format(n)}")
    divided = found(tmp_path)
    assert sum(map(len, divided.values())) == 4
    source = FolderSource("binary", root=tmp_path)
    for samples in source.splits().values():
        for sample in samples:
            number = sample.mask.stem.removeprefix(Path(mask.partition("{}")[0]).name)
            assert number.startswith(("10", "11", "2_7", "130"))
            n = next(n for n in ("10", "11", "2_7", "130") if sample.image.match(f"*{n}*"))
            assert sample.mask == tmp_path / "masks" / mask.format(n)
    [note] = notes(tmp_path)
    assert note.startswith("masks are paired with images by the rule ")


def test_the_proposed_patterns_work(tmp_path: Path) -> None:
    for n in range(3):
        put(tmp_path, f"images/t{n}_RGB.jpg", f"masks/t{n}_label.png")
    [note] = notes(tmp_path)
    options = typed(note)
    assert options == {
        "image_pattern": "images/{id}_RGB.jpg",
        "mask_pattern": "masks/{id}_label.png",
    }
    assert sum(map(len, found(tmp_path, **options).values())) == 3


def typed(message: str, count: int = 2) -> dict[str, str]:
    """The first options in a message, as a shell and Hydra read them."""
    texts = re.findall(r"'data\.\w+=[^']*'|data\.\w+=\S+", message)[:count]
    pairs = (shlex.split(text)[0].split("=", 1) for text in texts)
    return {key.removeprefix("data."): value.strip('"') for key, value in pairs}


@pytest.mark.parametrize("before", ["", "IMG_"])
def test_proposed_patterns_keep_the_official_validation(tmp_path: Path, before: str) -> None:
    """Also where a mask is missing, so that the rule is only proposed."""
    for name in ("train/a/1", "train/b/2", "val/c/3"):
        folder, _, n = name.rpartition("/")
        put(tmp_path, f"images/{folder}/{before}{n}_rgb.jpg", f"masks/{folder}/{n}_gt.png")
    put(tmp_path, f"images/train/b/{before}9_rgb.jpg")
    [problem] = FolderSource("binary", root=tmp_path).problems()
    options = typed(problem)
    assert options["image_pattern"].startswith("images/{split}/")
    source = FolderSource("binary", root=tmp_path, **options)
    assert [len(source.splits()[split]) for split in SPLITS] == [2, 1, 0]
    assert len(source.problems()) == 1


def test_zeros_before_numbers_lead_to_no_wrong_rule(tmp_path: Path) -> None:
    for n in range(1, 13):
        put(tmp_path, f"images/img_{n}.jpg", f"masks/mask_{n:03d}.png")
    [problem] = FolderSource("binary", root=tmp_path).problems()
    assert "pattern" not in problem
    assert problem.endswith("data.pairs=FILE.csv pairs files of any names")


def test_several_kinds_of_masks_are_told_apart(tmp_path: Path) -> None:
    """Cityscapes: colours, labels and objects beside each other, in a folder for each city."""
    colours = np.dstack([LABELS * 128, LABELS * 64, LABELS * 128])
    for city, split in (("aachen", "train"), ("bochum", "train"), ("munster", "val")):
        for n in range(2):
            place = f"{split}/{city}/{city}_{n:06d}_000019_"
            put(tmp_path, f"leftImg8bit/{place}leftImg8bit.jpg", f"gtFine/{place}gtFine_ids.png")
            write_mask(tmp_path / f"gtFine/{place}gtFine_more.png", LABELS * 7)
            write_image(tmp_path / f"gtFine/{place}gtFine_color.png", colours)
    [problem] = FolderSource("binary", root=tmp_path).problems()
    assert "There are 3 masks for each image, so say which" in problem
    for kind, content in (("ids", "values 0, 1"), ("more", "values 0, 7"), ("color", "colours")):
        mask = f"gtFine/{{split}}/{{id}}_gtFine_{kind}.png"
        assert f"'data.mask_pattern=\"{mask}\"' ({content})" in problem
    options = typed(problem)
    assert options["image_pattern"] == "leftImg8bit/{split}/{id}_leftImg8bit.jpg"
    options["mask_pattern"] = "gtFine/{split}/{id}_gtFine_ids.png"
    assert [len(found(tmp_path, **options)[split]) for split in SPLITS] == [4, 2, 0]


def test_masks_of_the_name_of_their_image_are_taken_among_other_kinds(tmp_path: Path) -> None:
    for n in ("1", "2", "17"):
        put(tmp_path, f"images/{n}.jpg", f"masks/{n}.png", f"masks/{n}_color.png")
    assert sum(map(len, found(tmp_path).values())) == 3
    assert notes(tmp_path) == [
        "3 files in masks are not used (3 .png): 17_color.png, 1_color.png, 2_color.png"
    ]
    put(tmp_path, "masks/170.png")
    assert FolderSource("binary", root=tmp_path).problems() == [
        "masks/170.png is a mask without an image"
    ]


def test_a_mask_for_each_class_by_its_name(tmp_path: Path) -> None:
    for n in "ab":
        put(tmp_path, f"images/{n}.jpg", f"masks/{n}_road.png", f"masks/{n}_car.png")
    [problem] = FolderSource("binary", root=tmp_path).problems()
    assert "data.mask_suffix=_car (values 0, 1), or data.mask_suffix=_road (values" in problem
    assert problem.endswith("If each shows a class, data.labels=class_masks reads them as classes")
    source = FolderSource("multiclass", root=tmp_path, labels="class_masks")
    assert (source.problems(), source.class_names) == ([], ("background", "car", "road"))
    (tmp_path / "images").rename(tmp_path / "pictures")
    source = FolderSource("multiclass", root=tmp_path, images="pictures", labels="class_masks")
    assert (source.problems(), source.class_names) == ([], ("background", "car", "road"))


def test_masks_of_classes_that_do_not_occur_in_all_images(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "masks/a_EX.png", "masks/a_MA.png")
    put(tmp_path, "images/b.jpg", "masks/b_EX.png")
    [problem] = FolderSource("binary", root=tmp_path).problems()
    assert problem.endswith(
        "Did you mean data.mask_suffix=_EX? Or data.labels=class_masks, if each mask shows a class?"
    )


def test_a_rule_that_leaves_a_doubt_is_only_proposed(tmp_path: Path) -> None:
    for n in range(3):
        put(tmp_path, f"images/{n}_rgb.jpg", f"masks/{n}_gt.png")
    put(tmp_path, "images/9_rgb.jpg")
    [problem] = FolderSource("binary", root=tmp_path).problems()
    assert "none of the 4 images in images has a mask in masks" in problem
    assert "{id}_rgb.jpg" in problem
    assert "{id}_gt.png" in problem


def test_names_without_a_rule(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "images/b.jpg", "masks/x.png", "masks/y.png")
    [problem] = FolderSource("binary", root=tmp_path).problems()
    assert "images/a.jpg needs masks/a.png, and there is x.png" in problem
    assert "data.pairs=FILE.csv" in problem


@pytest.mark.parametrize("change", [str.upper, str.title])
def test_names_in_another_case(tmp_path: Path, change) -> None:
    for name in ("ab", "cd"):
        put(tmp_path, f"images/{name}.jpg", f"masks/{change(name)}.png")
    assert sum(map(len, found(tmp_path).values())) == 2


def test_accents_and_double_endings(tmp_path: Path) -> None:
    name = "Zellgröße"
    put(tmp_path, f"images/{unicodedata.normalize('NFD', name)}.jpg")
    put(tmp_path, f"masks/{unicodedata.normalize('NFC', name)}.png")
    put(tmp_path, "images/a.ome.tif", "masks/a.png", "images/b.tif", "masks/b.png")
    assert sum(map(len, found(tmp_path).values())) == 3


def test_masks_in_one_folder_for_images_in_several(tmp_path: Path) -> None:
    put(tmp_path, "images/x/a.jpg", "images/y/b.jpg", "masks/a.png", "masks/b.png")
    assert sum(map(len, found(tmp_path).values())) == 2


def test_rules_are_found_for_many_names_in_little_time() -> None:
    images = [f"city_{n:06d}_left" for n in range(20_000)]
    masks = [f"city_{n:06d}_gt_{kind}" for n in range(20_000) for kind in ("ids", "color")]
    rules = find_rules(images, masks)
    best = {rule for rule, count in rules if count == 20_000}
    assert {r.mask_after for r in best if r.mask_before == ""} == {"_gt_ids", "_gt_color"}


def test_a_rule() -> None:
    rule = Rule("img_", "_rgb", "", "_gt")
    assert rule.mask_stem("deep/img_7_rgb") == "deep/7_gt"
    assert rule.mask_stem("deep/7_rgb") is None
    assert rule.mask_stem("img__rgb") is None
