from dataclasses import replace

import numpy as np
import pytest

import segkit
from segkit.report.overlay import (
    ALPHA,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    IGNORED,
    ROWS,
    WRONG_CLASS,
    Layer,
    draw_comparison,
    draw_overlay,
    list_error_colors,
    make_class_layer,
)

COLORS = [(10, 20, 30), (250, 100, 0), (0, 200, 50)]
GREY = np.full((9, 11), 100, dtype=np.uint8)
BACKGROUND = [100] * 3


def make_square() -> np.ndarray:
    labels = np.zeros((9, 11), dtype=np.int64)
    labels[2:7, 3:8] = 1
    return labels


def mix(color: tuple[int, int, int]) -> list[int]:
    return [round(100 * (1 - ALPHA) + value * ALPHA) for value in color]


@pytest.mark.parametrize(
    ("unpainted", "inside", "outside"),
    [
        (0, mix(COLORS[1]), BACKGROUND),
        (None, mix(COLORS[1]), mix(COLORS[0])),
        (1, BACKGROUND, mix(COLORS[0])),
    ],
)
def test_one_class_stays_unpainted(unpainted, inside, outside) -> None:
    painted = draw_overlay(GREY, Layer(make_square(), COLORS, unpainted))
    assert (painted.shape, painted.dtype) == ((9, 11, 3), np.uint8)
    assert painted[4, 5].tolist() == inside
    assert painted[0, 0].tolist() == outside


def test_the_contour_is_opaque_and_one_pixel_wide() -> None:
    labels = make_square()
    painted = draw_overlay(GREY, Layer(labels, COLORS))
    ring = labels.astype(bool)
    ring[3:6, 4:7] = False
    np.testing.assert_array_equal((painted == COLORS[1]).all(axis=-1), ring)
    labels[4, 5] = 255
    painted = draw_overlay(GREY, Layer(labels, COLORS, unpainted=None))
    assert painted[4, 5].tolist() == BACKGROUND  # unlabelled
    assert painted[4, 6].tolist() == [250, 100, 0]  # a contour around it


@pytest.mark.parametrize("highest", [3, 254, 300, 70_000])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_image_of_many_rows_is_painted_by_the_formula(highest, order) -> None:
    """Whatever the type of its labels; the rows are painted in parts."""
    rng = np.random.default_rng(0)
    image = np.array(rng.integers(0, 256, (2 * ROWS + 9, 50, 3)), np.uint8, order=order)
    labels = rng.choice([0, 1, highest - 1, highest, 255], image.shape[:2])
    labels = labels.astype(np.min_scalar_type(int(labels.max())))
    colors = rng.integers(0, 256, (max(256, highest + 1), 3)).astype(np.uint8)
    painted = (labels != 0) & (labels != 255)
    rank = np.pad(np.where(painted, labels + 1.0, 0), 1, constant_values=np.inf)
    lowest = np.minimum.reduce(
        [rank[1:-1, 1:-1], rank[2:, 1:-1], rank[:-2, 1:-1], rank[1:-1, 2:], rank[1:-1, :-2]]
    )
    edge = (rank[1:-1, 1:-1] > lowest)[..., None]
    paint = colors[labels].astype(float)
    mixed = np.where(painted[..., None], image * (1 - ALPHA) + paint * ALPHA, image)
    wanted = np.where(edge, paint, mixed)
    found = draw_overlay(image, Layer(labels, [tuple(c) for c in colors]))
    assert np.abs(found - wanted).max() <= 0.51


def test_between_two_classes_only_one_side_is_marked() -> None:
    labels = np.ones((4, 6), dtype=np.uint8)
    labels[:, 3:] = 2
    painted = draw_overlay(np.zeros((4, 6)), Layer(labels, COLORS))
    opaque = [(painted[0, x] == COLORS[labels[0, x]]).all() for x in range(6)]
    assert opaque == [False, False, False, True, False, False]


@pytest.mark.parametrize(("size", "gap"), [((7, 5), 1), ((1, 1), 1), ((3, 640), 10)])
def test_a_comparison_has_four_parts_and_three_white_gaps(size, gap) -> None:
    layer = Layer(np.zeros(size, dtype=np.uint8), COLORS)
    panel = draw_comparison(np.zeros(size, dtype=np.uint16), layer, layer)
    height, width = size
    assert panel.shape == (height, 4 * width + 3 * gap, 3)
    for part in range(1, 4):
        start = part * (width + gap) - gap
        assert (panel[:, start : start + gap] == 255).all()


@pytest.mark.parametrize(
    ("background", "errors"),
    [
        (0, [FALSE_POSITIVE, FALSE_NEGATIVE, WRONG_CLASS, IGNORED]),
        (None, [WRONG_CLASS, WRONG_CLASS, WRONG_CLASS, IGNORED]),
    ],
)
def test_a_comparison_shows_the_kinds_of_errors(background, errors) -> None:
    truth = Layer(np.array([[0, 1, 2, 255, 1, 0]]), COLORS, background)
    found = Layer(np.array([[1, 0, 1, 1, 1, 0]]), COLORS, background)
    image = np.full((1, 6, 3), 200, dtype=np.uint8)
    panel = draw_comparison(image, truth, found)
    assert (image == 200).all()  # it is not painted itself
    right = (80, 80, 80)
    assert [tuple(pixel) for pixel in panel[0, -6:].tolist()] == [*errors, right, right]
    assert {color for _, color in list_error_colors(3, background)} == set(errors)


def test_pixels_without_an_overlapping_class_stay_unpainted(multilabel_run):
    """Also where the model paints its first class, which is no background."""
    card = segkit.load(multilabel_run.checkpoint, device="cpu").card
    labels = np.zeros((card.num_classes, 4, 4), np.uint8)
    labels[0, 0] = 1
    labels[:, 1] = 255
    image = np.full((4, 4), 200, np.uint8)
    for background in (None, 0):
        layer = make_class_layer(labels, replace(card, background=background))
        painted = draw_overlay(image, layer)
        assert (painted[1:] == 200).all()
        assert (painted[0] == card.class_colors[0]).all()  # its contour
    exclusive = np.array([[0] * 4, [255] * 4, [1] * 4, [1] * 4], np.uint8)  # a mask of labels
    painted = draw_overlay(image, make_class_layer(exclusive, card))
    assert (painted[1] == 200).all()
    assert (painted[::2, 0] == card.class_colors[:2]).all()
