"""CVAT for images 1.1."""

from __future__ import annotations

import numpy as np

from segkit.data.labels.cvat import CvatFormat
from segkit.data.labels.drawing import draw_ids, draw_labels
from segkit.data.labels.tree import FileTree
from segkit.images.writing import write_image

SIZE = (20, 30)
META = """<meta><task><labels>
  <label><name>road</name><color>#102030</color><type>any</type><attributes/></label>
  <label><name>car</name><color>#ff0001</color><type>polygon</type></label>
</labels></task></meta>"""


def put(root, content, meta=META, name="annotations.xml"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{meta}{content}</annotations>'
    )


def image(shapes, name="a.png", number=0, more=""):
    return f'<image id="{number}" name="{name}" width="30" height="20" {more}>{shapes}</image>'


def put_images(root, *names):
    for name in names:
        write_image(root / name, np.zeros(SIZE, np.uint8))


def read(root):
    tree = FileTree(root)
    return CvatFormat.read(CvatFormat.find(tree), tree)


def test_shapes_lie_over_each_other_by_their_z_order(tmp_path):
    put_images(tmp_path, "images/a.png")
    # rows 010 / 111 at left 4, top 3
    shapes = """
    <polygon label="car" points="0.00,0.00;8.00,0.00;8.00,8.00;0.00,8.00" z_order="2"></polygon>
    <mask label="car" rle="1, 1, 1, 3" left="20" top="3" width="3" height="2" z_order="0"/>
    <box label="road" xtl="2.00" ytl="2.00" xbr="25.00" ybr="6.00" z_order="-1"/>
    <box label="road" xtl="10" ytl="10" xbr="20" ybr="14" rotation="90" z_order="3"/>
    <ellipse label="car" cx="25" cy="14" rx="4" ry="2" rotation="90" z_order="0"/>
    <polyline label="car" points="0,0;5,5"/><points label="car" points="0,0"/><tag label="car"/>
    """
    put(tmp_path, image(shapes))
    found = read(tmp_path)
    assert found.problems == []
    assert (found.categories, found.colors) == (("road", "car"), ((16, 32, 48), (255, 0, 1)))
    assert found.notes == [
        "boxes are used as rectangles (2)",
        "polylines are not used: they have no area (1)",
        "points are not used: they have no area (1)",
        "tags of whole images are not used (1)",
    ]
    expected = np.zeros(SIZE, np.uint8)
    expected[2:6, 2:25] = 1
    expected[3, 21] = expected[4, 20:23] = 2
    expected[:8, :8] = 2
    expected[7:17, 13:17] = 1
    labels = draw_labels(found.images[0].read_shapes(SIZE), SIZE, 2)
    assert (labels[11:17, 24:26] == 2).all()
    assert (labels[13:15, 22] == 0).all()
    labels[10:18, 22:28] = 0
    np.testing.assert_array_equal(labels, expected)


def test_shapes_of_a_group_are_one_object(tmp_path):
    put_images(tmp_path, "a.png")
    boxes = [
        f'<box label="car" xtl="{x}" ytl="0" xbr="{x + 2}" ybr="2" {group}/>'
        for x, group in ((0, 'group_id="4"'), (4, ""), (8, 'group_id="4"'), (12, 'group_id="0"'))
    ]
    put(tmp_path, image("".join(boxes)))
    ids = draw_ids(read(tmp_path).images[0].shapes, SIZE)
    assert ids[0, [0, 4, 8, 12]].tolist() == [1, 2, 1, 3]


def test_subsets_are_splits_and_folders(tmp_path):
    names = ("images/Train/a.png", "images/Validation/a.png", "images/x/b.png")
    put_images(tmp_path, *names)
    put(
        tmp_path,
        image("", "a.png", 0, 'subset="Train"')
        + image("", "a.png", 1, 'subset="Validation"')
        + image('<box label="car" xtl="0" ytl="0" xbr="1" ybr="1"/>', "x\\b.png", 2),
    )
    found = read(tmp_path)
    assert found.problems == []
    assert [(i.name, i.split) for i in found.images] == list(
        zip(names, ("train", "val", None), strict=True)
    )


def test_labels_of_a_file_without_meta_are_those_that_occur(tmp_path):
    put_images(tmp_path, "a.png")
    put(tmp_path, image('<box label="x" xtl="0" ytl="0" xbr="1" ybr="1"/>'), meta="")
    found = read(tmp_path)
    assert (found.categories, found.colors, found.problems) == (("x",), None, [])


def test_everything_that_is_wrong_is_named(tmp_path):
    put_images(tmp_path, "a.png")
    shapes = """
    <polygon label="car" points="0,0;1,1"/>
    <polygon label="car" points="0,0;1,1;2"/>
    <polygon label="car" points="0,0;1,1;2,nan"/>
    <polygon label="bus" points="0,0;1,1;2,2"/>
    <polygon points="0,0;1,1;2,2"/>
    <box label="car" xtl="a" ytl="0" xbr="1" ybr="1"/>
    <mask label="car" rle="1,1" left="0" top="0" width="3" height="2"/>
    <mask label="car" rle="7,-1" left="0" top="0" width="3" height="2"/>
    <mask label="car" rle="1,x" left="0" top="0" width="3" height="2"/>
    <mask label="car" rle="1" left="0" top="0" width="99999999" height="99999999"/>
    <blob label="car"/>
    <box label="car" xtl="0" ytl="0" xbr="1" ybr="1" z_order="x"/>
    <box label="car" xtl="0" ytl="0" xbr="1" ybr="1"/>
    """
    put(tmp_path, image(shapes) + image("", "none.png", 5))
    put(tmp_path, "<image", name="broken.xml")
    put(tmp_path, "<track id='0'/><track id='1'/>", name="video.xml")
    found = read(tmp_path)
    assert len(found.images[0].shapes) == 1
    place = "annotations.xml, image 0, shape"
    assert found.problems[:12] == [
        f"{place} 1: polygon: its outline has 2 points, but a region needs 3",
        f"{place} 2: polygon: its coordinates are not a list of numbers",
        f"{place} 3: polygon: a coordinate is NaN or infinite",
        f"{place} 4: polygon: the task has no label 'bus'",
        f"{place} 5: polygon: the task has no label ''",
        f"{place} 6: box: its xtl, ytl, xbr, ybr are no numbers",
        f"{place} 7: mask: its run lengths cover 2 pixels, but its box has 3 x 2",
        f"{place} 8: mask: a run length is negative",
        f"{place} 9: mask: its run lengths are not a list of whole numbers",
        f"{place} 10: mask: its box has 99999999 x 99999999 pixels",
        f"{place} 11: blob: this kind of shape is not known",
        f"{place} 12: box: its z_order is 'x', not a whole number",
    ]
    assert found.problems[12:14] == [
        "annotations.xml, image 5: there is no image none.png",
        "broken.xml: it is no XML that can be read: not well-formed (invalid token): line 5,"
        " column 29",
    ]
    assert found.problems[14].startswith("video.xml: it is CVAT for video (2 tracks)")


def test_entities_are_not_expanded_without_end(tmp_path):
    put_images(tmp_path, "a.png")
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    (tmp_path / "bomb.xml").write_text(
        f'<!DOCTYPE annotations [<!ENTITY e0 "lol">{entities}]>'
        '<annotations><meta/><image id="0" name="&e11;"/></annotations>'
    )
    assert read(tmp_path).problems[0].startswith("bomb.xml: it is no XML that can be read")
