"""The confusion matrix of an epoch, and the scores of pixels that are computed from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.losses.labels import check_target, require_classes, split_target
from segkit.metrics.base import average_defined, check_classes, divide

CLASS_SCORES = ("iou", "dice", "precision", "recall", "specificity")
"""The scores that each class has, in the order of the table."""

Counts = NDArray[Any]
"""Each class against the rest, (..., N, 2, 2): ``[truth][prediction]``, 0 absent and 1 present."""


class ConfusionMatrix(Metric):
    """Counts of (truth, prediction) over all batches and processes, without ignored pixels.

    The counts are integers, so the result is exact and independent of the order and size of the
    batches.

    Args:
        mode: What is decided per pixel: ``binary``, ``multiclass`` or ``multilabel``.
        num_classes: The number of classes. Binary: 2, background and foreground, or 1, the number
            of its channels, with the same meaning.
    """

    full_state_update = False
    matrix: Tensor

    def __init__(self, mode: Mode, num_classes: int) -> None:
        super().__init__()
        check_classes(mode, num_classes)
        self.mode = mode
        self.num_classes = 2 if mode == "binary" else num_classes
        N = self.num_classes
        shape = (N, 2, 2) if mode == "multilabel" else (N, N)
        self.add_state("matrix", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, labels: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            labels: The decided labels, (B, H, W), or 0/1 per class (B, C, H, W) for multilabel; any
                integer dtype or bool.
            target: The true labels, (B, H, W) or for multilabel also (B, C, H, W), as for losses.
        """
        N = self.num_classes
        per_class = self.mode == "multilabel"
        channels = 1 if self.mode == "binary" else N
        if labels.ndim != 3 + per_class or (per_class and labels.shape[1] != N):
            wanted = f"(B, {N}, H, W)" if per_class else "(B, H, W)"
            raise SegkitError(
                f"the labels have the shape {tuple(labels.shape)}; mode '{self.mode}' with {N}"
                f" classes takes {wanted}: the decided labels, not the logits or probabilities."
            )
        if labels.is_floating_point():
            raise SegkitError(
                f"the labels are {labels.dtype}: decide them first, with the head's decide()."
            )
        B, H, W = labels.shape[0], *labels.shape[-2:]
        check_target(target, self.mode, torch.Size((B, channels, H, W)))
        # checking the values waits for the device, but so does counting
        truth, valid = split_target(target, self.mode, channels, IGNORE_INDEX, check_values=True)
        if self.mode == "binary":
            truth, valid = truth.squeeze(1), valid.squeeze(1)
        labels = labels.long()
        require_classes("the prediction", labels, valid, 2 if per_class else N)
        # the index of each pixel in the flat matrix: truth and prediction are row and column
        cells = truth * N + labels  # (B, H, W)
        if per_class:
            matrices = torch.arange(N, device=labels.device).view(-1, 1, 1)
            cells = matrices * 4 + truth * 2 + labels  # (B, C, H, W)
        counts = torch.bincount(cells[valid], minlength=self.matrix.numel())
        # not in place, which torch forbids after a reset in inference mode
        self.matrix = self.matrix + counts.view_as(self.matrix)

    def compute(self) -> Tensor:
        """The counts, int64: (N, N) with the truth in rows and the prediction in columns.

        Binary has N = 2. Multilabel has one (absent, present) matrix per class: (N, 2, 2).
        """
        return self.matrix


@dataclass(frozen=True)
class Scores:
    """The scores of each reported class and of all together. Created by :func:`score_matrix`.

    With the true and false positive and negative pixels of a class::

        iou = tp / (tp + fp + fn)            precision = tp / (tp + fp)
        dice = 2 tp / (2 tp + fp + fn)       recall = tp / (tp + fn)
                                             specificity = tn / (tn + fp)

    A score whose denominator is 0 has no value: it is NaN, and left out of the mean. So a class
    without true and predicted pixels has no IoU and no Dice; one that is predicted but nowhere true
    has an IoU and a Dice of 0, which count. Precision has no value if nothing is predicted, recall
    if nothing is true, specificity if everything is. If no class has a value, the mean has none.

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
        rounded; an undefined one is NaN.
        """
        columns = [getattr(self, key) for key in CLASS_SCORES]
        lines = list(zip(self.class_names, *columns, self.support, strict=True))
        mean = self.mean
        lines.append(("mean", *(mean[key] for key in CLASS_SCORES), sum(self.support)))
        return [
            {"class": name, **dict(zip(CLASS_SCORES, values, strict=True)), "support": support}
            for name, *values, support in lines
        ]


def score_matrix(matrix: Tensor, mode: Mode, class_names: Sequence[str]) -> Scores:
    """Compute the scores of a confusion matrix.

    Args:
        matrix: The result of :class:`ConfusionMatrix`, int64: (N, N), or (N, 2, 2) for multilabel.
        mode: The mode in which it was counted.
        class_names: N names. Binary has two, background and foreground, and reports the second.

    Example:
        >>> matrix = torch.tensor([[90, 4], [2, 4]])  # rows: the truth
        >>> result = score_matrix(matrix, "binary", ["background", "cell"])
        >>> result.iou, result.support, result.accuracy
        ((0.4,), (6,), 0.94)
    """
    N = len(class_names)
    check_classes(mode, N)
    shape = {"binary": (2, 2), "multiclass": (N, N), "multilabel": (N, 2, 2)}[mode]
    names = "2 names (background, foreground)" if mode == "binary" else "one name per class"
    if tuple(matrix.shape) != shape or (mode == "binary" and N != 2):
        raise SegkitError(
            f"mode '{mode}' needs a {shape} matrix and {names}, not a {tuple(matrix.shape)} matrix"
            f" and {N} names: give the matrix that was counted in this mode and its classes."
        )
    if matrix.is_floating_point():
        raise SegkitError(
            f"the confusion matrix is {matrix.dtype}, but counts are integers: do not normalise it."
        )
    counts = count_classes(matrix, mode)
    shown = _select_reported(counts, mode)
    means = _average_scores(counts, mode)
    return Scores(
        class_names=tuple(class_names)[-len(shown) :],
        support=tuple(shown[:, 1, :].sum(-1).tolist()),
        accuracy=float(means["accuracy"]),
        fw_iou=float(means["fw_iou"]),
        **{key: tuple(values.tolist()) for key, values in score_classes(shown).items()},
    )


def count_classes(matrix: Tensor, mode: Mode) -> NDArray[np.int64]:
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


def score_counts(
    counts: Counts, mode: Mode, class_names: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Compute all scores of sums of :func:`count_classes` (..., N, 2, 2), each (...).

    The keys are those of :attr:`Scores.mean`, such as ``iou``, and for each reported class such as
    ``iou/road``.
    """
    classes = score_classes(_select_reported(counts, mode)).items()
    named = {f"{k}/{name}": v[..., c] for k, v in classes for c, name in enumerate(class_names)}
    return _average_scores(counts, mode) | named


def score_classes(counts: Counts) -> dict[str, NDArray[np.float64]]:
    """The :data:`CLASS_SCORES` (...) of counts (..., 2, 2); NaN where there is no value."""
    tn, fp, fn, tp = (counts[..., truth, found] for truth in (0, 1) for found in (0, 1))
    return {
        "iou": divide(tp, tp + fp + fn),
        "dice": divide(2 * tp, 2 * tp + fp + fn),
        "precision": divide(tp, tp + fp),
        "recall": divide(tp, tp + fn),
        "specificity": divide(tn, tn + fp),
    }


def _select_reported(counts: Counts, mode: Mode) -> Counts:
    """The counts of the reported classes: for binary only the foreground, else all."""
    return counts[..., 1:, :, :] if mode == "binary" else counts


def _average_scores(counts: Counts, mode: Mode) -> dict[str, NDArray[np.float64]]:
    reported = score_classes(_select_reported(counts, mode))
    support = counts[..., 1, :].sum(-1)  # (..., N)
    tn, tp = counts[..., 0, 0], counts[..., 1, 1]
    # elsewhere a pixel is true of exactly one class
    right, pixels = (tp + tn, counts.sum((-2, -1))) if mode == "multilabel" else (tp, support)
    # a class without true pixels has no weight, with or without an IoU
    weighted = np.where(support > 0, support * score_classes(counts)["iou"], 0)
    return {
        **{key: average_defined(values) for key, values in reported.items()},
        "accuracy": divide(right.sum(-1), pixels.sum(-1)),
        "fw_iou": divide(weighted.sum(-1), support.sum(-1)),
    }
