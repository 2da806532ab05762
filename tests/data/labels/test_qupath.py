"""GeoJSON of QuPath, and what predict writes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from segkit.data.labels.drawing import draw_ids, draw_labels
from segkit.data.labels.qupath import QupathFormat
from segkit.data.labels.tree import FileTree
from segkit.images.writing import write_image

SIZE = (20, 30)


def ring(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def feature(coordinates, name=None, kind="annotation", color=None, shape="Polygon", **more):
    properties = {"objectType": kind, "isLocked": False, "name": "my region"}
    if name is not None:
        properties["classification"] = {"name": name}
        if color is not None:
            properties["classification"]["colorRGB" if isinstance(color, int) else "color"] = color
    geometry = {"type": shape, "coordinates": coordinates, **more}
    return {"type": "Feature", "id": "x", "geometry": geometry, "properties": properties}


def put(root, name, features, as_list=False, image=None):
    content = features if as_list else {"type": "FeatureCollection", "features": features}
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    if image:
        write_image(root / image, np.zeros(SIZE, np.uint8))


def read(root):
    tree = FileTree(root)
    return QupathFormat.read(QupathFormat.find(tree), tree)


def draw(found, number=0):
    return draw_labels(found.images[number].read_shapes(SIZE), SIZE, len(found.categories))


@pytest.mark.parametrize("as_list", [False, True])
def test_outlines_with_holes_and_parts(tmp_path, as_list):
    holed = [ring(0, 0, 10, 10), ring(2, 2, 8, 8)]
    parts = [[ring(12, 0, 14, 20)], [ring(16, 0, 20, 20), ring(17, 1, 19, 19)]]
    features = [
        feature(holed, "Tumor", color=[200, 0, 0]),
        feature(parts, "Stroma", shape="MultiPolygon", color=-6895466),  # 0xff96c896 with sign
        feature([ring(0, 15, 30, 20)], "Ignore*"),
    ]
    put(tmp_path, "a.geojson", features, as_list, image="a.png")
    found = read(tmp_path)
    assert (found.problems, found.notes) == ([], [])
    assert found.categories == ("Stroma", "Tumor")
    assert found.colors == ((150, 200, 150), (200, 0, 0))
    expected = np.zeros(SIZE, np.uint8)
    expected[15:] = 255
    expected[:10, :10] = 2
    expected[2:8, 2:8] = 0
    expected[:, 12:14] = expected[:, 16:20] = 1
    expected[1:19, 17:19] = 0
    expected[15:19, 17:19] = 255
    np.testing.assert_array_equal(draw(found), expected)
    assert draw_ids(found.images[0].shapes, SIZE).max() == 2


def test_regions_inside_others_show_and_cells_lie_on_top(tmp_path):
    features = [
        feature([ring(4, 4, 6, 6)], "cell", "detection"),
        feature([ring(3, 3, 9, 9)], "inner"),
        feature([ring(0, 0, 20, 20)], "outer"),
        feature([ring(0, 0, 30, 20)], "tile", "tile"),
        feature([ring(0, 0, 30, 20)], "Region*"),
        feature([ring(0, 0, 30, 20)], None),
        feature([1, 1], "cell", shape="Point"),
        feature([ring(0, 0, 30, 20)], "outer", plane={"z": 2}),
        {"type": "Feature", "geometry": None},
    ]
    put(tmp_path, "a.geojson", features, image="a.png")
    found = read(tmp_path)
    assert found.categories == ("cell", "inner", "outer")
    assert draw(found)[5].tolist() == [3] * 3 + [2] + [1] * 2 + [2] * 3 + [3] * 11 + [0] * 10
    assert set(found.notes) == {
        "objects of the type tile are not used (1)",
        "objects of the class Region* are not used (1)",
        "objects have no class and are not used (1)",
        "features of the type Point are not used: they have no area (1)",
        "features of the type None are not used: they have no area (1)",
        "objects on another plane than the first are not used (1)",
    }


def test_detections_without_any_class_are_objects(tmp_path):
    cells = [feature([ring(x, 1, x + 2, 3)], None, "cell") for x in (0, 4)]
    put(tmp_path, "a.geojson", [feature([ring(0, 0, 30, 20)]), *cells], image="a.png")
    put(tmp_path, "b.geojson", [], image="b.png")
    found = read(tmp_path)
    assert found.categories == ("object",)
    assert found.notes == ["annotations around detections are not used (1)"]
    assert [len(image.shapes) for image in found.images] == [2, 0]
    assert draw(found).sum() == 8


def test_annotations_without_any_class_are_objects(tmp_path):
    put(tmp_path, "a.geojson", [feature([ring(0, 0, 3, 3)])], image="a.png")
    found = read(tmp_path)
    assert (found.categories, draw(found).sum()) == (("object",), 9)


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("a.geojson", "a.png"),
        ("a.json", "A.PNG"),
        ("a.png.geojson", "a.png"),
        ("geojson/a.geojson", "images/a.png"),
        ("train/labels/a.geojson", "train/images/a.png"),
        ("train/labels/a.geojson", "train/a.png"),
        ("polygons/sub/a.geojson", "sub/a.png"),
    ],
)
def test_images_have_the_name_of_the_file(tmp_path, file, image):
    put(tmp_path, file, [feature([ring(0, 0, 3, 3)], "x")], image=image)
    write_image(tmp_path / "other/a/b.png", np.zeros(SIZE, np.uint8))
    found = read(tmp_path)
    assert found.problems == []
    assert [image.name for image in found.images] == [image]
    assert found.images[0].split == ("train" if file.startswith("train") else None)


def test_sub_folders_tell_images_of_the_same_name_apart(tmp_path):
    for sub, left in (("x", 0), ("y", 9)):
        write_image(tmp_path / f"images/{sub}/a.png", np.zeros(SIZE, np.uint8))
        put(tmp_path, f"polygons/{sub}/a.geojson", [feature([ring(left, 0, left + 3, 3)], "c")])
    found = read(tmp_path)
    assert found.problems == []
    assert [image.name for image in found.images] == ["images/x/a.png", "images/y/a.png"]
    assert draw(found, 1)[1, 10] == 1


def test_everything_that_is_wrong_is_named(tmp_path):
    wrong = [
        feature([[[0, 0], [1, 1], [0, 0]]], "x"),
        feature([], "x"),
        feature("x", "x"),
        feature([[[0, 0], [1, "a"], [3, 3]]], "x"),
        feature([ring(0, 0, 3, 3), [[1, 1]]], "x"),
        feature([], "x", shape="MultiPolygon"),
        feature([ring(0, 0, 3, 3)], "x"),
    ]
    put(tmp_path, "a.geojson", wrong, image="a.png")
    put(tmp_path, "b.geojson", wrong)
    (tmp_path / "c.geojson").write_text('{"type": "Feature", "geometry": 1, "classification": ')
    write_image(tmp_path / "c.png", np.zeros(SIZE, np.uint8))
    found = read(tmp_path)
    assert len(found.images[0].shapes) == 1
    assert found.problems[:7] == [
        "a.geojson, feature 1: its outline has 2 points, but a region needs 3",
        "a.geojson, feature 2: it has no coordinates",
        "a.geojson, feature 3: it has no coordinates",
        "a.geojson, feature 4: its coordinates are not a list of numbers",
        "a.geojson, feature 5: its outline has 1 point, but a region needs 3",
        "a.geojson, feature 6: it has no coordinates",
        "b.geojson: there is no image b.png (or another extension)",
    ]
    assert found.problems[7].startswith("c.geojson: it is no JSON")


def test_what_predict_writes_is_read_back(tmp_path):
    pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    from segkit.inference.objects.object_classes import ObjectClass
    from segkit.predict.polygons import Outline, _trace, to_geojson

    labels = np.random.default_rng(0).integers(0, 3, (10, 15), dtype=np.uint8)
    labels = labels.repeat(2, axis=0).repeat(2, axis=1)
    outlines = [Outline(n, v - 1, g) for n, (v, g) in enumerate(_trace(labels, labels > 0), 1)]
    classes = [ObjectClass("a", (1, 2, 3)), ObjectClass("b", (4, 5, 6))]
    put(tmp_path, "polygons/a.geojson", [], image="images/a.png")
    (tmp_path / "polygons/a.geojson").write_text(to_geojson(outlines, classes))
    found = read(tmp_path)
    assert (found.categories, found.colors) == (("a", "b"), ((1, 2, 3), (4, 5, 6)))
    np.testing.assert_array_equal(draw(found), labels)
