"""Scores of a confusion matrix: IoU, Dice, precision, recall, specificity, accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import MODES, Mode
from segkit.metrics.base import average_defined, divide

UNDEFINED = "-"
"""How a score without a value is shown in a table."""

CLASS_SCORES = ("iou", "dice", "precision", "recall", "specificity")
"""The scores that each class has, in the order of the table."""

Counts = NDArray[Any]
"""Each class against the rest, (..., N, 2, 2): ``[truth][prediction]``, 0 absent and 1 present."""


@dataclass(frozen=True)
class Scores:
    """The scores of each reported class and of all together. Created by :func:`scores`.

    With the true and false positive and negative pixels of a class::

        iou = tp / (tp + fp + fn)            precision = tp / (tp + fp)
        dice = 2 tp / (2 tp + fp + fn)       recall = tp / (tp + fn)
                                             specificity = tn / (tn + fp)

    A score whose denominator is 0 has no value: it is NaN here and "-" in a table, and left out of
    the mean. So a class without true and predicted pixels has no IoU and no Dice; one that is
    predicted but nowhere true has an IoU and a Dice of 0, which count. Precision has no value if
    nothing is predicted, recall if nothing is true, specificity if everything is. If no class has a
    value, the mean has none.

    Attributes:
        class_names: The reported classes: binary only the foreground, else all.
        iou: Intersection over union (Jaccard 1912), per class.
        dice: Dice coefficient (Dice 1945), the F1 score, per class.
        support: The number of true pixels, per class.
        accuracy: Share of all pixels (multilabel: of all pixels and classes) that are correct.
        fw_iou: Frequency-weighted IoU (Long et al. 2015): the mean IoU, each class weighted by its
            true pixels. Binary has two classes here, background and foreground; multilabel has no
            background.
    """

    class_names: tuple[str, ...]
    iou: tuple[float, ...]
    dice: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    specificity: tuple[float, ...]
    support: tuple[int, ...]
    accuracy: float
    fw_iou: float

    @property
    def mean(self) -> dict[str, float]:
        """What to monitor: means over the classes with a value; accuracy and fw_iou."""
        means = {key: float(average_defined(np.array(getattr(self, key)))) for key in CLASS_SCORES}
        return {**means, "accuracy": self.accuracy, "fw_iou": self.fw_iou}

    def rows(self) -> list[dict[str, str | int | float]]:
        """A table: one row per class, then one of the means, whose support is the sum.

        The keys are class, iou, dice, precision, recall, specificity and support. Values are not
        rounded; an undefined one is "-".
        """
        columns = [getattr(self, key) for key in CLASS_SCORES]
        lines = list(zip(self.class_names, *columns, self.support, strict=True))
        mean = self.mean
        lines.append(("mean", *(mean[key] for key in CLASS_SCORES), sum(self.support)))
        return [
            {"class": name, **dict(zip(CLASS_SCORES, map(format_score, values), strict=True))}
            | {"support": support}
            for name, *values, support in lines
        ]


def scores(matrix: Tensor, mode: Mode, class_names: Sequence[str]) -> Scores:
    """The scores of a confusion matrix.

    Args:
        matrix: The result of :class:`ConfusionMatrix`, int64: (N, N), or (N, 2, 2) for multilabel.
        mode: The mode in which it was counted.
        class_names: N names. Binary has two, background and foreground, and reports the second.

    Example:
        >>> import torch
        >>> matrix = torch.tensor([[90, 4], [2, 4]])  # rows: the truth
        >>> result = scores(matrix, "binary", ["background", "cell"])
        >>> result.iou, result.support, result.accuracy
        ((0.4,), (6,), 0.94)
    """
    _check(matrix, mode, class_names)
    counts = class_counts(matrix, mode)
    shown = select_reported(counts, mode)
    return Scores(
        class_names=tuple(class_names)[-len(shown) :],
        support=tuple(shown[:, 1, :].sum(-1).tolist()),
        accuracy=float(_compute_accuracy(counts, mode)),
        fw_iou=float(_compute_fw_iou(counts)),
        **{key: tuple(values.tolist()) for key, values in class_scores(shown).items()},
    )


def class_counts(matrix: Tensor, mode: Mode) -> NDArray[np.int64]:
    """Count each class of a confusion matrix against the rest, which is enough for every score.

    The counts add up over images as the matrices do, and are 4 N numbers instead of N x N.

    From (..., N, N) int64, or (..., N, 2, 2) for multilabel, which is returned unchanged, to
    (..., N, 2, 2): ``[truth][prediction]``, 0 absent and 1 present. Binary has both classes.
    """
    counts: NDArray[np.int64] = matrix.numpy(force=True)
    if mode == "multilabel":
        return counts
    tp = np.diagonal(counts, axis1=-2, axis2=-1)  # (..., N)
    fn = counts.sum(-1) - tp  # (..., N)
    fp = counts.sum(-2) - tp  # (..., N)
    tn = counts.sum((-2, -1))[..., None] - tp - fn - fp  # (..., N)
    return np.stack([np.stack([tn, fp], -1), np.stack([fn, tp], -1)], -2)


def select_reported(counts: Counts, mode: Mode) -> Counts:
    """The counts of the reported classes: for binary only the foreground, else all."""
    return counts[..., 1:, :, :] if mode == "binary" else counts


def class_scores(counts: Counts) -> dict[str, NDArray[np.float64]]:
    """The :data:`CLASS_SCORES` (...) of counts (..., 2, 2); NaN where there is no value."""
    tn, fp, fn, tp = _split_counts(counts)
    return {
        "iou": divide(tp, tp + fp + fn),
        "dice": divide(2 * tp, 2 * tp + fp + fn),
        "precision": divide(tp, tp + fp),
        "recall": divide(tp, tp + fn),
        "specificity": divide(tn, tn + fp),
    }


def mean_scores(counts: Counts, mode: Mode) -> dict[str, NDArray[np.float64]]:
    """The contents of :attr:`Scores.mean`, (...), for many :func:`class_counts` (..., N, 2, 2)."""
    reported = class_scores(select_reported(counts, mode))
    return {
        **{key: average_defined(values) for key, values in reported.items()},
        "accuracy": _compute_accuracy(counts, mode),
        "fw_iou": _compute_fw_iou(counts),
    }


def _compute_accuracy(counts: Counts, mode: Mode) -> NDArray[np.float64]:
    tn, _, fn, tp = _split_counts(counts)
    if mode == "multilabel":
        return divide((tp + tn).sum(-1), counts.sum((-3, -2, -1)))
    return divide(tp.sum(-1), (tp + fn).sum(-1))  # a pixel is true of exactly one class


def _compute_fw_iou(counts: Counts) -> NDArray[np.float64]:
    support = counts[..., 1, :].sum(-1)  # (..., N)
    # a class without true pixels has no weight, with or without an IoU
    weighted = np.where(support > 0, support * class_scores(counts)["iou"], 0)
    return divide(weighted.sum(-1), support.sum(-1))


def _split_counts(counts: Counts) -> tuple[Counts, Counts, Counts, Counts]:
    """tn, fp, fn, tp, each (...)."""
    return counts[..., 0, 0], counts[..., 0, 1], counts[..., 1, 0], counts[..., 1, 1]


def _check(matrix: Tensor, mode: Mode, class_names: Sequence[str]) -> None:
    if mode not in MODES:
        raise SegkitError(f"mode '{mode}' is unknown: use {', '.join(MODES)}.")
    N = len(class_names)
    shape = (N, 2, 2) if mode == "multilabel" else (N, N)
    if tuple(matrix.shape) != shape or (mode == "binary" and N != 2):
        needed = (
            "2 names (background, foreground) and a (2, 2)" if mode == "binary" else f"a {shape}"
        )
        raise SegkitError(
            f"mode '{mode}' needs {needed} matrix, not {N} names and a {tuple(matrix.shape)} one:"
            " give one name per class, and the matrix that was counted in this mode."
        )
    if matrix.is_floating_point():
        raise SegkitError(
            f"the confusion matrix is {matrix.dtype}, but counts are integers: do not normalise it."
        )


def format_score(value: float) -> str | float:
    """A score for a table: "-" for NaN."""
    return UNDEFINED if math.isnan(value) else value
