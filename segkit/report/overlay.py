"""Labels painted over an image, and the panel that compares prediction and truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX
from segkit.report.colors import Color, palette
from segkit.report.display import to_display

if TYPE_CHECKING:
    from segkit.checkpoint.card import ModelCard

FALSE_POSITIVE: Color = (239, 71, 84)
FALSE_NEGATIVE: Color = (56, 152, 255)
WRONG_CLASS: Color = (255, 209, 38)
IGNORED: Color = (150, 150, 150)


class Legend(NamedTuple):
    """Names and colours of the labels of :func:`flatten_labels`; overlays leave one unpainted."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    unpainted: int | None


def make_legend(card: ModelCard) -> Legend:
    """Name and colour the labels of a model; overlapping classes come after "none"."""
    if card.mode == "multilabel":
        return Legend(("none", *card.class_names), ((0, 0, 0), *card.class_colors), 0)
    return Legend(card.class_names, card.class_colors, card.background)


def flatten_labels(labels: NDArray[Any], mode: str) -> NDArray[Any]:
    """Turn labels into one map (H, W) for display.

    Of overlapping classes (N, H, W) each pixel shows its last one, counted from 1.
    """
    if mode != "multilabel" or labels.ndim == 2:
        return labels + 1 if mode == "multilabel" else labels
    number = np.arange(1, len(labels) + 1)[:, None, None]
    shown = np.where(labels == 1, number, 0).max(axis=0)
    shown[(labels == IGNORE_INDEX).all(axis=0)] = IGNORE_INDEX
    return shown


def overlay(
    image: NDArray[Any],
    labels: NDArray[Any],
    colors: Sequence[Color],
    *,
    alpha: float = 0.45,
    ignore_index: int = 255,
    background: int | None = 0,
) -> NDArray[np.uint8]:
    """Paint each class translucently over an image, with a one-pixel contour around each region.

    Args:
        image: (H, W) or (H, W, C) of any type; see `to_display`.
        labels: (H, W) integers, indices into `colors`.
        colors: one colour per class.
        alpha: opacity inside the contour, which is opaque.
        ignore_index: label of unlabelled pixels, which stay unpainted.
        background: the class that stays unpainted; None paints all, as in street scenes.

    Returns:
        (H, W, 3) uint8.

    Raises:
        SegkitError: sizes differ, or a label has no colour.
    """
    canvas = to_display(image)
    _check_labels(labels, canvas.shape[:2])
    painted = labels != ignore_index
    if background is not None:
        painted &= labels != background
    paint = _flat(labels, painted, colors)
    mixed = cv2.addWeighted(canvas, 1 - alpha, paint, alpha, 0)
    np.copyto(canvas, mixed, where=painted[..., None])
    np.copyto(canvas, paint, where=_contour(labels, painted)[..., None])
    return canvas


def comparison(
    image: NDArray[Any],
    truth: NDArray[Any],
    labels: NDArray[Any],
    colors: Sequence[Color],
    *,
    alpha: float = 0.45,
    ignore_index: int = 255,
    background: int | None = 0,
    objects: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> NDArray[np.uint8]:
    """The panel image | truth | prediction | errors, side by side.

    The errors lie on the dimmed image in the colours of `error_legend`.

    Args:
        image, colors, alpha, background: as for `overlay`.
        truth: (H, W) integers.
        labels: (H, W) integers, the prediction.
        ignore_index: label of pixels in `truth` that do not count.
        objects: ids of the true and of the found objects, (H, W) each, painted instead of the
            classes; the errors stay those of the classes.

    Returns:
        (H, 4 W + 3 gap, 3) uint8 with a gap of 1 pixel, and of more on wide images.

    Raises:
        SegkitError: sizes differ, or a label has no colour.
    """

    def painted(map_: NDArray[Any]) -> NDArray[np.uint8]:
        return overlay(
            image, map_, colors, alpha=alpha, ignore_index=ignore_index, background=background
        )

    def many(ids: NDArray[Any], ignored: int) -> NDArray[np.uint8]:
        known = palette(int(ids.max(initial=0)) + 1)
        return overlay(image, ids, known, alpha=alpha, ignore_index=ignored)

    shown = to_display(image)
    height, width = shown.shape[:2]
    gap = np.full((height, max(1, width // 64), 3), 255, dtype=np.uint8)
    parts = [
        shown,
        gap,
        painted(truth) if objects is None else many(objects[0], ignore_index),
        gap,
        painted(labels) if objects is None else many(objects[1], -1),  # here 255 is an object
        gap,
        _errors(shown, truth, labels, ignore_index, background),
    ]
    return np.concatenate(parts, axis=1)


def error_legend(num_classes: int, background: int | None = 0) -> list[tuple[str, Color]]:
    """Name the colours in the last part of `comparison` that can occur.

    Example:
        >>> [name for name, _ in error_legend(2)]
        ['false positive', 'false negative', 'ignored']
    """
    legend: list[tuple[str, Color]] = []
    if background is not None:
        legend += [("false positive", FALSE_POSITIVE), ("false negative", FALSE_NEGATIVE)]
    if background is None or num_classes > 2:
        legend.append(("wrong class", WRONG_CLASS))
    return [*legend, ("ignored", IGNORED)]


def _errors(
    shown: NDArray[np.uint8],
    truth: NDArray[Any],
    labels: NDArray[Any],
    ignore_index: int,
    background: int | None,
) -> NDArray[np.uint8]:
    """Draw errors in their colours over the dimmed grey image: (H, W, 3)."""
    grey = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)
    # At most 102, so that ignored pixels stand out even from a white sky.
    dimmed = (grey * 0.4).astype(np.uint8)
    canvas = np.repeat(dimmed[..., None], 3, axis=2)
    wrong = truth != labels
    canvas[wrong] = WRONG_CLASS
    if background is not None:
        canvas[wrong & (truth == background)] = FALSE_POSITIVE
        canvas[wrong & (labels == background)] = FALSE_NEGATIVE
    canvas[truth == ignore_index] = IGNORED
    return canvas


def _flat(
    labels: NDArray[Any], painted: NDArray[np.bool_], colors: Sequence[Color]
) -> NDArray[np.uint8]:
    """Look up the colour of each painted pixel, the first colour elsewhere: (H, W, 3)."""
    used = labels[painted]
    if used.size and (used.min() < 0 or used.max() >= len(colors)):
        stray = used.max() if used.max() >= len(colors) else used.min()
        raise SegkitError(
            f"label {stray} has no colour: {len(colors)} are given, for the labels 0 to "
            f"{len(colors) - 1}. Give one colour for each class, or mark the pixels as ignored."
        )
    table = np.array(colors or [IGNORED], dtype=np.uint8)
    return table[np.where(painted, labels, 0).astype(np.intp)]


def _contour(labels: NDArray[Any], painted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find where painted regions meet others: (H, W).

    Of two neighbours only the larger label is marked; unpainted pixels count as the smallest. So
    the line is one pixel wide and lies on paint. (find_boundaries of scikit-image marks both
    sides.)
    """
    rank = np.where(painted, labels.astype(np.int64) + 1, 0)
    around = np.pad(rank, 1, mode="edge")
    lowest = np.minimum.reduce(
        [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]]
    )
    edge: NDArray[np.bool_] = rank > lowest
    return edge


def _check_labels(labels: NDArray[Any], size: tuple[int, ...]) -> None:
    if labels.shape != size or len(size) != 2 or labels.dtype.kind not in "bui":
        raise SegkitError(
            f"labels of shape {labels.shape} and type {labels.dtype} do not fit an image of "
            f"{' x '.join(map(str, size))} pixels: give one integer for each pixel."
        )
