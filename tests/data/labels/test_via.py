"""Files of the VGG Image Annotator, with the pixels that the shapes contain."""

from __future__ import annotations

import json

import numpy as np
import pytest

from segkit.data.labels.drawing import draw_ids, draw_labels
from segkit.data.labels.tree import FileTree
from segkit.data.labels.via import ViaFormat
from segkit.data.sources.folder import FolderSource
from segkit.images.writing import write_image

SIZE = (20, 30)


def region(kind="polygon", attributes=None, **shape):
    return {"shape_attributes": {"name": kind, **shape}, "region_attributes": attributes or {}}


SQUARE = region(all_points_x=[2, 10, 10, 2], all_points_y=[3, 3, 8, 8], attributes={"name": "a"})


def put(root, regions, name="via_region_data.json", image="a.png", wrap=lambda content: content):
    root.mkdir(parents=True, exist_ok=True)
    write_image(root / image, np.zeros(SIZE, np.uint8))
    entry = {"filename": image, "size": 123, "regions": regions, "file_attributes": {}}
    (root / name).write_text(json.dumps(wrap({f"{image}123": entry})))


def read(root):
    tree = FileTree(root)
    return ViaFormat.read(ViaFormat.find(tree), tree)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda content: content,
        lambda content: {"_via_settings": {}, "_via_img_metadata": content, "_via_attributes": {}},
    ],
)
@pytest.mark.parametrize("collect", [list, lambda found: dict(enumerate(found))])  # VIA 2 and 1
def test_shapes_cover_the_pixels_that_they_show(tmp_path, wrap, collect):
    regions = [
        SQUARE,
        region("rect", x=12, y=1, width=4, height=6, attributes={"name": "b"}),
        region("circle", cx=22.5, cy=10.5, r=3.1, attributes={"name": "b"}),
        region("ellipse", cx=8, cy=14, rx=5.4, ry=2.3, theta=np.pi / 2, attributes={"name": "a"}),
        region("point", cx=1, cy=1, attributes={"name": "a"}),
    ]
    put(tmp_path, collect(regions), wrap=wrap)
    found = read(tmp_path)
    assert (found.problems, found.categories) == ([], ("a", "b"))
    assert found.notes[0] == "classes are the attribute 'name' in via_region_data.json"
    assert "points are not used: they have no area (1)" in found.notes
    ids = draw_ids(found.images[0].shapes, SIZE)
    y, x = np.mgrid[:20, :30] + 0.5
    np.testing.assert_array_equal(ids == 2, (x > 12) & (x < 16) & (y > 1) & (y < 7))
    np.testing.assert_array_equal(ids == 3, np.hypot(x - 22.5, y - 10.5) < 3.1)
    np.testing.assert_array_equal(ids == 4, ((x - 8) / 2.3) ** 2 + ((y - 14) / 5.4) ** 2 < 1)
    labels = draw_labels(found.images[0].shapes, SIZE, 2)
    assert (labels[3:8, 2:10] == 1).all()


def test_the_balloons(tmp_path):
    """Without attributes all regions are of one class; folders of splits divide."""
    plain = {**SQUARE, "region_attributes": {}}
    put(tmp_path / "train", {"0": plain}, image="a.png")
    put(tmp_path / "val", {"0": plain}, image="b.png")
    source = FolderSource("binary", root=tmp_path)
    assert [[s.name for s in part] for part in source.splits().values()] == [
        ["train/a.png"],
        ["val/b.png"],
        [],
    ]
    assert source.problems() == []
    assert source.read_mask(source.splits()["train"][0]).sum() == 40


def test_what_is_wrong_is_named(tmp_path):
    several = region(all_points_x=[1], all_points_y=[1], attributes={"kind": "a", "state": "b"})
    put(tmp_path / "one", [several], image="a.png")
    broken = [
        region(all_points_x=[1, 2], all_points_y=[1], attributes={"type": "a"}),
        region("rect", x=1, attributes={"type": "a"}),
        region("cuboid", attributes={"type": "a"}),
        region("rect", x=1, y=1, width=2, height=2, attributes={"type": ""}),
        region("rect", x=1, y=1, width=2, height=2, attributes={"type": {"a": True, "b": True}}),
        region("rect", x=1, y=1, width=2, height=2, attributes={"type": {"a": True}}),
    ]
    put(tmp_path / "two", broken, image="b.png")
    found = read(tmp_path)
    place = "two/via_region_data.json, b.png, region"
    assert found.problems == [
        "one/via_region_data.json: regions have several attributes (kind, state), and none is"
        " called label or labels or class: rename the one that is the class",
        f"{place} 1: it has 2 x and 1 y",
        f"{place} 2: its rect has not the numbers x, y, width, height",
        f"{place} 3: the shape 'cuboid' is not known",
        f"{place} 4: it has no class: its attribute 'type' is empty",
        f"{place} 5: it has no class: its attribute 'type' is empty",
    ]
    assert len(found.images[0].shapes) == 1
