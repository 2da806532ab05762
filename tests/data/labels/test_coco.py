"""COCO JSON, compared with pycocotools."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from segkit.core.errors import SegkitError
from segkit.data.checks.summary import check
from segkit.data.labels.coco import CocoFormat
from segkit.data.labels.drawing import draw_ids, draw_labels
from segkit.data.labels.tree import FileTree
from segkit.data.sources.folder import FolderSource
from segkit.images.writing import write_image

# pycocotools 2.0.11 on numpy 2, when it decodes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

SIZE = (30, 40)
PIXELS = np.zeros(SIZE, np.uint8)
SQUARE = [2, 2, 10, 2, 10, 10, 2, 10]


def put(root, name, images, annotations, categories=None):
    """Write a COCO file and its images; images are names or entries."""
    entries = []
    for number, image in enumerate(images, start=1):
        entry = {"id": number, "file_name": image, "height": 30, "width": 40}
        entries.append({**entry, **image} if isinstance(image, dict) else entry)
    content = {
        "images": entries,
        "annotations": [{"id": n, "iscrowd": 0, **a} for n, a in enumerate(annotations, start=1)],
        "categories": categories or [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def shape(image=1, category=7, segmentation=(SQUARE,), **more):
    if isinstance(segmentation, tuple):
        segmentation = list(segmentation)
    return {"image_id": image, "category_id": category, "segmentation": segmentation, **more}


def read(root):
    tree = FileTree(root)
    return CocoFormat.read(CocoFormat.find(tree), tree)


def random_annotations(seed):
    rng = np.random.default_rng(seed)
    found = []
    for number in range(12):
        points = (rng.random((rng.integers(3, 9), 2)) * (48, 36) - 4).round(2)
        mask = np.asfortranarray((rng.random(SIZE) < 0.1).astype(np.uint8))
        packed = rle.encode(mask)
        flat = mask.T.ravel()
        edges = np.flatnonzero(np.diff(flat, prepend=0))
        kinds = [
            [points.ravel().tolist()],
            [points.ravel().tolist(), SQUARE],
            {"size": list(SIZE), "counts": packed["counts"].decode()},
            {"size": list(SIZE), "counts": np.diff(edges, prepend=0, append=flat.size).tolist()},
        ]
        found.append(shape(1 + number % 3, 3 + 4 * (number % 2), kinds[number % 4]))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_masks_equal_those_of_pycocotools(tmp_path, seed):
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"images/{name}.png", PIXELS)
    path = put(tmp_path, "set.json", ["a.png", "b.png", "c.png"], random_annotations(seed))
    found = read(tmp_path)
    assert found.problems == []
    assert found.categories == ("cat", "dog")
    with redirect_stdout(StringIO()):
        api = COCO(str(path))
    for number, image in enumerate(found.images, start=1):
        labels, ids = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.int32)
        for index, annotation in enumerate(api.loadAnns(api.getAnnIds(number)), start=1):
            mask = api.annToMask(annotation) > 0
            labels[mask] = {3: 1, 7: 2}[annotation["category_id"]]
            ids[mask] = index
        shapes = image.read_shapes(SIZE)
        np.testing.assert_array_equal(draw_labels(shapes, SIZE, 2), labels)
        np.testing.assert_array_equal(draw_ids(shapes, SIZE), ids)


def test_crowds_are_ignored_and_images_without_annotations_are_background(tmp_path):
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"{name}.png", PIXELS)
    put(tmp_path, "set.json", ["a.png", "b.png"], [shape(iscrowd=1), shape(category=3)])
    found = read(tmp_path)
    assert [image.name for image in found.images] == ["a.png", "b.png"]
    assert [s.ignored for s in found.images[0].shapes] == [True, False]
    assert found.images[1].shapes == []
    assert found.images[0].size == SIZE
    assert found.notes == [
        "crowds are ignored regions (1)",
        "images in the same folders are not annotated and not used (1): c.png",
    ]
    assert found.problems == []


def test_crowds_alone_are_not_the_foreground(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", np.arange(1200, dtype=np.uint16).reshape(SIZE))
    crowds = [shape(image, 3, iscrowd=1) for image in (1, 2)]
    put(tmp_path, "set.json", ["a.png", "b.png"], crowds, [{"id": 3, "name": "cat"}])
    with pytest.raises(SegkitError, match="no training mask has a pixel of the class 'cat'"):
        check(FolderSource("binary", tmp_path), "binary")


def test_one_file_for_each_split_in_coco_s_own_folders(tmp_path):
    for folder in ("images/train2017", "images/val2017"):
        write_image(tmp_path / folder / "1.png", PIXELS)
    put(tmp_path, "annotations/instances_train2017.json", ["1.png"], [shape()])
    put(tmp_path, "annotations/instances_val2017.json", ["1.png"], [shape(category=3)])
    put(tmp_path, "annotations/person_keypoints_val2017.json", ["1.png"], [shape()])
    (tmp_path / "annotations/captions_val2017.json").write_text('{"images": [], "annotations": []}')
    found = read(tmp_path)
    assert found.problems == []
    assert {image.name: image.split for image in found.images} == {
        "images/train2017/1.png": "train",
        "images/val2017/1.png": "val",
    }
    assert [image.shapes[0].category for image in found.images] == [1, 0]
    assert any("person_keypoints_val2017.json is not used" in note for note in found.notes)


def test_roboflow_s_folders_and_its_class_above_all_others(tmp_path):
    categories = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "nucleus", "supercategory": "cells"},
    ]
    for folder in ("train", "valid", "test"):
        write_image(tmp_path / folder / "a.rf.1.png", PIXELS)
        put(
            tmp_path,
            f"{folder}/_annotations.coco.json",
            [{"file_name": "a.rf.1.png", "id": 0}],
            [shape(0, 1)],
            categories,
        )
    found = read(tmp_path)
    assert found.categories == ("nucleus",)
    assert {image.name: image.split for image in found.images} == {
        "train/a.rf.1.png": "train",
        "valid/a.rf.1.png": "val",
        "test/a.rf.1.png": "test",
    }
    assert found.images[0].shapes[0].category == 0
    assert found.notes == ["the class cells groups others and never occurs"]


def test_a_class_above_others_that_occurs_is_kept(tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    categories = [
        {"id": 1, "name": "animal", "supercategory": "none"},
        {"id": 2, "name": "dog", "supercategory": "animal"},
    ]
    put(tmp_path, "set.json", ["a.png"], [shape(category=1)], categories)
    found = read(tmp_path)
    assert (found.categories, found.notes) == (("animal", "dog"), [])


def test_background_colours_and_pages(tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    categories = [
        {"id": 0, "name": "Background", "color": [0, 0, 0]},
        {"id": 5, "name": "b", "color": [1, 2, 3]},
        {"id": 4, "name": "a", "color": [4, 5, 6]},
    ]
    pages = [{"file_name": "a.png", "page": page} for page in (0, 1)]
    hole = [4, 4, 6, 4, 6, 6, 4, 6]
    put(tmp_path, "set.json", pages, [shape(1, 5), shape(1, 0, [hole]), shape(2, 4)], categories)
    found = read(tmp_path)
    assert (found.categories, found.colors) == (("a", "b"), ((4, 5, 6), (1, 2, 3)))
    assert [image.page for image in found.images] == [0, 1]
    labels = draw_labels(found.images[0].shapes, SIZE, 2)
    assert (labels[3, 3], labels[5, 5], labels[20, 20]) == (2, 0, 0)


def test_annotations_by_id(tmp_path):
    """LIVECell has an object of annotations, not a list."""
    write_image(tmp_path / "a.png", PIXELS)
    path = put(tmp_path, "livecell_coco_train.json", ["a.png"], [shape(), shape()])
    content = json.loads(path.read_text())
    listed = read(tmp_path).images[0].shapes
    content["annotations"] = {str(each["id"]): each for each in content["annotations"]}
    path.write_text(json.dumps(content))
    found = read(tmp_path)
    assert (found.problems, len(found.images[0].shapes), len(listed)) == ([], 2, 2)
    first, second = (draw_ids(shapes, SIZE) for shapes in (listed, found.images[0].shapes))
    np.testing.assert_array_equal(first, second)


def test_boxes_and_key_points_have_no_region(tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    boxes = [shape(segmentation=None, bbox=[1, 2, 3, 4]), shape(segmentation=[])]
    put(tmp_path, "set.json", ["a.png"], [*boxes, shape(segmentation=[], keypoints=[1, 2, 2])])
    found = read(tmp_path)
    assert found.notes == [
        "boxes without a segmentation are not used (2)",
        "key points without a segmentation are not used (1)",
    ]
    assert found.problems == [
        "no image has polygons or masks that can be drawn; " + "; ".join(found.notes)
    ]


def test_everything_that_is_wrong_is_named_and_the_rest_is_read(tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    write_image(tmp_path / "b.png", PIXELS)
    wrong = [
        shape(segmentation=[[1, 1, 2, 2]]),
        shape(segmentation=[[1, 1, 2, 2, 3]]),
        shape(segmentation=[[1, 1, 2, float("nan"), 3, 3], SQUARE]),
        shape(segmentation={"size": [30, 40], "counts": [5, 5]}),
        shape(segmentation={"size": [30, 40], "counts": "0"}),
        shape(segmentation={"size": "x"}),
        shape(category=99),
        shape(image=55),
        shape(image=[1]),
        {"image_id": 1},
        {"category_id": 3},
    ]
    images = ["a.png", "missing.png", "a.png", {"file_name": None}, {"id": 1, "file_name": "b.png"}]
    path = put(tmp_path, "set.json", images, wrong)
    content = json.loads(path.read_text())
    content["annotations"].append(7)
    content["categories"] += [{"id": 3, "name": "cow"}, {"name": "x"}, {"id": 9}, None]
    path.write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    found = read(tmp_path)
    assert [image.name for image in found.images] == ["a.png"]
    assert len(found.images[0].shapes) == 1
    assert sorted(found.problems) == sorted(
        [
            "set.json: the categories cat and cow have the same id 3",
            "set.json: category None has no id",
            "set.json: category 9 has no name",
            "set.json: 3 annotations have no 'image_id' or no 'category_id'",
            "set.json, annotation 1: its outline has 2 points, but a region needs 3",
            "set.json, annotation 2: it has an odd number of coordinates (5)",
            "set.json, annotation 3: a coordinate is NaN or infinite",
            "set.json, annotation 4: its run lengths cover 10 pixels, but 40 x 30 are 1200",
            "set.json, annotation 5: its run lengths cover 0 pixels, but 40 x 30 are 1200",
            "set.json, annotation 6: its segmentation has neither polygons nor 'size' and 'counts'",
            "set.json, annotation 7: there is no category with the id 99",
            "set.json, annotation 8: there is no image with the id 55",
            "set.json, annotation 9: there is no image with the id [1]",
            "set.json, image 2: there is no image missing.png",
            "set.json, image 4: it has no 'file_name'",
            "set.json, image 1: another image has the same id, so b.png is not used",
            "a.png is annotated twice, in set.json again: keep one of them",
        ]
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"images": [], "annotations": [], "categories": [', "it is no JSON: .* line 1, column"),
        (b'{"images": [], "annotations": [], "categories": [1], "x": "\xff"}', "not UTF-8"),
        (b'{"images": [], "annotations": [], "categories": [], "x": %s}' % (b"[" * 9999), "JSON"),
        (b'{"images": [], "annotations": [], "categories": [], "x": %s}' % (b"9" * 9999), "JSON"),
    ],
)
def test_a_file_that_is_no_json_is_a_problem(tmp_path, text, problem):
    (tmp_path / "set.json").write_bytes(text)
    found = read(tmp_path)
    assert found.images == []
    with pytest.raises(SegkitError, match=f"set.json: .*{problem}"):
        raise SegkitError(found.problems[0])
