from dataclasses import replace

import numpy as np
import pytest

import segkit
from segkit.core.errors import SegkitError
from segkit.report.overlay import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    IGNORED,
    WRONG_CLASS,
    comparison,
    error_legend,
    flatten_labels,
    make_legend,
    overlay,
)

COLORS = [(10, 20, 30), (250, 100, 0), (0, 200, 50)]
GREY = np.full((9, 11), 100, dtype=np.uint8)


def square(value: int = 1) -> np.ndarray:
    labels = np.zeros((9, 11), dtype=np.int64)
    labels[2:7, 3:8] = value
    return labels


@pytest.mark.parametrize(
    ("background", "inside", "outside"),
    [(0, COLORS[1], [100] * 3), (None, COLORS[1], COLORS[0]), (1, [100] * 3, COLORS[0])],
)
def test_the_background_stays_unpainted(background, inside, outside) -> None:
    painted = overlay(GREY, square(), COLORS, alpha=1.0, background=background)
    assert painted[4, 5].tolist() == list(inside)
    assert painted[0, 0].tolist() == list(outside)


def test_overlay_mixes_inside_and_is_opaque_on_a_contour_of_one_pixel() -> None:
    painted = overlay(GREY, square(), COLORS, alpha=0.5)
    assert painted.dtype == np.uint8
    assert painted.shape == (9, 11, 3)
    assert painted[0, 0].tolist() == [100, 100, 100]
    assert painted[4, 5].tolist() == [175, 100, 50]
    ring = square().astype(bool)
    ring[3:6, 4:7] = False
    np.testing.assert_array_equal((painted == COLORS[1]).all(axis=-1), ring)
    labels = square()
    labels[4, 5] = 255
    painted = overlay(GREY, labels, COLORS, background=None)
    assert painted[4, 5].tolist() == [100, 100, 100]  # unlabelled
    assert painted[4, 6].tolist() == [250, 100, 0]  # a contour around it


def test_between_two_classes_only_one_side_is_marked() -> None:
    labels = np.ones((4, 6), dtype=np.uint8)
    labels[:, 3:] = 2
    painted = overlay(np.zeros((4, 6)), labels, COLORS, alpha=0.5)
    opaque = [(painted[0, x] == COLORS[labels[0, x]]).all() for x in range(6)]
    assert opaque == [False, False, False, True, False, False]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        *((square(stray), f"label {stray} has no colour: 3 are given") for stray in (3, 70, -1)),
        (np.zeros((9, 12), int), "do not fit an image of 9 x 11 pixels"),
        (np.zeros((9, 11, 1), int), "do not fit an image of 9 x 11 pixels"),
        (np.zeros((9, 11)), "do not fit an image of 9 x 11 pixels"),
    ],
)
def test_labels_that_do_not_fit_are_errors(labels: np.ndarray, message: str) -> None:
    with pytest.raises(SegkitError, match=message):
        overlay(GREY, labels, COLORS)
    with pytest.raises(SegkitError, match=message):
        comparison(GREY, square(), labels, COLORS)


@pytest.mark.parametrize(("size", "gap"), [((7, 5), 1), ((1, 1), 1), ((3, 640), 10)])
def test_comparison_has_four_parts_and_three_white_gaps(size: tuple[int, int], gap: int) -> None:
    labels = np.zeros(size, dtype=np.uint8)
    panel = comparison(np.zeros(size, dtype=np.uint16), labels, labels, COLORS)
    height, width = size
    assert panel.shape == (height, 4 * width + 3 * gap, 3)
    for part in range(1, 4):
        start = part * (width + gap) - gap
        assert (panel[:, start : start + gap] == 255).all()


def test_comparison_shows_the_kinds_of_errors() -> None:
    truth = np.array([[0, 1, 1, 2, 255, 0]])
    found = np.array([[1, 0, 1, 1, 1, 0]])
    image = np.full((1, 6, 3), 200, dtype=np.uint8)
    panel = comparison(image, truth, found, COLORS)
    assert (image == 200).all()  # it is not painted itself
    errors = [tuple(pixel) for pixel in panel[0, -6:].tolist()]
    right = (80, 80, 80)
    assert errors == [FALSE_POSITIVE, FALSE_NEGATIVE, right, WRONG_CLASS, IGNORED, right]
    truth, found = np.array([[0, 1, 1]]), np.array([[1, 0, 1]])
    panel = comparison(np.zeros((1, 3)), truth, found, COLORS, background=None)
    assert [tuple(p) for p in panel[0, -3:].tolist()] == [WRONG_CLASS, WRONG_CLASS, (0, 0, 0)]
    assert [name for name, _ in error_legend(2, background=None)] == ["wrong class", "ignored"]
    assert len(error_legend(3)) == 4


def test_pixels_without_an_overlapping_class_stay_unpainted(multilabel_run):
    """Also where the model paints its first class, which is no background."""
    card = segkit.load(multilabel_run.checkpoint, device="cpu").card
    for background in (None, 0):
        legend = make_legend(replace(card, background=background))
        labels = np.zeros((card.num_classes, 4, 4), np.uint8)
        labels[0, 0] = 1
        labels[:, 1] = 255
        flattened = flatten_labels(labels, "multilabel")
        image = np.full((4, 4), 200, np.uint8)
        painted = overlay(image, flattened, legend.colors, background=legend.unpainted)
        assert (painted[1:] == 200).all()
        assert (painted[0] == card.class_colors[0]).all()  # its contour
        assert legend.names[1:] == card.class_names
