"""Labels painted over an image, and the panel that compares a prediction with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.core.labels import IGNORE_INDEX
from segkit.report.colors import Color, choose_colors
from segkit.report.display import to_display

ROWS = 64
"""Rows of an image that are painted at once."""
ALPHA = 0.45
"""Opacity of a painted region inside its contour."""
FALSE_POSITIVE: Color = (239, 71, 84)
FALSE_NEGATIVE: Color = (56, 152, 255)
WRONG_CLASS: Color = (255, 209, 38)
IGNORED: Color = (150, 150, 150)


class Legend(NamedTuple):
    """Names and colours of the labels of a class layer, which leaves one of them unpainted."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    unpainted: int | None


def make_legend(card: ModelCard) -> Legend:
    """Name and colour the labels of a model; overlapping classes come after "none"."""
    if card.mode == "multilabel":
        return Legend(("none", *card.class_names), ((0, 0, 0), *card.class_colors), 0)
    return Legend(card.class_names, card.class_colors, card.background)


class Layer(NamedTuple):
    """Something to paint over an image.

    Attributes:
        labels: (H, W) integers, indices into the colours.
        unpainted: The label of the background; None paints all, as in street scenes.
        ignored: The label of pixels without a label, which stay unpainted too.
    """

    labels: NDArray[Any]
    colors: Sequence[Color]
    unpainted: int | None = 0
    ignored: int | None = IGNORE_INDEX

    def find_painted(self) -> NDArray[np.bool_]:
        """Find the pixels that are painted."""
        painted = np.ones(self.labels.shape, np.bool_)
        for label in (self.unpainted, self.ignored):
            if label is not None:
                painted &= self.labels != label
        return painted


def make_class_layer(labels: NDArray[Any], card: ModelCard) -> Layer:
    """Make the layer of labels (H, W); of overlapping classes (N, H, W) the last one is shown."""
    _, colors, unpainted = make_legend(card)
    if labels.ndim == 3:
        number = np.arange(1, len(labels) + 1)[:, None, None]
        is_ignored = (labels == IGNORE_INDEX).all(axis=0)
        labels = np.where(is_ignored, IGNORE_INDEX, np.where(labels == 1, number, 0).max(axis=0))
    elif card.mode == "multilabel":  # masks in which the classes do not overlap
        labels = np.where(labels == IGNORE_INDEX, IGNORE_INDEX, labels + 1)
    return Layer(labels, colors, unpainted)


def make_object_layer(ids: NDArray[Any], ignored: int | None = None) -> Layer:
    """Make the layer of object ids (H, W), 0 the background, with a colour for each object."""
    return Layer(ids, choose_colors(int(ids.max(initial=0)) + 1), ignored=ignored)


def draw_overlay(image: NDArray[Any], layer: Layer) -> NDArray[np.uint8]:
    """Paint a layer translucently over an image, with an opaque contour around each region.

    The image is (H, W) or (H, W, C) of any type, see `to_display`, the result (H, W, 3) uint8.
    """
    canvas, painted = np.ascontiguousarray(to_display(image)), layer.find_painted()
    colors = np.array(layer.colors, np.uint8)
    contour = _find_contour(layer.labels, painted)
    for top in range(0, len(canvas), ROWS):  # in parts that stay in the cache
        rows = slice(top, top + ROWS)
        part, mask = canvas[rows], painted[rows]
        paint = np.take(colors, np.where(mask, layer.labels[rows], 0), axis=0)
        mixed = cv2.addWeighted(part, 1 - ALPHA, paint, ALPHA, 0)
        cv2.copyTo(mixed, mask.view(np.uint8), part)
        cv2.copyTo(paint, contour[rows].view(np.uint8), part)
    return canvas


def draw_comparison(
    image: NDArray[Any],
    truth: Layer,
    found: Layer,
    objects: tuple[Layer, Layer] | None = None,
) -> NDArray[np.uint8]:
    """Draw the panel image | truth | prediction | errors, side by side.

    The errors lie on the dimmed image in the colours of `list_error_colors`; ignored pixels of the
    truth do not count. True and found ``objects`` are painted instead of the classes; the errors
    stay those of the classes.

    Returns:
        (H, 4 W + 3 gap, 3) uint8 with a gap of 1 pixel, and of more on wide images.
    """
    shown = to_display(image)
    height, width = shown.shape[:2]
    gap = np.full((height, _choose_gap(width), 3), 255, dtype=np.uint8)
    left, right = (draw_overlay(image, layer) for layer in objects or (truth, found))
    parts = [shown, gap, left, gap, right, gap, _draw_errors(shown, truth, found.labels)]
    return np.concatenate(parts, axis=1)


def split_comparison(panel: NDArray[np.uint8]) -> list[NDArray[np.uint8]] | None:
    """Cut a panel of `draw_comparison` into its four parts; None if it is none."""
    total = panel.shape[1]
    for width in range(max(1, total * 64 // 260), total // 4 + 1):
        gap = _choose_gap(width)
        if 4 * width + 3 * gap == total:
            step = width + gap
            return [panel[:, n * step : n * step + width] for n in range(4)]
    return None


def _choose_gap(width: int) -> int:
    return max(1, width // 64)


def list_error_colors(num_classes: int, background: int | None = 0) -> list[tuple[str, Color]]:
    """Name the colours in the last part of `draw_comparison` that can occur.

    Example:
        >>> [name for name, _ in list_error_colors(2)]
        ['false positive', 'false negative', 'ignored']
    """
    legend: list[tuple[str, Color]] = []
    if background is not None:
        legend += [("false positive", FALSE_POSITIVE), ("false negative", FALSE_NEGATIVE)]
    if background is None or num_classes > 2:
        legend.append(("wrong class", WRONG_CLASS))
    return [*legend, ("ignored", IGNORED)]


def _draw_errors(shown: NDArray[np.uint8], truth: Layer, labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Draw errors in their colours over the dimmed grey image: (H, W, 3)."""
    grey = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)
    # At most 102, so that ignored pixels stand out even from a white sky.
    dimmed = (grey * 0.4).astype(np.uint8)
    canvas = np.repeat(dimmed[..., None], 3, axis=2)
    wrong = truth.labels != labels
    canvas[wrong] = WRONG_CLASS
    if truth.unpainted is not None:
        canvas[wrong & (truth.labels == truth.unpainted)] = FALSE_POSITIVE
        canvas[wrong & (labels == truth.unpainted)] = FALSE_NEGATIVE
    canvas[truth.labels == truth.ignored] = IGNORED
    return canvas


def _find_contour(labels: NDArray[Any], painted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find where painted regions meet others: (H, W).

    Of two neighbours only the larger label is marked; unpainted pixels count as the smallest. So
    the line is one pixel wide and lies on paint. (find_boundaries of scikit-image marks both
    sides.)
    """
    shown: NDArray[Any] = np.where(painted, labels, 0)
    highest = int(shown.max(initial=0))
    kinds = (np.uint8, np.uint16)  # which OpenCV erodes many times as fast
    kind = next((kind for kind in kinds if highest < np.iinfo(kind).max), np.float64)
    rank: NDArray[Any] = shown.astype(kind)
    rank += painted
    lowest = cv2.erode(rank, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    edge: NDArray[np.bool_] = rank > lowest
    return edge
