"""Shapes to masks: pycocotools is the reference for outlines and run lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from segkit.core.errors import SegkitError
from segkit.data.labels.base import (
    BACKGROUND,
    AnnotatedImage,
    Polygon,
    Polygons,
    Rle,
    Runs,
    Shape,
    pack_shapes,
)
from segkit.data.labels.drawing import draw_ids, draw_labels, draw_layers, find_region_runs
from segkit.data.labels.outlines import (
    clip_ring,
    fill_ring,
    make_box,
    make_ellipse,
    read_coordinates,
    read_points,
    rotate_ring,
)
from segkit.data.labels.runs import decode_counts, encode_mask
from segkit.images.writing import write_mask

# pycocotools 2.0.11 on numpy 2, when it decodes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

SIZE = (12, 17)


def box(left, top, right, bottom, category=0, **options):
    return Shape(category, fill_ring(make_box(left, top, right, bottom)), **options)


def draw(region, size=SIZE):
    return draw_labels([Shape(0, region)], size, 1)


def decode(rles, size=SIZE):
    """What pycocotools shows for polygons or run lengths."""
    return coco.decode(coco.merge(coco.frPyObjects(rles, *size)))


# --- outlines -------------------------------------------------------------------------------------

tenths = st.integers(-30, 220).map(lambda number: number / 10)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(tenths, min_size=6, max_size=16), min_size=1, max_size=3))
def test_polygons_are_filled_as_by_pycocotools(polygons):
    polygons = [polygon[: len(polygon) // 2 * 2] for polygon in polygons]
    region = Polygons(tuple(Polygon(np.array(p).reshape(-1, 2)) for p in polygons))
    np.testing.assert_array_equal(draw(region), decode(polygons))


def test_a_rectangle_on_the_edges_of_pixels_covers_these_pixels():
    expected = np.zeros(SIZE, np.uint8)
    expected[2:5, 3:11] = 1
    np.testing.assert_array_equal(draw(fill_ring(make_box(3, 2, 11, 5))), expected)


def test_holes_are_cut_out_of_their_own_part_only():
    outer, hole, island = make_box(0, 0, 10, 10), make_box(2, 2, 8, 8), make_box(4, 4, 6, 6)
    expected = np.zeros(SIZE, np.uint8)
    expected[:10, :10] = 1
    expected[2:8, 2:8] = 0
    expected[4:6, 4:6] = 1
    for parts in (
        (Polygon(outer, (hole,)), Polygon(island)),
        (Polygon(island), Polygon(outer, (hole,))),
    ):
        np.testing.assert_array_equal(draw(Polygons(parts)), expected)


def test_a_hole_that_reaches_out_of_its_outline_and_the_image():
    expected = np.zeros(SIZE, np.uint8)
    expected[2:10, 3:5] = 1
    region = Polygons((Polygon(make_box(3, 2, 9, 10), (make_box(5, -4, 99, 40),)),))
    np.testing.assert_array_equal(draw(region), expected)


def test_what_is_outside_of_the_image_is_clipped():
    np.testing.assert_array_equal(draw(fill_ring(make_box(-5, -5, 100, 100))), 1)
    assert not draw(fill_ring(make_box(20, 3, 30, 5))).any()
    far = np.array([(-1e12, -1e12), (3e12, -1e12), (-1e12, 3e12)])
    np.testing.assert_array_equal(draw(fill_ring(far)), 1)
    before = np.array([(-1e11, -1e11), (8, -1e11), (8, 8), (-1e11, 8)])
    expected = np.zeros((9, 9), np.uint8)
    expected[:8, :8] = 1
    np.testing.assert_array_equal(draw(fill_ring(before), (9, 9)), expected)
    # the diagonal
    slope = draw(fill_ring(np.array([(0, 0), (1e9, 1e9), (0, 1e9)])), (20, 20))
    np.testing.assert_array_equal(slope, np.tri(20))


def test_fractions_are_of_width_and_height():
    region = Polygons((Polygon(make_box(0.5, 0, 1, 0.25)),), relative=True)
    expected = np.zeros((12, 16), np.uint8)
    expected[:3, 8:] = 1
    np.testing.assert_array_equal(draw(region, (12, 16)), expected)


def test_clipping_keeps_the_part_inside():
    ring = clip_ring(np.array([(-10.0, 5), (5, -10), (5, 5)]), (0, 0), (4, 20))
    corners = {(round(x, 6), round(y, 6)) for x, y in ring}
    assert corners == {(0.0, 0.0), (0.0, 5.0), (4.0, 5.0), (4.0, 0.0)}
    assert len(clip_ring(make_box(30, 30, 40, 40), (0, 0), (4, 20))) == 0


def test_ellipses_and_turned_rectangles():
    rows, columns = np.mgrid[:40, :60] + 0.5
    ellipse = ((columns - 30) / 20) ** 2 + ((rows - 20) / 10) ** 2 <= 1
    drawn = draw(fill_ring(make_ellipse(30, 20, 20, 10)), (40, 60))
    assert (drawn != ellipse).sum() <= 12
    turned = draw(fill_ring(rotate_ring(make_ellipse(30, 20, 20, 10), 90, 30, 20)), (40, 60))
    assert turned[1:39, 30].all()
    assert not turned[20, :20].any()
    # clockwise as seen: the right end goes down
    ring = rotate_ring(make_box(0, 0, 4, 1), 90, 0, 0)
    np.testing.assert_allclose(ring, [(0, 0), (0, 4), (-1, 4), (-1, 0)], atol=1e-12)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([0, 0, 1, 1], "2 points"),
        ([0, 0, 1, 1, 0, 0], "2 points"),
        ([0, 0, 1, 1, 2], r"odd number of coordinates \(5\)"),
        ([0, 0, 1, float("nan"), 2, 2], "NaN"),
        ([0, 0, 1, float("inf"), 2, 2], "infinite"),
        ([0, 0, 1, 1e13, 2, 2], r"larger than 1e\+12"),
        ([0, 0, 1, None, 2, "x"], "not a list of numbers"),
        ([0, 0, 1, 10**400, 2, 2], "not a list of numbers"),
        ([[0, 0], [1, 1]], "not a list of numbers"),
        ({"x": 1}, "not a list of numbers"),
    ],
)
def test_broken_coordinates_are_named(values, problem):
    with pytest.raises(SegkitError, match=problem):
        read_coordinates(values)


def test_points_may_have_three_coordinates_and_end_where_they_begin():
    ring = read_points([[0, 1, 9], [2, 3, 9], [4, 0, 9], [0, 1, 9]])
    np.testing.assert_array_equal(ring, [[0, 1], [2, 3], [4, 0]])


# --- run lengths ----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 300), st.integers(0, 10**6), st.floats(0, 1))
def test_compressed_run_lengths_are_read_as_by_pycocotools(height, width, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    rle = Rle((height, width), packed["counts"])
    np.testing.assert_array_equal(draw(rle, (height, width)), mask)
    assert encode_mask(mask, (height, width)) == rle


def test_long_runs_need_several_characters():
    mask = np.zeros((3000, 2000), np.uint8)
    mask[:, 5:1900] = 1
    packed = coco.encode(np.asfortranarray(mask))["counts"]
    np.testing.assert_array_equal(decode_counts(packed), [15000, 1895 * 3000, 300000])


@pytest.mark.parametrize("packed", [b"0`", b"\x00\x01", b"\xff\xfe", b"p" * 20])
def test_damaged_run_lengths_are_an_error(packed):
    with pytest.raises(SegkitError, match="compressed string"):
        decode_counts(packed)


def test_a_mask_at_a_place_is_cut_off_at_the_border():
    mask = np.array([[1, 1, 0], [0, 1, 1]], bool)
    for top, left in [(0, 0), (-1, 0), (3, 15), (11, -1), (50, 0), (0, 50), (-9, -9)]:
        expected = np.zeros((40, 40), np.uint8)
        expected[10 + top : 12 + top, 10 + left : 13 + left] = mask if abs(top) + left < 28 else 0
        found = draw(encode_mask(mask, SIZE, top, left))
        inside = np.zeros((100, 100), np.uint8)
        inside[20 + top : 22 + top, 20 + left : 23 + left] = mask
        np.testing.assert_array_equal(found, inside[20:32, 20:37])


def test_a_mask_as_high_as_the_image_is_one_run():
    rle = encode_mask(np.ones((12, 5), bool), SIZE, 0, 3)
    np.testing.assert_array_equal(decode_counts(rle.counts), [36, 60, 108])


def test_runs_go_down_the_columns_and_must_end_in_the_image():
    runs = Runs(np.array([13, 0]), np.array([2, 3]))
    expected = np.zeros(SIZE, np.uint8)
    expected[1:3, 1] = expected[:3, 0] = 1
    np.testing.assert_array_equal(draw(runs), expected)
    with pytest.raises(SegkitError, match="ends at pixel 205"):
        draw(Runs(np.array([200]), np.array([5])))


def test_run_lengths_of_another_size_are_an_error():
    rle = encode_mask(np.ones((3, 4), bool), (3, 4))
    with pytest.raises(SegkitError, match=r"drawn for 4 x 3 .* has 17 x 12"):
        draw(rle)
    with pytest.raises(SegkitError, match=r"cover 12 pixels, but 17 x 12 are 204"):
        draw(Rle(SIZE, rle.counts))
    with pytest.raises(SegkitError, match="at most"):
        draw_labels([], (2**16, 2**16 + 1), 1)


# --- mask files -----------------------------------------------------------------------------------


def test_a_mask_file_has_one_value(tmp_path):
    mask = np.zeros(SIZE, np.uint8)
    mask[3, 4:7] = 255
    write_mask(tmp_path / "a.png", mask)
    np.testing.assert_array_equal(draw(tmp_path / "a.png"), mask > 0)
    mask[3, 4] = 250
    write_mask(tmp_path / "b.png", mask)
    with pytest.raises(SegkitError, match=r"b\.png has more than two values"):
        draw(tmp_path / "b.png")
    with pytest.raises(SegkitError, match=r"a\.png has the shape \(12, 17\).* 12 rows and 16"):
        draw(tmp_path / "a.png", (12, 16))


# --- shapes over shapes ---------------------------------------------------------------------------


def test_later_shapes_cover_earlier_ones_and_ignored_ones_lie_below():
    shapes = [
        box(0, 0, 6, 6, 4),
        box(3, 3, 9, 9, 1),
        box(0, 0, 12, 4, 0, ignored=True),
        box(0, 0, 2, 2, BACKGROUND),
    ]
    expected = np.zeros(SIZE, np.uint8)
    expected[:4, :12] = 255
    expected[:6, :6] = 5
    expected[3:9, 3:9] = 2
    expected[:2, :2] = 0
    labels = draw_labels(shapes, SIZE, 5)
    assert labels.dtype == np.uint8
    assert labels.flags.c_contiguous
    np.testing.assert_array_equal(labels, expected)


def test_more_than_254_categories_are_no_ignored_label():
    shapes = [box(0, 0, 2, 2, 254), box(2, 2, 4, 4, 999), box(4, 4, 6, 6, ignored=True)]
    labels = draw_labels(shapes, SIZE, 1000)
    assert [labels[1, 1], labels[3, 3], labels[5, 5]] == [255, 1000, -1]
    assert draw_labels([box(0, 0, 2, 2, 253)], SIZE, 254).max() == 254


def test_layers_overlap():
    shapes = [
        box(0, 0, 6, 6, 2),
        box(3, 3, 9, 9, 0),
        box(0, 0, 12, 4, 0, ignored=True),
        box(0, 0, 2, 2, BACKGROUND),
    ]
    layers = draw_layers(shapes, SIZE, 3)
    expected = np.zeros((*SIZE, 3), np.uint8)
    expected[:4, :12] = 255
    expected[:6, :6, 2] = 1
    expected[3:9, 3:9, 0] = 1
    expected[:2, :2] = 0
    np.testing.assert_array_equal(layers, expected)
    assert draw_layers([], SIZE, 2).shape == (*SIZE, 2)


def test_ids_number_objects_and_join_groups_of_one_category():
    shapes = [
        box(0, 0, 2, 2, 0, group=7),
        box(2, 2, 4, 4, 1, group=7),
        box(4, 4, 6, 6, 0),
        box(6, 6, 8, 8, 0, group=7),
        box(8, 8, 10, 10, 0),
        box(0, 9, 4, 12, 0, ignored=True),
        box(5, 5, 6, 6, BACKGROUND),
    ]
    ids = draw_ids(shapes, SIZE)
    assert ids.dtype == np.int32
    assert [int(ids[i, i]) for i in (1, 3, 4, 5, 7, 9)] == [1, 2, 3, 0, 1, 4]
    assert ids[10, 2] == -1
    assert set(np.unique(ids)) == {-1, 0, 1, 2, 3, 4}


def test_an_image_without_shapes_is_background():
    assert not draw_labels([], SIZE, 3).any()
    assert not draw_ids([], SIZE).any()
    assert find_region_runs(Polygons(()), SIZE)[0].size == 0


def test_shapes_survive_packing():
    ring, hole = make_box(0, 0, 9, 9), make_box(2, 2, 3.5, 3)
    shapes = [
        Shape(2, Polygons((Polygon(ring, (hole,)), Polygon(hole)), relative=True), group=5),
        Shape(0, encode_mask(np.ones((2, 2), bool), SIZE), ignored=True),
        Shape(1, Runs(np.array([3]), np.array([4]))),
        Shape(BACKGROUND, Path("masks/a.png")),
    ]
    image = AnnotatedImage(
        Path("a.png"), "a.png", None, SIZE, None, (2, 0, 1, BACKGROUND), pack_shapes(shapes)
    )
    found = image.shapes
    assert [(s.category, s.ignored, s.group) for s in found] == [
        (2, False, 5),
        (0, True, None),
        (1, False, None),
        (BACKGROUND, False, None),
    ]
    first = found[0].region
    assert isinstance(first, Polygons)
    assert first.relative
    np.testing.assert_array_equal(first.parts[0].outer, ring)
    np.testing.assert_array_equal(first.parts[0].holes[0], hole)
    np.testing.assert_array_equal(first.parts[1].outer, hole)
    assert found[1].region == shapes[1].region
    assert isinstance(found[2].region, Runs)
    assert (found[2].region.starts[0], found[2].region.lengths[0]) == (3, 4)
    assert found[3].region == Path("masks/a.png")


def test_an_image_of_another_size_than_annotated_is_an_error():
    image = AnnotatedImage(Path("a.png"), "a.png", None, (12, 17), None, (), pack_shapes([]))
    assert image.read_shapes((12, 17)) == []
    with pytest.raises(SegkitError, match=r"a\.png has 17 x 11 .* annotated with 17 x 12\. Use"):
        image.read_shapes((11, 17))
    with pytest.raises(SegkitError, match="before it was rotated"):
        image.read_shapes((17, 12))
