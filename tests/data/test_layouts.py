"""Where images and masks lie, as people and public sets arrange them."""

import re
import shlex
import shutil
import unicodedata
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from segkit.core.errors import SegkitError
from segkit.data.layout.names import Pattern, Rule, find_rules
from segkit.data.sources.base import SPLITS
from segkit.data.sources.folder import FolderSource
from segkit.images.writing import write_image, write_mask

LABELS = np.eye(6, 5, dtype=np.uint8)


def put(root: Path, *names: str) -> None:
    """Images end in .jpg, masks in .png; an empty file is neither."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            write_mask(path, LABELS)
        elif path.suffix in (".jpg", ".tif"):
            write_image(path, LABELS * 200)
        else:
            path.write_text("no image")


def found(root: Path, **options) -> dict[str, list[str]]:
    source = FolderSource("binary", root=root, **options)
    divided = source.splits()
    assert source.problems() == []
    for samples in divided.values():
        for sample in samples:
            np.testing.assert_array_equal(source.read_mask(sample), LABELS)
    return {split: [sample.name for sample in divided[split]] for split in SPLITS}


def notes(root: Path, **options) -> list[str]:
    source = FolderSource("binary", root=root, **options)
    source.splits()
    return source.notes()


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
    assert problem.endswith(
        "If each shows a class, move them into a folder for each: masks/car/ ..."
    )


@pytest.mark.parametrize("ending", ["jpg", "nii.gz"])
def test_channels_in_several_files_are_refused(tmp_path: Path, ending: str) -> None:
    """nnU-Net's case_0000 and case_0001; only names are read."""
    for n in "abc":
        for number in range(2):
            path = tmp_path / f"imagesTr/case_{n}_{number:04d}.{ending}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"")
        (tmp_path / "labelsTr").mkdir(exist_ok=True)
        (tmp_path / f"labelsTr/case_{n}.{ending}").write_bytes(b"")
    [problem] = FolderSource("binary", root=tmp_path).problems()
    assert problem.startswith(
        f"2 images belong to each mask: imagesTr/case_a_0000.{ending} and"
        f" imagesTr/case_a_0001.{ending} to labelsTr/case_a.{ending}. Channels of an image are not"
    )
    assert typed(problem) == {
        "image_pattern": f"imagesTr/{{id}}_0000.{ending}",
        "mask_pattern": f"labelsTr/{{id}}.{ending}",
    }


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


# --- patterns ------------------------------------------------------------------------------------


def test_a_folder_for_each_sample(tmp_path: Path) -> None:
    for n in range(4):
        put(tmp_path, f"tile_{n}/image.jpg", f"tile_{n}/mask.png", f"tile_{n}/notes.txt")
    options = {"image_pattern": "{id}/image.jpg", "mask_pattern": "{id}/mask.png"}
    divided = found(tmp_path, **options)
    assert sum(map(len, divided.values())) == 4
    [note] = notes(tmp_path, **options)
    assert "4 files" in note
    assert "(4 .txt)" in note


def test_patterns_with_splits_and_stars(tmp_path: Path) -> None:
    for split, n in (("train", 1), ("train", 2), ("validation", 1)):
        put(tmp_path, f"{split}/x/scene_{n}_a.jpg", f"{split}/y/{n}.png")
    options = {"image_pattern": "{split}/x/*_{id}_a.jpg", "mask_pattern": "{split}/y/{id}.png"}
    divided = found(tmp_path, **options)
    assert [len(divided[split]) for split in SPLITS] == [2, 1, 0]


@pytest.mark.parametrize("image", ["{id}_a.jpg", "{split}/{id}_a.jpg"])
def test_patterns_never_mix_the_official_splits(tmp_path: Path, image: str) -> None:
    for split, n in (("train", 3), ("val", 2)):
        for i in range(n):
            put(tmp_path, f"{split}/{i}_a.jpg", f"{split}/{i}_b.png")
    put(tmp_path, "test/0_a.jpg")
    options = {"image_pattern": image, "mask_pattern": image.replace("_a.jpg", "_b.png")}
    divided = found(tmp_path, **options)
    assert [len(divided[split]) for split in SPLITS] == [3, 2, 0]
    assert divided["val"] == ["val/0_a.jpg", "val/1_a.jpg"]
    left_out, *by_folders = notes(tmp_path, **options)
    assert left_out == "1 images for testing have no masks and are left out: test/0_a.jpg"
    if "split" not in image:
        assert by_folders == ["the samples are divided by their folders train, val"]


def test_patterns_that_do_not_match(tmp_path: Path) -> None:
    put(tmp_path, "a_rgb.jpg", "a_gt.png", "b_rgb.jpg", "c_gt.png")
    source = FolderSource(
        "binary", root=tmp_path, image_pattern="{id}_x.jpg", mask_pattern="{id}_gt.png"
    )
    [problem] = source.problems()
    assert "matches data.image_pattern={id}_x.jpg. There are 4 image files: a_gt.png" in problem
    source = FolderSource(
        "binary", root=tmp_path, image_pattern="{id}_rgb.jpg", mask_pattern="{id}_gt.png"
    )
    assert len(source.problems()) == 2
    assert "c_gt.png is a mask without an image" in source.problems()
    for options in ({"image_pattern": "{id}.jpg"}, {"mask_pattern": "{id}.png"}):
        with pytest.raises(SegkitError, match="belong together"):
            FolderSource("binary", root=tmp_path, **options)
    with pytest.raises(SegkitError, match=r"has no \{id\}"):
        found(tmp_path, image_pattern="a.jpg", mask_pattern="{id}.png")


def put_arrays(path: Path) -> None:
    """A file with an image, its mask and something else."""
    values = {"vol/raw": LABELS * 200, "vol/mask": LABELS, "other": LABELS[:2]}
    if path.suffix == ".h5":
        with pytest.importorskip("h5py", reason="the extra hdf5 is not installed").File(
            path, "w"
        ) as file:
            file.update(values)
    elif path.suffix == ".npz":
        np.savez(path, **values)
    else:
        group = zarr.create_group(path)
        for name, array in values.items():
            group.create_array(name, data=array)


@pytest.mark.parametrize("ending", [".h5", ".npz", ".zarr"])
def test_arrays_of_one_file(tmp_path: Path, ending: str) -> None:
    for n in range(3):
        put_arrays(tmp_path / f"{n}{ending}")
    put(tmp_path, "masks/0.png", "masks/1.png", "masks/2.png")
    raw = f"{{id}}{ending}::vol/raw"
    for mask in (f"{{id}}{ending}::vol/mask", "masks/{id}.png"):
        divided = found(tmp_path, image_pattern=raw, mask_pattern=mask)
        assert sorted(chain(*divided.values())) == [f"{n}{ending}" for n in range(3)]
    with pytest.raises(SegkitError, match=r"the name of an array\. List .* data\.pairs=FILE\.csv"):
        found(tmp_path, image_pattern=f"0{ending}::{{id}}", mask_pattern="{id}.png")
    lines = [f"{n}{ending}::vol/raw,{n}{ending}::vol/mask" for n in range(3)]
    for header in (["image,mask"], []):
        (tmp_path / "p.csv").write_text("\n".join([*header, *lines]))
        source = FolderSource("binary", pairs=tmp_path / "p.csv")
        samples = list(chain(*source.splits().values()))
        assert source.problems() == []
        assert sorted(sample.name for sample in samples) == [line.split(",")[0] for line in lines]
        for sample in samples:
            np.testing.assert_array_equal(source.read_image(sample)[..., 0], LABELS * 200)
            np.testing.assert_array_equal(source.read_mask(sample), LABELS)
    (tmp_path / "p.csv").write_text(f"image,mask\nno{ending}::raw,0{ending}::vol/mask")
    [problem] = FolderSource("binary", pairs=tmp_path / "p.csv").problems()
    assert problem.startswith("p.csv, line 2: there is no file ")


@pytest.mark.parametrize(
    ("shape", "read"),
    [((3, 64, 40), "(C, H, W)"), ((40, 64, 40), "(pages, H, W)"), ((64, 40, 3), "(H, W, C)")],
)
@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5", ".zarr"])
def test_how_unnamed_axes_are_read_is_said(tmp_path: Path, ending: str, shape, read) -> None:
    def put_array(path: Path, values: np.ndarray, axes: str) -> None:
        path.parent.mkdir(exist_ok=True)
        if ending == ".npy":
            np.save(path, values)
        elif ending == ".npz":
            np.savez(path, values)
        elif ending == ".h5":
            with pytest.importorskip("h5py", reason="the extra hdf5 is not installed").File(
                path, "w"
            ) as file:
                file["a"] = values
                for dimension, axis in zip(file["a"].dims, axes, strict=False):
                    dimension.label = axis
        else:
            zarr.create_array(path, data=values, dimension_names=axes or None)

    image, mask = np.zeros(shape, np.uint8), np.zeros((64, 40), np.uint8)
    if read == "(pages, H, W)":
        mask = np.zeros(shape, np.uint8)
    for n in range(3):
        put_array(tmp_path / f"images/{n}{ending}", image, "")
        put_array(tmp_path / f"masks/{n}{ending}", mask, "")
    [note] = notes(tmp_path)
    masks = f", as {read} in 3 masks (0{ending} is {shape})" if mask.ndim == 3 else ""
    assert note == (
        f"axes of arrays that their files do not name are read as {read} in 3 images (0{ending} is"
        f" {shape}){masks}. If they mean something else, name them (HDF5, zarr, OME-TIFF), or save"
        " arrays as (pages, H, W, C)"
    )
    if ending in (".h5", ".zarr"):
        for n in range(3):
            shutil.rmtree(tmp_path / f"images/{n}.zarr", ignore_errors=True)
            put_array(
                tmp_path / f"images/{n}{ending}", image, {"(H, W, C)": "yxc"}.get(read, "cyx")
            )
        assert not [note for note in notes(tmp_path) if "images" in note]


def test_channels_that_viewers_show_as_pages_are_said(tmp_path: Path) -> None:
    for n in range(3):
        put(tmp_path, f"masks/{n}.png")
        (tmp_path / "images").mkdir(exist_ok=True)
        values = np.zeros((*LABELS.shape, 5), np.uint8)
        tifffile.imwrite(tmp_path / f"images/{n}.tif", np.tile(values, (5, 5, 1)))
    [note] = notes(tmp_path)
    assert "are read as (H, W, C) in 3 images (0.tif is (30, 25, 5))" in note


def test_an_id_may_occur_twice_in_a_pattern() -> None:
    pattern = Pattern("{id}/images/{id}.png", "data.image_pattern")
    assert pattern.match("7/images/7.png") == ("7", "")
    assert pattern.match("7/images/8.png") is None
    assert pattern.match("a.b/images/a.b.png") == ("a.b", "")


# --- what is not used ----------------------------------------------------------------------------


def test_what_is_not_used_is_counted_and_named(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "masks/a.png", "images/a.xml", "images/b.xml", "masks/a.txt")
    put(
        tmp_path,
        "overlays/a.png",
        "readme.md",
        "images/Thumbs.db",
        "images/a.jgw",
        "images/a.jpg.aux.xml",
        ".hidden/a.png",
        "images/._a.jpg",
    )
    assert notes(tmp_path) == [
        "2 files in images are not used (2 .xml): a.xml, b.xml",
        "1 file in masks is not used (1 .txt): a.txt",
        f"not used in {tmp_path}: overlays/, readme.md",
    ]
    assert sum(map(len, found(tmp_path).values())) == 1


def test_other_files_beside_masks_with_a_suffix_do_not_stop(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "masks/a_mask.png", "masks/a_overlay.png")
    assert sum(map(len, found(tmp_path, mask_suffix="_mask").values())) == 1
    [note] = notes(tmp_path, mask_suffix="_mask")
    assert "1 file in masks is not used (1 .png): a_overlay.png" in note


def test_folders_that_are_named_are_not_compared_with_others(tmp_path: Path) -> None:
    put(tmp_path, "A/1.jpg", "B/1.png", "C/1.png", "readme.md")
    assert notes(tmp_path, images="A", masks="B") == []


@pytest.mark.parametrize(
    "place",
    [
        "{split}/images/{n}.jpg {split}/masks/{n}.png",
        "images/{split}/{n}.jpg masks/{split}/{n}.png",
        "images/{split}/{n}_rgb.jpg masks/{split}/{n}_gt.png",
    ],
)
def test_images_for_testing_without_masks_are_left_out(tmp_path: Path, place: str) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        for n in range(count):
            image, mask = place.format(split=split, n=n).split()
            put(tmp_path, image, *[mask] * (split != "test"))
    assert [len(found(tmp_path)[split]) for split in SPLITS] == [3, 2, 0]
    assert notes(tmp_path)[0].startswith("2 images for testing have no masks and are left out: ")
    mask = place.format(split="test", n=0).split()[1]
    put(tmp_path, mask.replace(".png", ".xcf"))
    assert FolderSource("binary", root=tmp_path).problems()  # masks are there, but not read
    put(tmp_path, mask)
    assert len(FolderSource("binary", root=tmp_path).problems()) == 1  # a mask is missing


def test_other_endings_are_named(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jxr", "images/b.cr2", "masks/a.png")
    assert FolderSource("binary", root=tmp_path).problems() == [
        "images contains no images that can be read, only other files (1 .jxr, 1 .cr2): convert"
        " them to PNG or TIFF"
    ]
    for split, ending in (("train", "jpg"), ("test", "jxr")):
        put(tmp_path / "split", f"{split}/images/{split}.{ending}", f"{split}/masks/{split}.png")
    [problem] = FolderSource("binary", root=tmp_path / "split").problems()
    assert problem.startswith("test/images contains no images that can be read")
    put(tmp_path / "other", "images/a.jpg", "masks/a.xcf")
    [problem] = FolderSource("binary", root=tmp_path / "other").problems()
    assert problem.startswith("masks contains no masks that can be read, only other files (1 .xcf)")


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "images/a.jpg", "masks/a.png")
    put(tmp_path / "set", "images/b.jpg", "masks/b.png")
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind / "more").symlink_to(tmp_path / "elsewhere" / kind)
        (tmp_path / "set" / kind / "again").symlink_to(tmp_path / "set" / kind)
    divided = found(tmp_path / "set")
    names = sorted(name for part in divided.values() for name in part)
    assert names == ["images/b.jpg", "images/more/a.jpg"]


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "images/a.jpg,masks/a.png\nimages/b.jpg,masks/b.png\n",
        "image,mask\nimages\\a.jpg,masks\\a.png\nimages\\b.jpg,masks\\b.png\n",
        "filename,mask\nimages/a.jpg,masks/a.png\nimages/b.jpg,masks/b.png\n",
        "Id;img_path;label\n1;images/a.jpg;masks/a.png\n\n2;images/b.jpg;masks/b.png\n",
        "\ufeffIMAGE\tMASK\nimages/a.jpg\tmasks/a.png\nimages/b.jpg\tmasks/b.png\n",
    ],
)
def test_tables_as_people_write_them(tmp_path: Path, text: str) -> None:
    put(tmp_path, "images/a.jpg", "masks/a.png", "images/b.jpg", "masks/b.png")
    (tmp_path / "pairs.csv").write_text(text, encoding="utf-8")
    source = FolderSource("binary", pairs=tmp_path / "pairs.csv", val_fraction=0.5)
    assert source.problems() == []
    names = sorted(s.name for part in source.splits().values() for s in part)
    assert names == ["images/a.jpg", "images/b.jpg"]


# --- splits of public sets -----------------------------------------------------------------------


def test_lists_of_public_sets_divide(tmp_path: Path) -> None:
    for n in range(5):
        put(tmp_path, f"JPEGImages/{n}.jpg", f"SegmentationClass/{n}.png")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n1\n2\n")
    (lists / "val.txt").write_text("3\n4\n")
    assert found(tmp_path)["val"] == ["JPEGImages/3.jpg", "JPEGImages/4.jpg"]
    assert any("val.txt" in note for note in notes(tmp_path))
    (lists / "val.txt").write_text("3\nsomething else\n")
    assert len(found(tmp_path)["val"]) == 1  # one of five at random


def test_pascal_voc(tmp_path: Path) -> None:
    """Most of its images have no masks, and its boxes lie in a folder called like one of masks."""
    for n in range(9):
        put(tmp_path, f"JPEGImages/{n}.jpg")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / f"Annotations/{n}.xml").write_text("<annotation/>")
    for n in range(5):
        put(tmp_path, f"SegmentationClass/{n}.png", f"SegmentationObject/{n}.png")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for name, numbers in (("train", "012"), ("val", "34"), ("trainval", "01234")):
        (lists / f"{name}.txt").write_text("\n".join(numbers))
    names = {split: [name[11] for name in part] for split, part in found(tmp_path).items()}
    assert names == {"train": ["0", "1", "2"], "val": ["3", "4"], "test": []}
    assert any("4 images that no list" in note for note in notes(tmp_path))


@pytest.mark.parametrize(
    "names", [("train2017", "val2017"), ("train_set", "val_set"), ("Training", "eval")]
)
def test_names_that_contain_a_split(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, count in zip(names, (3, 2), strict=True):
        for n in range(count):
            put(tmp_path, f"images/{name}/{name}{n}.jpg", f"masks/{name}/{name}{n}.png")
            put(tmp_path / "deep", f"images/x/{name}/{n}.jpg", f"masks/x/{name}/{n}.png")
    for root in (tmp_path, tmp_path / "deep"):
        assert [len(found(root)[split]) for split in SPLITS] == [3, 2, 0]


def test_nnunet_and_ade20k(tmp_path: Path) -> None:
    for n in range(4):
        put(tmp_path / "a", f"imagesTr/c_{n}_0000.jpg", f"labelsTr/c_{n}.png")
        put(tmp_path / "b", f"images/training/{n}.jpg", f"annotations/training/{n}.png")
    put(tmp_path / "a", "imagesTs/c_7_0000.jpg", "labelsTs/c_7.png")
    put(tmp_path / "b", "images/validation/v.jpg", "annotations/validation/v.png")
    assert found(tmp_path / "a")["test"] == ["imagesTs/c_7_0000.jpg"]
    assert found(tmp_path / "b")["val"] == ["images/validation/v.jpg"]


def test_a_column_is_valid(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "a.png", "b.png")
    (tmp_path / "p.csv").write_text(
        "fname,image,mask,is_valid\n1,a.jpg,a.png,False\n2,b.jpg,b.png,True\n"
    )
    splits = FolderSource("binary", pairs=tmp_path / "p.csv").splits()
    assert [sample.name for sample in splits["val"]] == ["b.jpg"]


def read_table(root: Path, column: str, values: list[str]) -> tuple[list[int], list[str]]:
    """The number of samples in the splits, and the notes, of a table with such a column."""
    names = [f"{n}" for n in range(len(values))]
    put(root, *[f"{n}{ending}" for n in names for ending in (".jpg", ".png")])
    rows = [f"{n}.jpg,{n}.png,P{n},{v}" for n, v in zip(names, values, strict=True)]
    (root / "p.csv").write_text("\n".join([f"image,mask,patient,{column}", *rows]))
    source = FolderSource("binary", pairs=root / "p.csv", val_fraction=0.25)
    splits = source.splits()
    assert source.problems() == []
    return [len(splits[split]) for split in SPLITS], source.notes()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("split", ["train", "train", "val"]),
        ("Partition", ["train", "Train", "valid"]),
        ("set", ["training", "training", "validation"]),
        ("phase", ["train", "train", "val"]),
        ("is_valid", ["0", "0", "1"]),
        ("is_val", ["FALSE", "FALSE", "TRUE"]),
    ],
)
def test_a_column_that_divides_under_any_name(tmp_path: Path, column, values) -> None:
    counts, told = read_table(tmp_path, column, values)
    assert counts == [2, 1, 0]
    assert told[-1] == "columns of p.csv that are not used: patient"
    if column != "split":
        assert told[0] == f"the samples are divided by the column {column.lower()} of p.csv"


@pytest.mark.parametrize("column", ["fold", "is_test", "subset"])
def test_columns_that_do_not_divide_are_named_with_the_remedy(tmp_path: Path, column) -> None:
    counts, [note] = read_table(tmp_path, column, ["0", "1", "2", "0"])
    assert counts == [3, 1, 0]
    assert note == (
        f"columns of p.csv that are not used: patient, {column}. Named split, with train, val and"
        " test, a column would divide the samples"
    )


def test_a_table_without_a_column_is_divided_by_the_folders_of_its_images(tmp_path: Path) -> None:
    names = ["train/1", "train/2", "val/1"]
    put(tmp_path, *[f"{n}{ending}" for n in names for ending in (".jpg", ".png")])
    (tmp_path / "p.csv").write_text("\n".join(f"{n}.jpg,{n}.png,," for n in names))
    source = FolderSource("binary", pairs=tmp_path / "p.csv")
    assert [len(source.splits()[split]) for split in SPLITS] == [2, 1, 0]
    assert source.notes() == [
        "columns of p.csv that are not used: column 4",
        "the samples are divided by their folders train, val",
    ]
