"""The scores that a confusion matrix tells: IoU, Dice, precision, recall and accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from segkit.errors import SegkitError
from segkit.targets import MODES, Mode

UNDEFINED = "-"
"""How a score that has no value is shown in a table."""


@dataclass(frozen=True)
class Scores:
    """The scores of each reported class, and their means. Made by :func:`scores`.

    With the pixels counted as true positives, false positives and false negatives of a class::

        iou = tp / (tp + fp + fn)            precision = tp / (tp + fp)
        dice = 2 tp / (2 tp + fp + fn)       recall = tp / (tp + fn)

    A score whose denominator is 0 has no value: it is NaN here and "-" in a table, and it is left
    out of the mean. So a class without a true and without a predicted pixel has no IoU and no Dice;
    one that is predicted where it is nowhere true has an IoU and a Dice of 0, which count.
    Precision has no value where nothing is predicted, recall where nothing is true. Where no class
    has a value, neither has the mean.

    Attributes:
        class_names: The reported classes: binary only the foreground, else all.
        iou: Intersection over union (Jaccard 1912), per class.
        dice: Dice coefficient (Dice 1945), the F1 score, per class.
        precision: Share of the predicted pixels that are true, per class.
        recall: Share of the true pixels that are predicted, per class.
        support: The number of true pixels, per class.
        accuracy: Share of all pixels (multilabel: of all pixels and classes) that are decided
            rightly.
    """

    class_names: tuple[str, ...]
    iou: tuple[float, ...]
    dice: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    support: tuple[int, ...]
    accuracy: float

    @property
    def mean(self) -> dict[str, float]:
        """What to monitor: the means over the classes that have a value, and the accuracy."""
        return {
            "iou": _mean(self.iou),
            "dice": _mean(self.dice),
            "precision": _mean(self.precision),
            "recall": _mean(self.recall),
            "accuracy": self.accuracy,
        }

    def rows(self) -> list[dict[str, str | int | float]]:
        """A table: one row per class, then one of the means, whose support is the sum.

        The keys are class, iou, dice, precision, recall and support. The values are not rounded;
        one that is not defined is "-".
        """
        columns = zip(
            self.class_names,
            self.iou,
            self.dice,
            self.precision,
            self.recall,
            self.support,
            strict=True,
        )
        mean = self.mean
        total = ("mean", mean["iou"], mean["dice"], mean["precision"], mean["recall"])
        return [_row(*values) for values in [*columns, (*total, sum(self.support))]]


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
    counts = _checked(matrix, mode, class_names).tolist()
    names = tuple(class_names)
    if mode == "multilabel":
        cells = [(tp, fp, fn) for (_, fp), (fn, tp) in counts]
        right = sum(tn + tp for (tn, _), (_, tp) in counts)
    else:
        predicted = [sum(column) for column in zip(*counts, strict=True)]
        cells = [(row[c], predicted[c] - row[c], sum(row) - row[c]) for c, row in enumerate(counts)]
        right = sum(row[c] for c, row in enumerate(counts))
    if mode == "binary":
        names, cells = names[1:], cells[1:]
    # Integers until the one division: exact for any number of pixels.
    return Scores(
        class_names=names,
        iou=tuple(_ratio(tp, tp + fp + fn) for tp, fp, fn in cells),
        dice=tuple(_ratio(2 * tp, 2 * tp + fp + fn) for tp, fp, fn in cells),
        precision=tuple(_ratio(tp, tp + fp) for tp, fp, _ in cells),
        recall=tuple(_ratio(tp, tp + fn) for tp, _, fn in cells),
        support=tuple(tp + fn for tp, _, fn in cells),
        accuracy=_ratio(right, int(matrix.sum())),
    )


def _checked(matrix: Tensor, mode: Mode, class_names: Sequence[str]) -> Tensor:
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
    return matrix


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _row(
    name: str, iou: float, dice: float, precision: float, recall: float, support: int
) -> dict[str, str | int | float]:
    values = {"iou": iou, "dice": dice, "precision": precision, "recall": recall}
    shown = {key: UNDEFINED if math.isnan(value) else value for key, value in values.items()}
    return {"class": name, **shown, "support": support}
