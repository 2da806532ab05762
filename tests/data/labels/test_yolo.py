"""Text files of YOLO, with and without data.yaml."""

from __future__ import annotations

import numpy as np
import pytest

from segkit.data.labels.drawing import draw_ids, draw_labels
from segkit.data.labels.tree import FileTree
from segkit.data.labels.yolo import YoloFormat, find_label_file
from segkit.images.writing import write_image

SIZE = (20, 40)
ROW = "0 0 0 0.5 0 0.5 0.5 0 0.5"
LOWER = "2 0.25 0.5 0.75 0.5 0.75 1 0.25 1"


def put(root, **texts):
    """Text files by their path, with "__" for "/" and without the suffix."""
    for name, text in texts.items():
        path = root / (name.replace("__", "/") + ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def put_images(root, *names):
    for name in names:
        write_image(root / name, np.zeros(SIZE, np.uint8))


def read(root):
    tree = FileTree(root)
    return YoloFormat.read(YoloFormat.find(tree), tree)


def test_polygons_are_fractions_of_the_image(tmp_path):
    (tmp_path / "data.yaml").write_text(
        "names: {0: cat, 2: dog, 1: cow}\nnc: 3\ntrain: images/train\nval: images/val\n"
    )
    put_images(tmp_path, "images/train/a.png", "images/val/b.png", "images/val/c.png")
    put(tmp_path, labels__train__a=f"{ROW}\n\n{LOWER}\n", labels__val__b="")
    found = read(tmp_path)
    assert found.problems == []
    assert found.categories == ("cat", "cow", "dog")
    assert {image.name: image.split for image in found.images} == {
        "images/train/a.png": "train",
        "images/val/b.png": "val",
        "images/val/c.png": "val",
    }
    assert found.notes == ["images have no text file and show only the background (1)"]
    expected = np.zeros(SIZE, np.uint8)
    expected[:10, :20] = 1
    expected[10:, 10:30] = 3
    shapes = found.images[0].read_shapes(SIZE)
    np.testing.assert_array_equal(draw_labels(shapes, SIZE, 3), expected)
    np.testing.assert_array_equal(np.unique(draw_ids(shapes, SIZE)), [0, 1, 2])


@pytest.mark.parametrize(
    "config",
    [
        "path: set\ntrain: images/train\nval: [images/val, images/more]",
        "path: /home/me/set\ntrain: images/train\nval: [images/val, images/more]",
        "path: ''\ntrain: ../set/images/train\nval: [../set/images/val, ../set/images/more]",
        "train: C:\\x\\set\\images\\train\nval: [/x/set/images/val/, /y/set/images/more]",
        "path: ./set\ntrain: train.txt\nval: [val.txt]",
    ],
)
def test_the_ways_to_write_paths(tmp_path, config):
    (tmp_path / "my.yml").write_text(f"names: [a]\n{config}\n")
    put_images(
        tmp_path, "set/images/train/1.PNG", "set/images/val/1.png", "set/images/more/sub/1.png"
    )
    put(
        tmp_path,
        set__train="./images/train/1.PNG\n",
        set__val="images/val/1.png\n\n/far/set/images/more/sub/1.png\n",
        set__labels__train__1=ROW,
        set__labels__val__1=ROW,
        set__labels__more__sub__1=ROW,
    )
    found = read(tmp_path)
    assert found.problems == []
    assert {image.name: image.split for image in found.images} == {
        "set/images/train/1.PNG": "train",
        "set/images/val/1.png": "val",
        "set/images/more/sub/1.png": "val",
    }
    assert all(image.shapes for image in found.images)


def test_data_yaml_of_roboflow(tmp_path):
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['a']\n"
    )
    for split in ("train", "valid"):
        put_images(tmp_path, f"{split}/images/x.png")
        put(tmp_path, **{f"{split}__labels__x": ROW})
    found = read(tmp_path)
    assert found.problems == [
        "data.yaml: 'test' names ../test/images, but there is no such folder here"
    ]
    assert [(image.name, image.split, len(image.shapes)) for image in found.images] == [
        ("train/images/x.png", "train", 1),
        ("valid/images/x.png", "val", 1),
    ]


def test_images_beside_the_folder_of_data_yaml(tmp_path):
    root = tmp_path / "set"
    put_images(tmp_path, "other/images/a.png", "set/unused.png")
    put(tmp_path, other__labels__a=ROW)
    (root / "data.yaml").write_text("path: ../other\nnames: [a]\ntrain: images\n")
    found = read(root)
    assert found.problems == []
    assert [(image.name, len(image.shapes)) for image in found.images] == [
        ("../other/images/a.png", 1)
    ]


@pytest.mark.parametrize("names", ["classes.txt", "labels/obj.names", None])
def test_without_data_yaml_the_names_are_in_a_text_file_or_missing(tmp_path, names):
    put_images(tmp_path, "images/train/a.png", "images/test/b.png")
    put(tmp_path, labels__train__a=LOWER, labels__test__b=ROW)
    if names:
        (tmp_path / names).write_text("cat\ndog\ncow\n\n")
    found = read(tmp_path)
    assert found.problems == []
    assert found.categories == (("cat", "dog", "cow") if names else ("class 0", "class 2"))
    assert [(i.name, i.split, i.shapes[0].category) for i in found.images] == [
        ("images/test/b.png", "test", 0),
        ("images/train/a.png", "train", 2 if names else 1),
    ]
    assert len(found.notes) == (0 if names else 1)


def test_label_files_take_the_place_of_the_last_images():
    assert find_label_file("images/a/images/b.tar.jpg") == "images/a/labels/b.tar.txt"
    assert find_label_file("a/b.jpg") == "a/b.txt"


def test_boxes_are_not_drawn(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [a]\ntrain: images\n")
    put_images(tmp_path, "images/a.png")
    put(tmp_path, labels__a="0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.2 0.2\n")
    found = read(tmp_path)
    assert found.notes == ["boxes are not used: they have no outline (2)"]
    assert found.problems == [
        "no image has outlines that can be drawn; boxes are not used: they have no outline (2)"
    ]


def test_everything_that_is_wrong_is_named(tmp_path):
    (tmp_path / "data.yaml").write_text(
        "names: [a]\ntrain: images\nval: [images, 7]\ntest: test.txt\n"
    )
    put_images(tmp_path, "images/a.png")
    rows = [
        "0 0 0 1 1 0 1 0",
        "0 0 0 1 1",
        "0 0 0 nan 1 0 1",
        "5 0 0 1 1 0 1",
        "a 0 0 1 1 0 1",
        "0.5 0 0 1 1 0 1",
        "0 0 0 300 1 0 1",
        "0 0 0",
        "0 0 0 1 1 0 1",
    ]
    put(tmp_path, labels__a="\ufeff" + "\n".join(rows), test="images/none.png\n")
    found = read(tmp_path)
    assert len(found.images[0].shapes) == 1
    assert found.problems == [
        "data.yaml: 'val' is 7, not the path of a folder",
        "test.txt, line 1: there is no image images/none.png",
        "labels/a.txt, line 1: it has an odd number of coordinates (7)",
        "labels/a.txt, line 3: a coordinate is NaN or infinite",
        "labels/a.txt, line 4: there is no class 5; 1 have a name",
        "labels/a.txt, line 5: it holds something else than numbers",
        "labels/a.txt, line 6: 0.5 is no number of a class",
        "labels/a.txt, line 7: coordinates are fractions of the image's width and height, from 0"
        " to 1",
        "labels/a.txt, line 8: its outline has 1 point, but a region needs 3",
        "1 image(s), such as images/a.png, are in train and in val: keep each in one split",
    ]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("names: [a\ntrain: x\n", "is no YAML: while parsing"),
        ("names: [a]\ntrain: x\nkpt_shape: [17, 3]\n", "key points"),
        ("names: {x: a}\ntrain: images\n", "'x' in 'names' is no number"),
    ],
)
def test_a_wrong_data_yaml(tmp_path, config, problem):
    put_images(tmp_path, "images/a.png")
    (tmp_path / "data.yaml").write_text(config)
    assert problem in read(tmp_path).problems[0]


def test_a_second_data_yaml_is_a_problem(tmp_path):
    for folder in ("a", "b"):
        put_images(tmp_path, f"{folder}/images/{folder}.png")
        put(tmp_path, **{f"{folder}__labels__{folder}": ROW})
        (tmp_path / folder / "data.yaml").write_text("names: [x]\ntrain: images\n")
    found = read(tmp_path)
    assert [image.name for image in found.images] == ["a/images/a.png"]
    assert found.problems == ["a/data.yaml: it is read, and b/data.yaml is not: keep one of them"]
