"""The scores that a confusion matrix tells: IoU, Dice, precision, recall, specificity, accuracy."""

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
from segkit.metrics.counts import ratio

UNDEFINED = "-"
"""How a score that has no value is shown in a table."""

CLASS_SCORES = ("iou", "dice", "precision", "recall", "specificity")
"""The scores that each class has, in the order of the table."""

Counts = NDArray[Any]
"""Each class against the rest, (..., N, 2, 2): ``[truth][prediction]``, 0 absent and 1 present."""


@dataclass(frozen=True)
class Scores:
    """The scores of each reported class, and those of all together. Made by :func:`scores`.

    With the pixels counted as true and false positives and negatives of a class::

        iou = tp / (tp + fp + fn)            precision = tp / (tp + fp)
        dice = 2 tp / (2 tp + fp + fn)       recall = tp / (tp + fn)
                                             specificity = tn / (tn + fp)

    A score whose denominator is 0 has no value: it is NaN here and "-" in a table, and it is left
    out of the mean. So a class without a true and without a predicted pixel has no IoU and no Dice;
    one that is predicted where it is nowhere true has an IoU and a Dice of 0, which count.
    Precision has no value where nothing is predicted, recall where nothing is true, specificity
    where everything is. Where no class has a value, neither has the mean.

    Attributes:
        class_names: The reported classes: binary only the foreground, else all.
        iou: Intersection over union (Jaccard 1912), per class.
        dice: Dice coefficient (Dice 1945), the F1 score, per class.
        precision: Share of the predicted pixels that are true, per class.
        recall: Share of the true pixels that are predicted, per class.
        specificity: Share of the pixels that are not of the class and are not predicted as it, per
            class.
        support: The number of true pixels, per class.
        accuracy: Share of all pixels (multilabel: of all pixels and classes) that are decided
            rightly.
        fw_iou: Frequency-weighted IoU (Long et al. 2015): the mean IoU, each class weighing as many
            as it has true pixels. Binary has two classes here, background and foreground;
            multilabel has no background.
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
        """What to monitor: means over the classes that have a value; accuracy and fw_iou."""
        means = {key: float(defined_mean(np.array(getattr(self, key)))) for key in CLASS_SCORES}
        return {**means, "accuracy": self.accuracy, "fw_iou": self.fw_iou}

    def rows(self) -> list[dict[str, str | int | float]]:
        """A table: one row per class, then one of the means, whose support is the sum.

        The keys are class, iou, dice, precision, recall, specificity and support. The values are
        not rounded; one that is not defined is "-".
        """
        columns = [getattr(self, key) for key in CLASS_SCORES]
        lines = list(zip(self.class_names, *columns, self.support, strict=True))
        mean = self.mean
        lines.append(("mean", *(mean[key] for key in CLASS_SCORES), sum(self.support)))
        return [_row(name, values, support) for name, *values, support in lines]


def scores(matrix: Tensor, mode: Mode, class_names: Sequence[str]) -> Scores:
    """The scores of a confusion matrix.

    Args:
        matrix: What :class:`ConfusionMatrix` computes, int64: (N, N), or (N, 2, 2) for multilabel.
        mode: The mode in which it was counted.
        class_names: N names. Binary has two, background and foreground, and reports the second
            only.

    Raises:
        SegkitError: The mode is not known, or the matrix or the names do not go with it.

    Example:
        >>> import torch
        >>> matrix = torch.tensor([[90, 4], [2, 4]])  # rows: the truth
        >>> result = scores(matrix, "binary", ["background", "cell"])
        >>> result.iou, result.support, result.accuracy
        ((0.4,), (6,), 0.94)
    """
    _check(matrix, mode, class_names)
    counts = class_counts(matrix, mode)
    shown = reported(counts, mode)
    return Scores(
        class_names=tuple(class_names)[-len(shown) :],
        support=tuple(shown[:, 1, :].sum(-1).tolist()),
        accuracy=float(_accuracy(counts, mode)),
        fw_iou=float(_frequency_weighted_iou(counts)),
        **{key: tuple(values.tolist()) for key, values in class_scores(shown).items()},
    )


def class_counts(matrix: Tensor, mode: Mode) -> NDArray[np.int64]:
    """Each class of a confusion matrix against the rest, which is enough for every score.

    They add up over images as the matrices do, and take 4 N numbers instead of N x N.

    Args:
        matrix: (..., N, N) int64, or (..., N, 2, 2) for multilabel, which is returned as it is.
        mode: The mode in which it was counted.

    Returns:
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


def reported(counts: Counts, mode: Mode) -> Counts:
    """The counts of the classes that are reported: binary only the foreground, else all."""
    return counts[..., 1:, :, :] if mode == "binary" else counts


def class_scores(counts: Counts) -> dict[str, NDArray[np.float64]]:
    """The scores of each class, as :class:`Scores` defines them; NaN where there is no value.

    Args:
        counts: (..., 2, 2), for example those of many classes or of many resamples.

    Returns:
        For each of :data:`CLASS_SCORES` an array of the shape (...).
    """
    (tn, fp), (fn, tp) = _cells(counts)
    return {
        "iou": ratio(tp, tp + fp + fn),
        "dice": ratio(2 * tp, 2 * tp + fp + fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
    }


def mean_scores(counts: Counts, mode: Mode) -> dict[str, NDArray[np.float64]]:
    """What :attr:`Scores.mean` holds, for many sums of counts at once.

    Args:
        counts: (..., N, 2, 2), as :func:`class_counts` gives them.
        mode: The mode in which they were counted.

    Returns:
        For each score an array of the shape (...).
    """
    means = {
        key: defined_mean(values) for key, values in class_scores(reported(counts, mode)).items()
    }
    return {
        **means,
        "accuracy": _accuracy(counts, mode),
        "fw_iou": _frequency_weighted_iou(counts),
    }


def defined_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last axis of what has a value; NaN where nothing has."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(-1), defined.sum(-1))


def _accuracy(counts: Counts, mode: Mode) -> NDArray[np.float64]:
    (tn, _), (fn, tp) = _cells(counts)
    if mode == "multilabel":
        return ratio((tp + tn).sum(-1), counts.sum((-3, -2, -1)))
    return ratio(tp.sum(-1), (tp + fn).sum(-1))  # a pixel is true of exactly one class


def _frequency_weighted_iou(counts: Counts) -> NDArray[np.float64]:
    support = counts[..., 1, :].sum(-1)  # (..., N)
    # A class without a true pixel weighs nothing, whether or not it has an IoU.
    weighted = np.where(support > 0, support * class_scores(counts)["iou"], 0)
    return ratio(weighted.sum(-1), support.sum(-1))


def _cells(counts: Counts) -> tuple[tuple[Counts, Counts], tuple[Counts, Counts]]:
    """((tn, fp), (fn, tp)), each (...)."""
    return (
        (counts[..., 0, 0], counts[..., 0, 1]),
        (counts[..., 1, 0], counts[..., 1, 1]),
    )


def _check(matrix: Tensor, mode: Mode, class_names: Sequence[str]) -> None:
    if mode not in MODES:
        raise SegkitError(f"mode '{mode}' is not known: use {', '.join(MODES)}.")
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


def _row(name: str, values: Sequence[float], support: int) -> dict[str, str | int | float]:
    shown = {
        key: UNDEFINED if math.isnan(value) else value
        for key, value in zip(CLASS_SCORES, values, strict=True)
    }
    return {"class": name, **shown, "support": support}
