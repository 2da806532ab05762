"""The scores at each threshold on the probabilities, from counts of one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.losses.labels import check_target, split_target
from segkit.metrics.base import check_classes
from segkit.metrics.confusion import Counts, score_classes

THRESHOLDS: tuple[float, ...] = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""0.05, 0.10 ... 0.95."""

_COLUMNS = ("iou", "dice", "precision", "recall")


class ThresholdCounts(Metric):
    """Counts of (truth, decision) at each threshold, over all batches and processes.

    They are exact: at each threshold they equal the confusion matrix of a head with that threshold,
    which decides for a class if its float32 probability exceeds it.

    Args:
        mode: ``binary`` or ``multilabel``. A multiclass head has no threshold: it decides for the
            most probable class.
        num_classes: The number of classes. Binary: 2 or 1, with the same meaning.
        thresholds: Ascending numbers between 0 and 1.
    """

    full_state_update = False
    histogram: Tensor

    def __init__(
        self, mode: Mode, num_classes: int, thresholds: Sequence[float] = THRESHOLDS
    ) -> None:
        super().__init__()
        if mode not in ("binary", "multilabel"):
            raise SegkitError(
                f"a threshold sweep needs mode 'binary' or 'multilabel', not '{mode}': its classes"
                " are not decided by a threshold."
            )
        check_classes(mode, num_classes)
        self.mode: Mode = mode
        self.channels = 1 if mode == "binary" else num_classes
        self.thresholds = tuple(thresholds)
        # pixels of each class and truth by the number of thresholds that they exceed
        shape = (self.channels, 2, len(self.thresholds) + 1)
        self.add_state("histogram", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: (B, C, H, W), float; C is 1 for binary, else the number of classes. NaN
                exceeds no threshold.
            target: The true labels, (B, H, W) or for multilabel also (B, C, H, W), as for losses.
        """
        C = self.channels
        if probabilities.ndim != 4 or probabilities.shape[1] != C:
            raise SegkitError(
                f"the probabilities have the shape {tuple(probabilities.shape)}; mode '{self.mode}'"
                f" takes (B, {C}, H, W): those of the head's activate()."
            )
        if not probabilities.is_floating_point():
            raise SegkitError(
                f"the probabilities are {probabilities.dtype}: give those of the head's activate(),"
                " not the decided labels."
            )
        check_target(target, self.mode, probabilities.shape)
        truth, valid = split_target(target, self.mode, C, IGNORE_INDEX, check_values=True)
        thresholds = torch.tensor(self.thresholds, dtype=torch.float32, device=probabilities.device)
        values = probabilities.float().nan_to_num(nan=-1.0).contiguous()
        exceeded = torch.bucketize(values, thresholds)  # (B, C, H, W): how many are below the value
        classes = torch.arange(C, device=values.device).view(-1, 1, 1)
        cells = (classes * 2 + truth) * (len(thresholds) + 1) + exceeded  # (B, C, H, W)
        counts = torch.bincount(cells[valid], minlength=self.histogram.numel())
        # not in place, which torch forbids after a reset in inference mode
        self.histogram = self.histogram + counts.view_as(self.histogram)

    def compute(self) -> Tensor:
        """The counts, int64: (C, T, 2, 2), ``[truth][decision]`` for each class and threshold."""
        above = self.histogram.flip(-1).cumsum(-1).flip(-1)  # (C, 2, T + 1): k thresholds or more
        present = above[..., 1:]  # (C, 2, T)
        absent = above[..., :1] - present  # (C, 2, T)
        return torch.stack([absent, present], -1).transpose(1, 2)


@dataclass(frozen=True)
class ThresholdSweep:
    """The scores of each class at each threshold. Created by :func:`sweep_thresholds`.

    Choose a threshold on the validation images, never on those whose result is reported.

    Attributes:
        class_names: The classes; binary only the foreground.
        thresholds: T of them, ascending.
        scores: iou, dice, precision and recall, each (C, T), as :class:`segkit.metrics.Scores`
            defines them: NaN where there is no value.
    """

    class_names: tuple[str, ...]
    thresholds: tuple[float, ...]
    scores: dict[str, NDArray[np.float64]]

    @property
    def best(self) -> dict[str, float]:
        """For each class the threshold of the highest IoU, and of the highest Dice.

        Among equals the one nearest to 0.5; NaN if a class has no IoU at any threshold.
        """
        best = {}
        for name, values in zip(self.class_names, self.scores["iou"].tolist(), strict=True):
            candidates = zip(values, self.thresholds, strict=True)
            scored = [(iou, -abs(t - 0.5), t) for iou, t in candidates if not math.isnan(iou)]
            best[name] = max(scored)[-1] if scored else math.nan
        return best

    def rows(self) -> list[dict[str, str | float]]:
        """A table of class, threshold, iou, dice, precision and recall; NaN if undefined."""
        return [
            {
                "class": name,
                "threshold": threshold,
                **{key: float(self.scores[key][c, t]) for key in _COLUMNS},
            }
            for c, name in enumerate(self.class_names)
            for t, threshold in enumerate(self.thresholds)
        ]


def sweep_thresholds(counter: ThresholdCounts, class_names: Sequence[str]) -> ThresholdSweep:
    """Score all images at each threshold. Binary needs two names, and reports the foreground."""
    counts: Counts = counter.compute().numpy(force=True)  # (C, T, 2, 2)
    table = score_classes(counts)
    return ThresholdSweep(
        tuple(class_names)[-counter.channels :],
        counter.thresholds,
        {key: table[key] for key in _COLUMNS},
    )
