"""Sets as they are published, unpacked by someone who knows nothing of usual names."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from segkit.core.errors import SegkitError
from segkit.data.layout.discovery import discover
from segkit.data.layout.folders import find_pairs
from segkit.data.layout.pairs import Names
from segkit.images.writing import write_image, write_mask

MASK = np.eye(4, dtype=np.uint8)
SPLITS = {"train": 3, "val": 2, "test": 1}


def put(path: Path, pixels: np.ndarray = MASK) -> None:
    """Masks are PNGs, images JPEGs or TIFFs; other files hold text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        write_mask(path, pixels)
    elif path.suffix in (".jpg", ".tif"):
        write_image(path, np.arange(16, dtype=np.uint8).reshape(4, 4) * 9)
    else:
        path.write_text("text")


def make(root: Path, *names: str) -> None:
    """Files of samples: {n} is a number and {s} a split, by the names train,val,test."""
    for name in names:
        template, _, words = name.partition(" | ")
        splits = dict(zip(SPLITS, (words or "train").split(), strict=False))
        for split, word in splits.items():
            for n in range(SPLITS[split]):
                put(root / template.format(n=10 * len(split) + n, s=word))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("Kvasir/images/{n}.jpg", "Kvasir/masks/{n}.png"),  # a folder around all
        ("Original/{n}.jpg", "Ground Truth/{n}.png"),  # CVC-ClinicDB
        ("{s}/Original/{n}_A.jpg | train test", "{s}/Ground truth/{n}_A.png | train test"),  # FIVES
        (  # ISIC 2018
            "ISIC2018_Task1-2_{s}_Input/ISIC_00{n}.jpg | Training Validation Test",
            "ISIC2018_Task1_{s}_GroundTruth/ISIC_00{n}_segmentation.png | Training Validation Test",
        ),
        (
            "kaggle_3m/TCGA_CS_4{n}/TCGA_CS_4{n}_1.tif",
            "kaggle_3m/TCGA_CS_4{n}/TCGA_CS_4{n}_1_mask.png",
        ),
        ("{s}/{n}_sat.jpg", "{s}/{n}_mask.png"),  # DeepGlobe
        (
            "{s}/a{n}.rf.9c.jpg | train valid test",
            "{s}/a{n}.rf.9c_mask.png | train valid test",
        ),  # Roboflow
        ("{s}/0{n}_img.jpg | train test", "{s}/0{n}_masks.png | train test"),  # Cellpose
        ("train_{n}.jpg", "train_{n}_anno.png"),  # GlaS
        ("volume-{n}.jpg", "segmentation-{n}.png"),  # LiTS
        ("volume_pt{n}/volume-{n}.jpg", "segmentations/segmentation-{n}.png"),  # LiTS of Kaggle
        ("case_{n}/imaging.jpg", "case_{n}/segmentation.png"),  # KiTS
        ("Slide_{n}/{n}_1.jpg", "GT_{n}/{n}_1.png"),  # TNBC
        ("Tile {n}/images/part_1.jpg", "Tile {n}/masks/part_1.png"),  # Dubai
        (
            "{s}/Urban/images_png/{n}.jpg | Train Val",
            "{s}/Urban/masks_png/{n}.png | Train Val",
        ),  # LoveDA
        ("uavid_{s}/seq{n}/Images/0.jpg | train val", "uavid_{s}/seq{n}/Labels/0.png | train val"),
        ("img_dir/{s}/P{n}.jpg | train val", "ann_dir/{s}/P{n}_instance_color_RGB.png | train val"),
        (  # FloodNet
            "{s}/{s}-org-img/{n}.jpg | train val test",
            "{s}/{s}-label-img/{n}_lab.png | train val test",
        ),
        ("{s}_img/{n}.jpg | train test", "{s}_lab/{n}.png | train test"),  # DeepCrack
        (
            "{s}/sat/{n}.jpg | train valid test",
            "{s}/map/{n}.png | train valid test",
        ),  # Massachusetts
        ("humanparsing/JPEGImages/{n}.jpg", "humanparsing/SegmentationClassAug/{n}.png"),  # ATR
        (
            "images/10k/{s}/{n}.jpg | train val",
            "labels/sem_seg/masks/{s}/{n}.png | train val",
        ),  # BDD
        (  # FLAIR
            "aerial_{s}/D4/img/IMG_{n}.tif | train test",
            "labels_{s}/D4/msk/MSK_{n}.png | train test",
        ),
        ("DUTS-TR-Image/{n}.jpg", "DUTS-TR-Mask/{n}.png"),
        (
            "{s}/images/{n}_{s}.jpg | training test",
            "{s}/1st_manual/{n}_manual1.png | training test",
        ),
    ],
)
def test_public_sets_are_found(tmp_path: Path, image: str, mask: str) -> None:
    make(tmp_path, image, mask)
    layout = find_pairs(tmp_path, Names())
    assert layout.problems == []
    words = (image.partition(" | ")[2] or "train").split()
    expected = {}
    for split, word in zip(("train", "val", "test"), words, strict=False):
        split = "test" if word == "test" else split
        for n in range(SPLITS[split if len(words) != 2 or word != "test" else "val"]):
            expected[split, n] = word
    assert len(layout.pairs) == len(expected)
    for pair in layout.pairs:
        numbers = [
            set(re.findall(r"\d\d+", path.relative_to(tmp_path).as_posix())) for path in pair[1:3]
        ]
        assert numbers[0] & numbers[1]
        assert {pair.image.suffix, pair.mask.suffix} <= {".jpg", ".tif", ".png"}
        assert pair.mask.suffix == ".png"
    if len(words) > 1:
        assert {pair.split for pair in layout.pairs} == {key[0] for key in expected}
    assert image.startswith("images/10k") or "found by the rule" in layout.notes[0]


def test_samples_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    """LoveDA: 0.png of the town is not 0.png of the country."""
    for place, value in (("Urban", 1), ("Rural", 2)):
        for n in range(3):
            put(tmp_path / f"Train/{place}/images_png/{n}.jpg")
            put(tmp_path / f"Train/{place}/masks_png/{n}.png", MASK * value)
    patterns = Names(
        image_pattern="Train/*/images_png/{id}.jpg", mask_pattern="Train/*/masks_png/{id}.png"
    )
    for names in (Names(), patterns):
        layout = find_pairs(tmp_path, names)
        assert layout.problems == []
        assert len(layout.pairs) == 6
        assert all(pair.image.parts[-3:-2] == pair.mask.parts[-3:-2] for pair in layout.pairs)


def options(error: pytest.ExceptionInfo[SegkitError]) -> list[tuple[str, str]]:
    words = [word.strip("',") for word in re.findall(r"'data[^']*'", str(error.value))]
    keys = [shlex.split(word)[0].partition("=")[2].strip('"') for word in words]
    return list(zip(keys[::2], keys[1::2], strict=True))


@pytest.mark.parametrize(
    ("files", "masks"),
    [
        (  # DRIVE: the labels, and the field of view
            [
                "{s}/images/{n}_{s}.jpg | training test",
                "{s}/1st_manual/{n}_manual1.png | training test",
                "{s}/mask/{n}_{s}_mask.png | training test",
            ],
            ["{split}/1st_manual/{id}_manual1.png", "{split}/mask/{id}_mask.png"],
        ),
        (  # HRF likewise, with folders of usual names
            ["images/{n}_dr.jpg", "manual1/{n}_dr.png", "mask/{n}_dr_mask.png"],
            ["manual1/{id}.png", "mask/{id}_mask.png"],
        ),
        (  # a field of view beside labels whose folder has a name of its own
            ["images/{n}.jpg", "vessels/{n}.png", "mask/{n}.png"],
            ["mask/{id}.png", "vessels/{id}.png"],
        ),
        (
            ["stare-images/{n}.jpg", "labels-ah/{n}.ah.png", "labels-vk/{n}.vk.png"],
            ["labels-ah/{id}.ah.png", "labels-vk/{id}.vk.png"],
        ),
        (
            ["Image_{n}L.jpg", "Image_{n}L_1stHO.png", "Image_{n}L_2ndHO.png"],
            ["{id}_1stHO.png", "{id}_2ndHO.png"],
        ),
        (  # CVPPP
            ["plant{n}_rgb.png", "plant{n}_label.png", "plant{n}_centers.png", "plant{n}_fg.png"],
            ["{id}_centers.png", "{id}_fg.png", "{id}_label.png"],
        ),
        (  # Vistas
            [
                "{s}/images/{n}.jpg | training validation",
                "{s}/v1.2/labels/{n}.png | training validation",
                "{s}/v2.0/labels/{n}.png | training validation",
                "{s}/v2.0/instances/{n}.png | training validation",
            ],
            ["{split}/v1.2/labels/{id}.png", "{split}/v2.0/labels/{id}.png"],
        ),
        (["images/{n}.jpg", "v1.2/{n}.png", "v2.0/{n}.png"], ["v1.2/{id}.png", "v2.0/{id}.png"]),
        (  # Vesuvius
            ["train/{n}/ir.tif", "train/{n}/mask.png", "train/{n}/inklabels.png"],
            ["train/{id}/inklabels.png", "train/{id}/mask.png"],
        ),
        (["traincrop/{n}.jpg", "traincrop/{n}.png"], ["{id}.png"]),  # Crack500
        (
            ["DIS-TR/im/{n}.jpg", "DIS-TR/gt/{n}.png", "DIS-TE/im/{n}.jpg", "DIS-TE/gt/{n}.png"],
            ["DIS-TE/gt/{id}.png", "DIS-TR/gt/{id}.png"],
        ),
    ],
)
def test_a_doubt_lists_patterns_that_work(
    tmp_path: Path, files: list[str], masks: list[str]
) -> None:
    make(tmp_path, *files)
    with pytest.raises(SegkitError, match="say what are images and masks") as error:
        find_pairs(tmp_path, Names())
    assert "values 0, 1" in str(error.value)
    found = options(error)
    assert sorted(mask.rpartition("traincrop/")[2] for _, mask in found) == masks
    for image, mask in found:
        layout = find_pairs(tmp_path, Names(image_pattern=image, mask_pattern=mask))
        assert layout.problems == []
        assert len(layout.pairs) >= 3


def test_files_that_belong_to_masks_are_no_images(tmp_path: Path) -> None:
    """Mapillary Vistas: instances lie beside labels, and closer to them than the images."""
    make(
        tmp_path,
        "{s}/images/{n}.jpg | training validation",
        "{s}/labels/{n}.png | training validation",
        "{s}/instances/{n}.png | training validation",
    )
    layout = find_pairs(tmp_path, Names())
    assert {pair.mask.parent.name for pair in layout.pairs} == {"labels"}
    assert {pair.image.parent.name for pair in layout.pairs} == {"images"}
    make(tmp_path, "{s}/v2.0/labels/{n}.png | training", "{s}/v2.0/instances/{n}.png | training")
    found = discover([path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")])
    assert all("instances" not in choice.image for choice in found)


def test_validation_and_test_images_without_masks_are_left_out(tmp_path: Path) -> None:
    """DeepGlobe keeps the masks of both back."""
    make(tmp_path, "{s}/{n}_sat.jpg | train valid test", "{s}/{n}_mask.png | train")
    layout = find_pairs(tmp_path, Names())
    assert layout.problems == []
    assert {pair.split for pair in layout.pairs} == {"train"}
    assert "3 images for validation and testing have no masks and are left out" in layout.notes[1]


def test_train_val_is_what_is_not_for_testing(tmp_path: Path) -> None:
    """SUIM has train_val and TEST."""
    for folder, split in (("train_val", "train"), ("TEST", "test")):
        for n in range(2):
            put(tmp_path / folder / f"images/{split}{n}.jpg")
            put(tmp_path / folder / f"masks/{split}{n}.png")
    pairs = find_pairs(tmp_path, Names()).pairs
    assert {(pair.image.stem[:-1], pair.split) for pair in pairs} == {
        ("train", "train"),
        ("test", "test"),
    }


@pytest.mark.parametrize(
    "files",
    [
        ["a/{n}.jpg", "b/{n}.jpg"],
        ["{n}.jpg"],
        ["Tissue Images/{n}.jpg", "Annotations/{n}.xml"],  # MoNuSeg
        ["img/{n}.jpg", "anno/0/000{n}_hair.txt"],
    ],
)
def test_nothing_is_made_up(tmp_path: Path, files: list[str]) -> None:
    make(tmp_path, *files)
    with pytest.raises(SegkitError, match="neither a folder 'images'"):
        find_pairs(tmp_path, Names())


def test_many_files() -> None:
    names = [
        f"s{n % 97}/{kind}/{n:06}.{e}"
        for n in range(2_000)
        for kind, e in (("img", "jpg"), ("gt", "png"))
    ]
    [choice] = discover(names)
    assert (choice.image, choice.mask) == ("s*/img/{id}.jpg", "s*/gt/{id}.png")


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        (
            ["a/{n}.jpg", "a/{n}.jpg.json"],
            "3 .json files of annotations that are not read, such as",
        ),
        (["images/{n}.jpg", "labels.xml"], "There are 1 .xml files of annotations"),
        (["01/t0{n}.tif", "01_GT/SEG/man_seg0{n}.tif"], "data=tracking_challenge reads it"),
    ],
)
def test_what_is_read_otherwise_is_said(tmp_path: Path, files: list[str], remedy: str) -> None:
    make(tmp_path, *files)
    with pytest.raises(SegkitError, match=re.escape(remedy)):
        find_pairs(tmp_path, Names())


def test_second_masks_of_an_image_are_named(tmp_path: Path) -> None:
    """BUSI has a mask for each tumour."""
    for name in ("benign (1)", "benign (2)", "benign (3)"):
        put(tmp_path / f"benign/{name}.png")
        put(tmp_path / f"benign/{name}_mask.png")
    put(tmp_path / "benign/benign (2)_mask_1.png")
    layout = find_pairs(tmp_path, Names())
    assert len(layout.pairs) == 3
    assert layout.problems == [
        "benign/benign (2)_mask_1.png may be a second mask of benign/benign (2).png: write both"
        " into one file"
    ]
