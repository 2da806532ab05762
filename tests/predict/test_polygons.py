from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from segkit.predict.inputs import ImageFile, Page
from segkit.predict.polygons import (
    find_outlines,
    join_coco,
    list_categories,
    to_coco_image,
    to_geojson,
)
from segkit.targets.base import Target
from segkit.targets.objects import label_regions

features = pytest.importorskip("rasterio.features", reason="the extra polygons is not installed")
# pycocotools 2.0.11 on numpy 2, when it decodes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def card(mode="multiclass", names=("background", "a", "b"), background=0, target="labels"):
    return SimpleNamespace(
        mode=mode,
        num_classes=len(names),
        class_names=names,
        class_colors=tuple((i, 100, 200) for i in range(len(names))),
        background=background,
        target={"name": target},
        build_target=lambda: Target.build(target),
        config={"data": {"name": "folder", "class_names": ["background", "nucleus"]}},
    )


def random_labels(seed: int, height: int, width: int, classes: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (-(-height // 2), -(-width // 2)), dtype=np.uint8)
    labels = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]  # regions and holes
    noise = rng.random(labels.shape) < 0.1
    return np.where(noise, rng.integers(0, classes, labels.shape), labels).astype(np.uint8)


def make_page(shape: tuple[int, ...], name: str = "x.png", number: int = 0, total: int = 1) -> Page:
    file = ImageFile(Path(name), Path(name).with_suffix(""))
    return Page(file, number, total, np.empty(shape))


def load_coco(images: list[Any], known, tmp_path) -> Any:
    (tmp_path / "coco.json").write_text(join_coco(images, known))
    return COCO(str(tmp_path / "coco.json"))


def painted(loaded, image_id: int, shape) -> dict[int, np.ndarray]:
    """The mask of each category of an image, which no two annotations share a pixel of."""
    masks: dict[int, np.ndarray] = {}
    for annotation in loaded.loadAnns(loaded.getAnnIds([image_id])):
        mask = loaded.annToMask(annotation)
        assert mask.sum() == annotation["area"]
        rows, columns = np.nonzero(mask)
        x, y, w, h = annotation["bbox"]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + w, y + h) == (columns.max() + 1, rows.max() + 1)
        before = masks.setdefault(annotation["category_id"], np.zeros(shape, np.uint8))
        assert not (before & mask).any()
        before |= mask
    return masks


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 30), width=st.integers(1, 30))
def test_coco_gives_back_the_very_same_masks(tmp_path_factory, seed, height, width):
    model, labels = card(), random_labels(seed, height, width)
    found = find_outlines(labels, None, model)
    image = to_coco_image(make_page(labels.shape), found)
    folder = tmp_path_factory.mktemp("coco")
    loaded = load_coco([image], list_categories(model, with_objects=False), folder)
    masks = painted(loaded, 1, labels.shape)
    for label in (1, 2):
        empty = np.zeros(labels.shape)
        np.testing.assert_array_equal(masks.get(label, empty), labels == label)
    assert len(found) == label_regions(labels).max()


def test_holes_become_run_lengths_and_polygons_stay_polygons(tmp_path):
    labels = np.zeros((9, 12), np.uint8)
    labels[1:6, 1:6] = 1
    labels[3, 3] = 0  # a hole
    labels[7:9, 8:12] = 2
    image = to_coco_image(make_page(labels.shape), find_outlines(labels, None, card()))
    kinds = {a["category_id"]: type(a["segmentation"]) for a in image["annotations"]}
    assert kinds == {1: dict, 2: list}
    assert image["annotations"][1]["bbox"] == [8, 7, 4, 2]
    assert image["annotations"][1]["segmentation"] == [[8, 7, 8, 9, 12, 9, 12, 7]]
    assert all(a["iscrowd"] == 0 for a in image["annotations"])


def test_images_and_annotations_are_numbered_and_categories_named(tmp_path):
    model = card()
    found = find_outlines(random_labels(1, 20, 20), None, model)
    images = [to_coco_image(make_page((20, 20), f"{i}.png", i, 3), found) for i in range(3)]
    loaded = load_coco(images, list_categories(model, with_objects=False), tmp_path)
    assert sorted(loaded.imgs) == [1, 2, 3]
    assert [loaded.imgs[i]["file_name"] for i in (1, 2, 3)] == ["0.png", "1.png", "2.png"]
    assert [loaded.imgs[i]["page"] for i in (1, 2, 3)] == [0, 1, 2]
    array = Page(ImageFile(Path("in/a.h5::v/raw"), Path("b/a-v-raw")), 0, 1, np.empty((20, 20)))
    assert to_coco_image(array, found)["image"]["file_name"] == "b/a.h5::v/raw"
    assert sorted(loaded.anns) == list(range(1, 3 * len(found) + 1))
    assert [c["name"] for c in loaded.loadCats([1, 2])] == ["a", "b"]


def test_objects_of_several_parts_and_their_classes(tmp_path):
    ids = np.zeros((10, 10), np.int32)
    ids[0:2, 0:2] = ids[5:7, 0:2] = 300  # one object, two parts
    ids[2:4, 4:8] = 2
    labels = np.where(ids == 300, 2, np.where(ids == 2, 1, 0)).astype(np.uint8)
    labels[2, 4] = 2  # most of its pixels are of class 1
    model = card()
    found = find_outlines(labels, ids, model)
    assert [outline.id for outline in found] == [2, 300]
    known = list_categories(model, with_objects=True)
    one, two = json.loads(to_geojson(found, known))["features"]
    assert one["geometry"]["type"] == "Polygon"
    assert one["properties"]["class"] == "a"
    assert two["geometry"]["type"] == "MultiPolygon"
    assert two["properties"] == {
        "objectType": "annotation",
        "id": 300,
        "class": "b",
        "area": 8,
        "classification": {"name": "b", "color": [2, 100, 200]},
    }
    loaded = load_coco([to_coco_image(make_page(ids.shape), found)], known, tmp_path)
    np.testing.assert_array_equal(painted(loaded, 1, ids.shape)[2], ids == 300)


def test_geojson_gives_back_the_labels_holes_and_all():
    labels = random_labels(5, 40, 31)
    model = card()
    features_of = json.loads(
        to_geojson(find_outlines(labels, None, model), list_categories(model, False))
    )
    value = {"a": 1, "b": 2}
    shapes = [(f["geometry"], value[f["properties"]["class"]]) for f in features_of["features"]]
    filled = features.rasterize(shapes, out_shape=labels.shape, fill=0, dtype="uint8")
    np.testing.assert_array_equal(filled, labels)
    assert any(len(f["geometry"]["coordinates"]) > 1 for f in features_of["features"])


def test_classes_with_outlines():
    layers = np.zeros((3, 6, 6), np.uint8)
    layers[0, :4, :4] = layers[2, 2:, 2:] = 1
    labels = np.zeros((4, 4), np.uint8)
    labels[1:3, 1:3] = 1
    for model, predicted, outlines in (
        (card("multilabel", ("a", "b", "c")), layers, [("a", 16), ("c", 16)]),
        (card(names=("road", "car"), background=None), labels, [("road", 12), ("car", 4)]),
    ):
        names = [each.name for each in list_categories(model, with_objects=False)]
        found = find_outlines(predicted, None, model)
        assert [(names[each.category], each.area) for each in found] == outlines


def test_core_and_border_are_no_classes_of_objects():
    model = card(names=("background", "core", "border"), target="border_core")
    assert [c.name for c in list_categories(model, with_objects=True)] == ["nucleus"]
    assert [c.name for c in list_categories(model, with_objects=False)] == ["core", "border"]
    ids = np.zeros((5, 5), np.int32)
    ids[1:4, 1:4] = 1
    labels = np.where(ids > 0, np.uint8(2), np.uint8(0))
    assert [o.category for o in find_outlines(labels, ids, model)] == [0]


def test_nothing_found_is_a_file_too():
    labels = np.zeros((4, 4), np.uint8)
    assert find_outlines(labels, None, card()) == []
    assert find_outlines(labels, labels.astype(np.int32), card()) == []
    assert json.loads(to_geojson([], [])) == {"type": "FeatureCollection", "features": []}
