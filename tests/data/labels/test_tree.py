"""Files below a folder, how annotations name them, and which format a folder holds."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from segkit.core.errors import SegkitError
from segkit.data.labels.base import LabelFormat, find_formats, read_annotations
from segkit.data.labels.tree import FileTree, find_split, read_split
from segkit.images.writing import write_image


def make_tree(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return FileTree(root)


def test_hidden_files_are_skipped_and_links_are_followed_once(tmp_path):
    make_tree(tmp_path, "b.png", "a/c.PNG", ".x/d.png", "a/.e.png", "__MACOSX/b.png", "t.txt")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "z").symlink_to(tmp_path / ".x")
    tree = FileTree(tmp_path)
    assert tree.files == ["a/c.PNG", "b.png", "t.txt", "z/d.png"]
    assert tree.images == ["a/c.PNG", "b.png", "z/d.png"]
    with pytest.raises(SegkitError, match="no folder"):
        FileTree(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1.png", "1.png"),
        ("./train/1.png", "train/1.png"),
        ("train\\1.png", "train/1.png"),
        ("TRAIN/1.PNG", "train/1.png"),
        ("../val/1.png", "val/1.png"),
        ("deep/2.jpg", "train/deep/2.jpg"),
        ("2.jpg", "train/deep/2.jpg"),
        ("elsewhere/2.jpg", "train/deep/2.jpg"),
        ("C:\\data\\deep\\2.jpg", "train/deep/2.jpg"),
        ("/home/me/val/1.png", "val/1.png"),
        ("/home/me/2.jpg", "train/deep/2.jpg"),
    ],
)
def test_images_are_found_as_they_are_named(tmp_path, name, expected):
    tree = make_tree(tmp_path, "1.png", "train/1.png", "val/1.png", "train/deep/2.jpg")
    assert tree.find_image(name, [""]) == expected


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("3.png", "no image 3.png"),
        ("val/2.jpg", "no image val/2.jpg"),  # another image of that name is not taken
        ("/home/me/1.png", "may be train/1.png or val/1.png: write its folder"),
        ("", "no image is named"),
        ("notes.txt", "notes.txt is not an image"),
        ("../../etc/passwd", "no image ../../etc/passwd"),
        ("a" * 5000, "no image"),
        ("../a\0b.png", "no image"),
    ],
)
def test_images_that_are_not_there_or_not_clear(tmp_path, name, problem):
    tree = make_tree(tmp_path, "train/1.png", "val/1.png", "train/2.jpg", "notes.txt")
    with pytest.raises(SegkitError, match=problem):
        tree.find_image(name, [""])


def test_nearer_folders_come_first(tmp_path):
    tree = make_tree(tmp_path, "train/1.png", "val/1.png", "annotations/val.json")
    near = tree.list_near("annotations/val.json")
    assert tree.find_image("1.png", near) == "val/1.png"
    assert tree.find_image("1.png", tree.list_near("x/instances_train.json")) == "train/1.png"


def test_a_path_out_of_the_tree_must_exist_as_it_is_written(tmp_path):
    make_tree(tmp_path, "images/1.png", "secret.png")
    tree = make_tree(tmp_path / "set", "labels/a.json")
    assert tree.find_image("../../images/1.png", ["labels", ""]) == "../images/1.png"
    for name in (str(tmp_path / "secret.png"), "images/1.png", "../../../secret.png"):
        with pytest.raises(SegkitError, match="no image"):
            tree.find_image(name, ["labels", ""])


def test_accents_and_case_do_not_matter(tmp_path):
    name = "Zürich.png"
    tree = make_tree(tmp_path, unicodedata.normalize("NFD", name))
    found = tree.find_image(unicodedata.normalize("NFC", name).upper(), [""])
    assert unicodedata.normalize("NFC", found) == name
    assert tree.find_by_stem("zürich", [""]) == found


def test_stems(tmp_path):
    tree = make_tree(tmp_path, "images/a.png", "images/b/a.tif", "c.png", "c.jpg", "a.txt")
    assert tree.find_by_stem("b/a", [""]) == "images/b/a.tif"
    assert tree.find_by_stem("a", ["", "images"]) == "images/a.png"
    for stem, problem in (("c", "may be c.jpg or c.png"), ("d", "no image d.png")):
        with pytest.raises(SegkitError, match=problem):
            tree.find_by_stem(stem, [""])


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("annotations/instances_train2017.json", "train"),
        ("valid/_annotations.coco.json", "val"),
        ("test/images/val.json", "val"),
        ("train_val.json", None),
        ("latest/trains.json", None),
        ("Testing/a.json", "test"),
        ("a.json", None),
    ],
)
def test_splits_of_names(file, split):
    assert find_split(file) == split


def test_splits_of_words():
    assert [read_split(word) for word in ("Validation", " test ", "default")] == [
        "val",
        "test",
        None,
    ]


# --- which format ---------------------------------------------------------------------------------


def test_every_format_is_found_by_itself(tmp_path):
    """Each folder holds one format; no other one takes its files."""
    square = [[1, 1], [5, 1], [5, 5], [1, 5]]
    pixels = np.zeros((8, 8), np.uint8)
    contents = {
        "coco": {"a.json": json.dumps({"images": [], "annotations": [], "categories": []})},
        "coco_panoptic": {
            "a.json": json.dumps(
                {"images": [], "annotations": [{"segments_info": []}], "categories": []}
            )
        },
        "labelme": {"a.json": json.dumps({"shapes": [], "imagePath": "a.png"})},
        "yolo": {"data.yaml": "names: [a]\ntrain: images\n", "labels/a.txt": "0 0 0 1 0 1 1"},
        "cvat": {"annotations.xml": "<annotations><meta/></annotations>"},
        "label_studio": {
            "a.json": json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": []}]}])
        },
        "qupath": {
            "a.geojson": json.dumps(
                [
                    {
                        "type": "Feature",
                        "geometry": {"type": "Polygon", "coordinates": [square]},
                        "properties": {"objectType": "annotation"},
                    }
                ]
            )
        },
        "dicom_seg": {"a.dcm": "\0" * 128 + "DICM 1.2.840.10008.5.1.4.1.1.66.4"},
        "via": {
            "a.json": json.dumps(
                {"a.png9": {"filename": "a.png", "regions": [{"shape_attributes": {}}]}}
            )
        },
        "rle_csv": {"train.csv": "ImageId,EncodedPixels\na.png,1 3\n"},
        "object_masks": {},
        "class_masks": {},
    }
    assert set(contents) == set(LabelFormat.names())
    for name, files in contents.items():
        root = tmp_path / name
        image = "x/images/a.png" if name == "object_masks" else "images/a.png"
        write_image(root / image, pixels)
        if name == "object_masks":
            write_image(root / "x/masks/b.png", pixels)
        if name == "class_masks":
            write_image(root / "masks/cell/a.png", pixels)
        for file, text in {**files, "other.json": '{"a": [1]}', "notes.txt": "1 2"}.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text)
        found = find_formats(FileTree(root))
        assert [format_name for format_name, _ in found] == [name]
        title = LabelFormat.members()[name].title
        assert title
        annotations = read_annotations(*found[0], FileTree(root))
        assert annotations.images or name in ("coco", "coco_panoptic", "cvat", "dicom_seg")


def test_masks_as_one_file_for_an_image_are_no_format(tmp_path):
    pixels = np.zeros((8, 8), np.uint8)
    for name in ("a", "b", "train/c", "cell/d"):
        write_image(tmp_path / f"images/{name}.png", pixels)
        write_image(tmp_path / f"masks/{name}.png", pixels)
    write_image(tmp_path / "val/images/a.png", pixels)
    write_image(tmp_path / "val/masks/a.png", pixels)
    (tmp_path / "package.json").write_text('{"images": [], "categories": [1]}')
    (tmp_path / "empty.json").touch()
    (tmp_path / "map.geojson").write_text(
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": null,'
        ' "properties": {}}]}'
    )
    (tmp_path / "voc.xml").write_text("<annotation><object/></annotation>")
    (tmp_path / "table.csv").write_text("image,mask\na,b\n")
    (tmp_path / "config.yaml").write_text("names: [a]\n")
    assert find_formats(FileTree(tmp_path)) == []


def test_an_unknown_format_is_an_error(tmp_path):
    with pytest.raises(SegkitError, match=r"label_format 'cocoa' is not known.*'coco'"):
        read_annotations("cocoa", [], FileTree(tmp_path))


def test_the_package_does_not_import_torch():
    code = (
        "import sys; from segkit.data.labels import LabelFormat; LabelFormat.names();"
        " sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
