from __future__ import annotations

import cv2
import numpy as np
import pytest

from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.inference.objects.instances import (
    DECODERS,
    close_gaps,
    close_holes,
    decode,
    merge_small,
    merge_waists,
    renumber,
)
from segkit.targets.base import Target
from segkit.targets.objects import number_objects


def perfect(target: Target, ids: np.ndarray, mode: str) -> np.ndarray:
    """The probabilities (C, H, W) of a model that has learned the target by heart."""
    labels, _ = target.encode(ids)
    if mode == "multilabel":
        return labels.transpose(2, 0, 1).astype(np.float32)
    classes = [1] if mode == "binary" else range(target.num_classes)
    return np.stack([labels == c for c in classes]).astype(np.float32)


def noisy(probabilities: np.ndarray, seed: int) -> np.ndarray:
    """Blurred, as a model is not sure where a contour is, and with noise of several pixels."""
    noise = np.random.default_rng(seed).normal(size=probabilities.shape).astype(np.float32)
    noise = np.stack([cv2.GaussianBlur(layer, (0, 0), 2) for layer in noise])
    blurred = np.stack([cv2.GaussianBlur(layer, (0, 0), 1) for layer in probabilities])
    return np.clip(blurred + 0.1 * noise / noise.std(), 0, 1)


def decide(probabilities: np.ndarray, mode: str) -> np.ndarray:
    if mode == "multiclass":
        return probabilities.argmax(0)
    labels = (probabilities > 0.5).astype(np.uint8)
    return labels[0] if mode == "binary" else labels


def best_ious(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """For each true object the IoU with the found one that fits it best."""
    n, m = int(true.max()) + 1, int(found.max()) + 1
    overlap = np.bincount((true.astype(np.int64) * m + found).ravel(), minlength=n * m)
    overlap = overlap.reshape(n, m)
    union = overlap.sum(1)[:, None] + overlap.sum(0) - overlap
    return (overlap / np.maximum(union, 1))[1:, 1:].max(1, initial=0)


def binary(labels: np.ndarray, name: str = "components", **options) -> np.ndarray:
    labels = np.asarray(labels, np.uint8)
    return decode(name, labels[None].astype(np.float32), labels, "binary", **options)


def decode_classes(name: str, labels: np.ndarray, **options) -> np.ndarray:
    """Decode the perfect prediction of labels of three classes."""
    probabilities = np.stack([labels == c for c in range(3)]).astype(np.float32)
    return decode(name, probabilities, labels, "multiclass", **options)


def find_drawn_cells(name, options, mode, decoder, *, with_noise: bool) -> tuple[np.ndarray, float]:
    """The best IoU of each of some hundred drawn cells, and how many too many or few are found."""
    target = Target.build(name, **options)
    assert decoder in target.decoders
    ious, found = [], 0
    for seed in range(3):
        true = draw(seed, (200, 200), 1, (14, 20)).instances
        probabilities = perfect(target, number_objects(true), mode)
        probabilities = noisy(probabilities, seed) if with_noise else probabilities
        labels, min_size = decide(probabilities, mode), 12 if with_noise else 0
        ids = decode(decoder, probabilities, labels, mode, gap=target.gap, min_size=min_size)
        assert ids.dtype == np.int32
        assert set(np.unique(ids)) - {0} == set(range(1, ids.max() + 1))
        ious += list(best_ious(true, ids))
        found += ids.max()
    assert len(ious) > 100
    return np.array(ious), abs(found / len(ious) - 1)


@pytest.mark.parametrize(
    ("name", "options", "mode", "decoder", "share"),
    [
        ("foreground", {"gap": 1}, "binary", "components", 0.98),
        ("foreground", {"gap": 2}, "binary", "components", 1.0),
        ("foreground", {"gap": 2}, "binary", "watershed", 1.0),
        ("foreground", {"gap": 3}, "binary", "components", 0.95),
        ("border_core", {"border": 2}, "multiclass", "border_core", 0.99),
        ("distance", {"levels": 5}, "multilabel", "distance", 1.0),
    ],
)
def test_drawn_cells_come_back_from_a_perfect_prediction(name, options, mode, decoder, share):
    ious, wrong = find_drawn_cells(name, options, mode, decoder, with_noise=False)
    assert np.mean(ious > 0.9) >= share
    assert min(ious) > 0.75
    assert wrong <= 0.01


@pytest.mark.parametrize(
    ("name", "options", "mode", "decoder", "mean"),
    [
        ("foreground", {"gap": 3}, "binary", "components", 0.91),
        ("border_core", {"border": 2}, "multiclass", "border_core", 0.95),
        ("distance", {"levels": 5}, "multilabel", "distance", 0.94),
    ],
)
def test_drawn_cells_come_back_from_a_noisy_prediction(name, options, mode, decoder, mean):
    ious, wrong = find_drawn_cells(name, options, mode, decoder, with_noise=True)
    assert np.mean(ious) > mean
    assert np.mean(ious > 0.5) > 0.98
    assert wrong <= 0.02


@pytest.mark.parametrize("gap", [1, 2, 3, 4, 5])
def test_a_straight_gap_comes_back_to_the_pixel(gap):
    true = np.zeros((30, 60), np.uint16)
    true[:, 5:28], true[:, 28:55] = 1, 2
    labels, _ = Target.build("foreground", gap=gap).encode(true)
    assert (labels != (true > 0)).sum() == gap * 30
    assert np.array_equal(binary(labels, gap=gap), true)


def test_outer_contours_stay_where_objects_grow_over_gaps():
    true = number_objects(draw(0, (200, 200), 1, (14, 20)).instances)
    labels, _ = Target.build("foreground", gap=2).encode(true)
    grown = binary(labels, gap=2) > 0
    taken = (true > 0) & (labels == 0)
    assert grown[taken].mean() > 0.97
    assert (grown & (true == 0)).sum() < 0.4 * taken.sum()
    alone = np.zeros((20, 20), np.uint8)
    alone[4:9, 4:9] = alone[4:9, 13:18] = 1
    assert np.array_equal(binary(alone, gap=2) > 0, alone > 0)


@pytest.mark.parametrize("name", [name for name in DECODERS if name != "queries"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (6, 7)])
def test_empty_and_full_maps_of_any_size(name, shape):
    mode = {"border_core": "multiclass", "distance": "multilabel"}.get(name, "binary")
    for full in (False, True):
        if mode == "multiclass":
            probabilities = np.zeros((3, *shape), np.float32)
            probabilities[int(full)] = 1
        else:
            layers = 4 if mode == "multilabel" else 1
            probabilities = np.full((layers, *shape), full, np.float32)
        labels = decide(probabilities, mode)
        ids = decode(name, probabilities, labels, mode, gap=2, fill_holes=True)
        assert ids.dtype == np.int32
        assert (ids == int(full)).all()


@pytest.mark.parametrize("name", ["components", "watershed"])
def test_one_pixel_is_an_object(name):
    labels = np.zeros((9, 9), np.uint8)
    labels[4, 4] = 1
    assert np.array_equal(binary(labels, name, gap=3), labels)
    assert binary(labels, name, min_size=2).max() == 0


def test_components_are_those_of_each_class_and_touch_by_edges():
    labels = np.array([[1, 1, 2, 0], [0, 0, 2, 1], [1, 0, 0, 0]])
    ids = decode_classes("components", labels)
    assert ids.tolist() == [[1, 1, 4, 0], [0, 0, 4, 2], [3, 0, 0, 0]]


def test_size_is_counted_after_growing():
    labels = np.array([[1, 1, 0, 1, 1]] * 2)
    assert binary(labels, gap=1, min_size=5).max() == 1
    assert binary(labels, gap=0, min_size=5).max() == 0


def discs(*centres: tuple[int, int], radius: int = 12) -> np.ndarray:
    labels = np.zeros((60, 80), np.uint8)
    for centre in centres:
        cv2.circle(labels, centre, radius, 1, -1)
    return labels


def test_watershed_cuts_at_waists():
    labels = discs((25, 30), (45, 30))  # the waist is half as wide as the discs
    ids = binary(labels, "watershed")
    assert ids.max() == 2
    assert np.array_equal(ids > 0, labels > 0)
    assert (ids[30, 15], ids[30, 55]) in {(1, 2), (2, 1)}
    areas = np.bincount(ids.ravel())[1:]
    assert abs(areas[0] - areas[1]) < 20
    assert binary(labels, "watershed", waist=0.4).max() == 1
    long = np.zeros((60, 80), np.uint8)
    cv2.ellipse(long, (40, 30), (30, 9), 20, 0, 360, 1, -1)
    assert binary(long, "watershed").max() == 1


def test_watershed_does_not_see_small_holes():
    labels = discs((40, 30), radius=20)
    pinholes = np.random.default_rng(0).random(labels.shape) < 0.02
    pierced = labels & ~(pinholes & (discs((40, 30), radius=17) == 1))
    assert (labels != pierced).sum() > 10
    assert binary(pierced, "watershed").max() > 1
    ids = binary(pierced, "watershed", min_size=10)
    assert ids.max() == 1
    assert np.array_equal(ids, pierced)
    assert np.array_equal(binary(pierced, "watershed", min_size=10, fill_holes=True), labels)


def test_watershed_never_joins_classes():
    labels = discs((25, 30), (45, 30)).astype(np.int64)
    labels[:, 36:] *= 2
    ids = decode_classes("watershed", labels, waist=0.1)
    assert ids.max() == 2
    assert np.array_equal(ids, labels)


def test_foreground_without_a_core_is_an_object_if_it_is_large_enough():
    labels = np.zeros((9, 20), np.int64)
    labels[1:8, 1:8], labels[3:6, 3:6] = 2, 1
    labels[2:5, 12:15] = 2
    ids = decode_classes("border_core", labels)
    assert (ids[2:5, 12:15] == 2).all()
    assert decode_classes("border_core", labels, min_size=10).max() == 1


def test_a_stray_core_is_joined_to_its_neighbour_by_min_size():
    labels = np.full((20, 20), 2)
    labels[2:18, 2:14] = 1
    labels[9, 17] = 1  # one pixel
    ids = decode_classes("border_core", labels)
    assert ids.max() == 2
    joined = decode_classes("border_core", labels, min_size=int((ids == ids[9, 17]).sum()) + 1)
    assert (joined == 1).all()


@pytest.mark.parametrize(
    ("name", "channels", "mode", "words"),
    [
        ("componets", 1, "binary", "'componets', which is not one of components, watershed"),
        ("components", 3, "multilabel", r"one label for each pixel.*instances=distance"),
        ("watershed", 3, "multilabel", r"one label for each pixel.*instances=distance"),
        ("border_core", 1, "binary", r"target=border_core and head=multiclass"),
        ("border_core", 4, "multiclass", r"target=border_core and head=multiclass"),
        ("distance", 1, "binary", r"target=distance and head=multilabel"),
        ("distance", 1, "multilabel", r"target=distance and head=multilabel"),
    ],
)
def test_a_decoder_that_does_not_fit_the_model_is_an_error(name, channels, mode, words):
    probabilities = np.zeros((channels, 4, 4), np.float32)
    with pytest.raises(SegkitError, match=words):
        decode(name, probabilities, decide(probabilities, mode), mode)


def test_maps_that_do_not_fit_each_other_and_a_waist_that_is_no_share_are_errors():
    with pytest.raises(SegkitError, match=r"\(1, 4, 4\) and \(4, 5\)"):
        decode("components", np.zeros((1, 4, 4), np.float32), np.zeros((4, 5)), "binary")
    for waist in (0, 1.1):
        with pytest.raises(SegkitError, match="waist is"):
            binary(np.zeros((4, 4)), "watershed", waist=waist)


# five regions in a line, each with its peak, and saddles of 6, 2, 5 and 9 between them
HEIGHT = np.array([[6, 8, 6, 6, 10, 2, 2, 4, 5, 5, 9, 12, 9, 9, 10]], np.float32)
LINE = np.array([[1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5]], np.int32)


def groups(regions: np.ndarray) -> list[set[int]]:
    """The regions of LINE that were merged."""
    return [set(LINE[regions == n].tolist()) for n in dict.fromkeys(regions.ravel().tolist())]


@pytest.mark.parametrize(
    ("waist", "expected"),
    [
        (1.0, [{1}, {2}, {3, 4}, {5}]),  # 5 is the height of 3 and of its pass to 4
        (0.9, [{1}, {2}, {3, 4, 5}]),  # 9 of 10
        (0.7, [{1, 2}, {3, 4, 5}]),  # 6 of 8
        (0.3, [{1, 2}, {3, 4, 5}]),
        (0.2, [{1, 2, 3, 4, 5}]),  # 2 of the 10 of the merged region, not of the 5 of region 3
    ],
)
def test_regions_merge_where_the_waist_is_wide(waist, expected):
    assert groups(merge_waists(LINE, HEIGHT, waist)) == expected


@pytest.mark.parametrize(
    ("min_size", "expected"),
    [
        (2, [{1}, {2}, {3}, {4}, {5}]),  # their areas are 3, 3, 3, 4, 2
        (3, [{1}, {2}, {3}, {4, 5}]),
        (4, [{1, 2}, {3, 4, 5}]),
    ],
)
def test_small_regions_merge_over_the_highest_saddle(min_size, expected):
    assert groups(merge_small(LINE, HEIGHT, min_size)) == expected


def test_a_small_region_alone_stays_until_it_is_dropped():
    regions = np.array([[1, 0, 2, 2, 2]], np.int32)
    assert np.array_equal(merge_small(regions, np.ones((1, 5), np.float32), 3), regions)
    assert renumber(regions, 3).tolist() == [[0, 0, 1, 1, 1]]
    corners = np.array([[1, 0], [0, 2]], np.int32)  # they do not touch
    assert np.array_equal(merge_waists(corners, np.ones((2, 2), np.float32), 0.1), corners)


def test_ids_have_no_gaps_and_keep_their_order():
    ids = renumber(np.array([[0, 9, 4], [4, 70, 0]], np.int32))
    assert ids.dtype == np.int32
    assert ids.tolist() == [[0, 2, 1], [1, 3, 0]]


def test_only_holes_that_one_region_encloses_are_filled():
    regions = np.ones((12, 16), np.int32)
    regions[:, 8:] = 2
    regions[2:4, 2:4] = 0  # in region 1
    regions[5, 7:9] = 0  # between both
    regions[8:11, 10:13] = 0  # around region 3 in region 2
    regions[9, 11] = 3
    regions[0, 4] = 0  # at the border
    filled = close_holes(regions)
    assert (filled[2:4, 2:4] == 1).all()
    filled[2:4, 2:4] = 0
    assert np.array_equal(filled, regions)
    assert np.array_equal(close_holes(regions, 4), regions)
    assert (close_holes(regions, 5)[2:4, 2:4] == 1).all()
    open_by_a_corner = np.ones((5, 5), np.int32)
    open_by_a_corner[[0, 1, 2], [0, 1, 2]] = 0
    for whole in (open_by_a_corner, np.zeros((4, 4), np.int32), np.ones((4, 4), np.int32)):
        assert np.array_equal(close_holes(whole), whole)


@pytest.mark.parametrize(
    ("width", "gap", "first", "second"),
    [
        (3, 3, 5, 8),  # the middle goes to the larger region
        (3, 1, 4, 6),  # wider background stays
        (2, 1, 4, 6),
        (2, 2, 5, 7),
    ],
)
def test_regions_grow_over_gaps_of_their_width(width, gap, first, second):
    regions = np.array([[1] * 4 + [0] * width + [2] * 6], np.int32).repeat(9, axis=0)
    expected = [1] * first + [0] * (width + 10 - first - second) + [2] * second
    assert close_gaps(regions, gap)[4].tolist() == expected
    assert close_gaps(regions[:, ::-1].copy(), gap)[4].tolist() == expected[::-1]


def test_a_bay_of_one_region_is_not_a_gap():
    regions = np.ones((9, 9), np.int32)
    regions[4, 3:] = 0
    assert np.array_equal(close_gaps(regions, 2), regions)
