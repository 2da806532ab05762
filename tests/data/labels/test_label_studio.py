"""Exports of Label Studio."""

from __future__ import annotations

import json

import numpy as np
import pytest

from segkit.core.errors import SegkitError
from segkit.data.labels.brush import decode_brush
from segkit.data.labels.drawing import draw_labels
from segkit.data.labels.label_studio import LabelStudioFormat, read_address
from segkit.data.labels.tree import FileTree
from segkit.images.writing import write_image

SIZE = (20, 40)
BITS = (
    f"{16:032b}"  # values: 2 x 2 pixels with 4 channels
    + f"{7:05b}"  # of 8 bits
    + "".join(f"{width - 1:04b}" for width in (2, 3, 4, 12))  # widths of run lengths
    + "1" + "00" + f"{2:02b}" + f"{0:08b}"  # 3 times 0
    + "0" + "01" + f"{4:03b}" + "".join(f"{value:08b}" for value in (255, 9, 9, 9, 0))
    + "1" + "11" + f"{3:012b}" + f"{7:08b}"  # 4 times 7
    + "0" + "00" + f"{3:02b}" + "".join(f"{value:08b}" for value in (1, 1, 1, 0))
)  # fmt: skip
BRUSH = [int(BITS[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(BITS), 8)]
"""Opacities: 255, 0, 7, 0."""


BOX = "rectanglelabels"
TURNED = {"x": 25, "y": 50, "width": 20, "height": 20, "rotation": 90}


def result(value, kind, **more):
    size = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0}
    return {"id": "r", "type": kind, "value": value, **size, **more}


def polygon(*points, label="dog"):
    return result({"points": [*points], "polygonlabels": [label]}, "polygonlabels")


SQUARE = polygon([0, 0], [50, 0], [50, 50], [0, 50])


def task(number, image, *annotations, **more):
    entries = [{"id": n, **a} for n, a in enumerate(annotations)]
    return {"id": number, "data": {"image": image}, "annotations": entries, **more}


def put(root, content, name="export.json"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))


def put_images(root, *names):
    for name in names:
        write_image(root / name, np.zeros(SIZE, np.uint8))


def read(root):
    tree = FileTree(root)
    return LabelStudioFormat.read(LabelStudioFormat.find(tree), tree)


def test_shapes_are_percentages_of_the_image(tmp_path):
    put_images(tmp_path, "a.png")
    box = {"x": 50, "y": 50, "width": 25, "height": 20, "rectanglelabels": ["cat"]}
    # turned around its first corner: from (10, 10), 8 wide and 4 high, to 4 wide and 8 high
    ellipse = {"x": 75, "y": 20, "radiusX": 10, "radiusY": 10, "rotation": 0}
    results = [
        SQUARE,
        result(box, "rectanglelabels"),
        result({**TURNED, "rectanglelabels": ["cow"]}, "rectanglelabels"),
        result({**ellipse, "ellipselabels": ["dog"]}, "ellipselabels"),
        result({"x": 1, "y": 1, "width": 0.5, "keypointlabels": ["cow"]}, "keypointlabels"),
        result({"choices": ["good"]}, "choices"),
        {"type": "relation", "from_id": "a", "to_id": "b"},
    ]
    put(tmp_path, [task(1, "/data/upload/1/a.png", {"result": results})])
    found = read(tmp_path)
    assert found.problems == []
    assert found.categories == ("cat", "cow", "dog")
    assert found.notes == [
        "rectangles are used as they are (2)",
        "results of the type keypointlabels are not used: they have no area (1)",
        "results of the type choices are not used: they have no area (1)",
        "results of the type relation are not used: they have no area (1)",
    ]
    expected = np.zeros(SIZE, np.uint8)
    expected[:10, :20] = 3
    expected[10:14, 20:30] = 1
    expected[10:18, 6:10] = 2
    labels = draw_labels(found.images[0].read_shapes(SIZE), SIZE, 3)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    inside = ((columns - 30) / 4) ** 2 + ((rows - 4) / 2) ** 2 <= 1
    assert (labels[inside] == 3).mean() > 0.9
    labels[:8, 25:36] = expected[:8, 25:36] = 0
    np.testing.assert_array_equal(labels, expected)


def test_brush_strokes(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    stroke = result({"format": "rle", "rle": BRUSH, "brushlabels": ["x"]}, "brushlabels")
    stroke |= {"original_width": 2, "original_height": 2}
    put(tmp_path, [task(1, "a.png", {"result": [stroke]})])
    found = read(tmp_path)
    assert found.problems == []
    labels = draw_labels(found.images[0].read_shapes((2, 2)), (2, 2), 1)
    np.testing.assert_array_equal(labels, [[1, 0], [1, 0]])


def test_bytes_that_label_studio_itself_has_packed():
    # label_studio_sdk.converter.brush.mask2rle([[0, 255, 255], [0, 0, 255]])
    packed = [0, 0, 0, 24, 57, 27, 252, 96, 19, 255, 206, 1, 31, 248]
    expected = [[False, True, True], [False, False, True]]
    np.testing.assert_array_equal(decode_brush(packed, (2, 3)), expected)


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        (BRUSH[:-3], "cut short"),
        (BRUSH[:6], "cut short"),
        ([0, 0, 0, 17, *BRUSH[4:]], "hold 17 values, but the image needs 16"),
        ([0, 0, 0, 16, 0], "values of 1 bits"),
        ([300], "not a list of bytes"),
        ("abc", "not a list of bytes"),
        ([[1]], "not a list of bytes"),
        ([], "cut short"),
    ],
)
def test_damaged_brush_strokes(packed, problem):
    with pytest.raises(SegkitError, match=problem):
        decode_brush(packed, (2, 2))


def test_a_run_beyond_the_image_is_an_error():
    bits = f"{16:032b}" + f"{7:05b}" + 4 * f"{7:04b}" + "1" + "00" + f"{200:08b}" + f"{1:08b}"
    packed = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    with pytest.raises(SegkitError, match="beyond the image"):
        decode_brush(packed, (2, 2))


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("/data/upload/1/0c6b6a2e-a%20b.png", "images/a b.png"),
        ("/data/upload/1/0123abcd-kept.png", "0123abcd-kept.png"),
        ("/data/local-files/?d=scans/images/a%20b.png", "images/a b.png"),
        ("https://host.org/x/a%20b.png?token=1", "images/a b.png"),
        ("s3://bucket/deep/images/a b.png", "images/a b.png"),
        ("images\\a b.png", "images/a b.png"),
    ],
)
def test_addresses_of_images(tmp_path, address, file):
    put_images(tmp_path, "images/a b.png", "0123abcd-kept.png")
    put(tmp_path, [task(1, address, {"result": [SQUARE]})])
    found = read(tmp_path)
    assert found.problems == []
    assert [image.name for image in found.images] == [file]


def test_addresses_are_paths():
    assert read_address("/data/local-files/?d=x/a.png") == "/x/a.png"
    assert read_address("https://a.b/c%20d/e.png#f") == "/c d/e.png"
    assert read_address("plain/a?.png") == "plain/a?.png"


def test_the_newest_annotation_that_was_not_cancelled_is_used(tmp_path):
    put_images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    old = {"result": [SQUARE], "updated_at": "2024-03-01T10:00:00.5Z"}
    new = {"result": [polygon([0, 0], [9, 0], [9, 9], label="new")]}
    put(
        tmp_path,
        [
            task(
                1,
                "a.png",
                {**new, "updated_at": "2024-03-01T12:30:00+01:00"},
                {**old},
                {**new, "updated_at": "2024-02-28T23:00:00Z"},
                {"result": [], "was_cancelled": True, "updated_at": "2025-01-01T00:00:00Z"},
            ),
            task(2, "b.png", predictions=[{"result": [SQUARE]}]),
            task(3, "c.png", {"result": [], "was_cancelled": True}),
            task(4, "d.png", {"result": []}),
        ],
    )
    found = read(tmp_path)
    assert found.categories == ("new",)
    assert [(image.name, len(image.shapes)) for image in found.images] == [
        ("a.png", 1),
        ("d.png", 0),
    ]
    assert found.notes[:4] == [
        "cancelled annotations are not used (2)",
        "tasks have several annotations: the newest is used (1)",
        "predictions are not used (1)",
        "tasks have no annotation and are not used (2)",
    ]


def test_the_short_export(tmp_path):
    put_images(tmp_path, "a.png")
    shape = {**SQUARE["value"], "original_width": SIZE[1], "original_height": SIZE[0]}
    entry = {"image": "/data/upload/1/a.png", "id": 5, "annotator": 1, "lead_time": 3.5}
    times = [{"updated_at": f"2024-01-0{day}T00:00:00Z"} for day in (2, 1)]
    other = {**shape, "polygonlabels": ["old"]}
    put(
        tmp_path,
        [
            {**entry, "label": [shape], "annotation_id": 2, **times[0]},
            {**entry, "label": [other], "annotation_id": 1, **times[1]},
        ],
    )
    found = read(tmp_path)
    assert found.problems == []
    assert (found.categories, [image.name for image in found.images]) == (("dog",), ["a.png"])
    assert draw_labels(found.images[0].read_shapes(SIZE), SIZE, 1).sum() == 200


def test_a_region_and_its_label_may_be_two_results(tmp_path):
    put_images(tmp_path, "a.png")
    points = SQUARE["value"]["points"]
    results = [
        result({"points": points}, "polygon"),
        result({"points": points, "labels": ["x"]}, "labels"),
        result({"points": points}, "polygon", id="other"),
    ]
    put(tmp_path, [task(1, "a.png", {"result": results})])
    found = read(tmp_path)
    assert [shape.category for shape in found.images[0].shapes] == [0]
    assert found.notes == ["shapes have no label and are not used (1)"]


def test_everything_that_is_wrong_is_named(tmp_path):
    put_images(tmp_path, "a.png", "b.png")
    wrong = [
        polygon([0, 0], [1, 1]),
        result({"x": "a", "y": 0, "width": 1, "height": 1, "rectanglelabels": ["x"]}, BOX),
        {**SQUARE, "image_rotation": 90},
        result({"rle": [1], "brushlabels": ["x"]}, "brushlabels"),
        result({"points": "x", "polygonlabels": ["x"]}, "polygonlabels"),
        7,
        result({**TURNED, "rotation": float("inf"), BOX: ["x"]}, BOX),
    ]
    sizes = [SQUARE, {**SQUARE, "original_width": 7}]
    put(
        tmp_path,
        [
            task(1, "a.png", {"result": wrong}),
            task(2, "none.png", {"result": [SQUARE]}),
            task(3, "b.png", {"result": sizes}),
            {"id": 4, "data": {"text": "hello"}, "annotations": [{"result": []}]},
            {"id": 5, "data": {"x": "a.png", "y": "b.png"}, "annotations": [{"result": []}]},
            task(6, "b.png", {"result": [{"type": "polygonlabels", "value": SQUARE["value"]}]}),
            task(7, "/data/upload/1/01234567-c.png", {"result": [SQUARE]}),
        ],
    )
    (tmp_path / "b.json").write_text('[{"data": {}, "annotations": [], "result": []}')
    found = read(tmp_path)
    assert found.problems[1:] == [
        "export.json, task 1, result 1: polygonlabels: its outline has 2 points, but a region"
        " needs 3",
        "export.json, task 1, result 2: rectanglelabels: its place or size is no number",
        "export.json, task 1, result 3: polygonlabels: the image was turned by 90 degrees in Label"
        " Studio: turn the file instead",
        "export.json, task 1, result 4: brushlabels: its run lengths are cut short",
        "export.json, task 1, result 5: polygonlabels: its coordinates are not a list of numbers",
        "export.json, task 1, result 6: rectanglelabels: its rotation is no number",
        "export.json, task 2: there is no image none.png",
        "export.json, task 3: its shapes state several sizes of the image",
        "export.json, task 4: it names no image, only 'text'",
        "export.json, task 5: it has several images: x, y",
        "export.json, task 6, result 1: polygonlabels: it has no original_width and"
        " original_height",
        "export.json, task 7: there is no image 01234567-c.png or c.png",
        "no image has shapes that can be drawn",
    ]
    assert found.problems[0].startswith("b.json: it is no JSON")
