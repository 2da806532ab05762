"""LabelMe files; the numbers are those that labelme itself reads."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
from PIL import Image

from segkit.data.labels.drawing import draw_ids, draw_labels
from segkit.data.labels.labelme import LabelmeFormat
from segkit.data.labels.tree import FileTree
from segkit.images.formats.base import list_suffixes
from segkit.images.writing import write_image

SIZE = (20, 30)


def encode_png(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def put(root, name, shapes, image=None, with_image=True, **more):
    content = {
        "version": "6.3.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{name}.png" if image is None else image,
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
        **more,
    }
    if with_image:
        write_image(root / f"{name}.png", np.zeros(SIZE, np.uint8))
    path = root / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def read(root):
    tree = FileTree(root)
    return LabelmeFormat.read(LabelmeFormat.find(tree), tree)


def test_shapes_cover_the_pixels_that_they_show(tmp_path):
    mask = np.array([[1, 0, 1], [0, 1, 1]], bool)
    shapes = [
        shape("zebra", [[0, 0], [10, 0], [10, 10], [0, 10]]),
        shape("ant", [[8, 6], [2, 2]], "rectangle"),
        shape("bee", [[20, 10], [20, 15]], "circle"),
        shape("ant", [[24, 0], [26, 1]], "mask", mask=encode_png(mask)),
        shape("bee", [[25, 15], [30, 15], [30, 20], [25, 20]], "oriented_rectangle"),
        shape("_background_", [[0, 8], [2, 8], [2, 10], [0, 10]]),
        shape("__ignore__", [[0, 0], [30, 0], [30, 2], [0, 2]], None),
    ]
    put(tmp_path, "a", shapes)
    found = read(tmp_path)
    assert (found.problems, found.notes) == ([], [])
    assert found.categories == ("ant", "bee", "zebra")
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    expected = np.zeros(SIZE, np.uint8)
    expected[:2] = 255
    expected[:10, :10] = 3
    expected[2:6, 2:8] = 1
    expected[:2, 24:27][mask] = 1
    expected[15:, 25:] = 2
    expected[8:10, :2] = 0
    labels = draw_labels(found.images[0].read_shapes(SIZE), SIZE, 3)
    circle = (columns - 20) ** 2 + (rows - 10) ** 2 <= 25
    assert (labels[circle] == 2).mean() > 0.95
    labels[np.hypot(columns - 20, rows - 10) < 6] = 0
    expected[np.hypot(columns - 20, rows - 10) < 6] = 0
    np.testing.assert_array_equal(labels, expected)


def test_shapes_of_a_group_and_label_are_one_object(tmp_path):
    squares = [[[x, 0], [x + 2, 0], [x + 2, 2], [x, 2]] for x in range(0, 20, 4)]
    shapes = [
        shape("a", squares[0], group_id=3),
        shape("b", squares[1], group_id=3),
        shape("a", squares[2]),
        shape("a", squares[3], group_id=3),
        shape("a", squares[4]),
    ]
    put(tmp_path, "a", shapes)
    ids = draw_ids(read(tmp_path).images[0].shapes, SIZE)
    assert ids[1, 1::4].tolist()[:5] == [1, 2, 3, 1, 4]


def test_images_of_other_folders_and_other_machines(tmp_path):
    square = [[0, 0], [9, 0], [9, 9]]
    write_image(tmp_path / "images/a.png", np.zeros(SIZE, np.uint8))
    put(tmp_path / "train", "a", [shape("x", square)], "..\\images\\a.png", with_image=False)
    put(tmp_path / "val", "b", [shape("x", square)], "C:\\pictures\\b.png")
    put(tmp_path / "val", "c", [shape("x", square)], "renamed.png")
    found = read(tmp_path)
    assert found.problems == []
    assert {image.name: image.split for image in found.images} == {
        "images/a.png": "train",
        "val/b.png": "val",
        "val/c.png": "val",
    }


def test_shapes_without_area_are_noted(tmp_path):
    shapes = [
        shape("a", [[1, 1], [5, 5]], "line"),
        shape("a", [[1, 1], [5, 5], [9, 9]], "linestrip"),
        shape("a", [[1, 1]], "point"),
        shape("a", [[1, 1], [9, 1], [9, 9]]),
    ]
    put(tmp_path, "a", shapes)
    found = read(tmp_path)
    assert found.problems == []
    assert found.notes == [
        "lines are not used: they have no area (2)",
        "points are not used: they have no area (1)",
    ]
    assert len(found.images[0].shapes) == 1


def test_everything_that_is_wrong_is_named(tmp_path):
    wrong = [
        shape("a", [[1, 1], [2, 2]]),
        shape(None, [[1, 1], [2, 2], [3, 3]]),
        shape("a", [[1, 1]], "rectangle"),
        shape("a", [[1, float("nan")], [3, 3]], "circle"),
        shape("a", [[1, 1], [2, 2]], "mask", mask="é"),
        shape("a", [[1, 1], [2, 2]], "mask"),
        shape("a", [[1, 1], [2, 2]], "mask", mask=base64.b64encode(b"no PNG").decode()),
        shape("a", [[1, 1], [2, 2]], "star"),
        shape("a", "points"),
        shape("a", [[1, 1], [2, 2]], ["x"]),
        shape("a", [[1, 1], [9, 1], [9, 9]]),
        5,
    ]
    put(tmp_path, "a", wrong)
    put(tmp_path, "b", [], with_image=False, imageData="aGVsbG8=")
    put(tmp_path, "c", [shape("a", [[1, 1], [2, 2]], "mask", mask="")], imageHeight=None)
    (tmp_path / "d.json").write_text('{"shapes": [], "imagePath": "a.png"')
    (tmp_path / "e.json").write_text('{"shapes": {}, "x": {"shapes": []}, "imagePath": "a.png"}')
    found = read(tmp_path)
    assert [image.name for image in found.images] == ["a.png", "c.png"]
    assert len(found.images[0].shapes) == 1
    assert found.problems == [
        "a.json, shape 1: a: its outline has 2 points, but a region needs 3",
        "a.json, shape 2: it has no 'label'",
        "a.json, shape 3: a: a rectangle has 2 points, not 1",
        "a.json, shape 4: a: a coordinate is NaN or infinite",
        "a.json, shape 5: a: its mask is not base64",
        "a.json, shape 6: a: it has no mask",
        f"a.json, shape 7: a: the file: cannot be read: it is not an image; known are"
        f" {', '.join(list_suffixes())}. Convert others to PNG or TIFF",
        "a.json, shape 8: a: the shape_type 'star' is not known",
        "a.json, shape 9: a: its coordinates are not a list of numbers",
        "a.json, shape 10: a: the shape_type '['x']' is not known",
        "a.json, shape 12: it has no 'label'",
        "b.json: there is no image b.png; it is embedded (imageData): write it with"
        " labelme_export_json",
        "c.json, shape 1: a: a mask needs imageHeight and imageWidth",
        "d.json: it is no JSON: Expecting ',' delimiter in line 1, column 36",
        "e.json: it is not an object with a list 'shapes'",
    ]
