"""The confusion matrix of an epoch, from which all scores of pixels are computed."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, MODES, Mode
from segkit.losses.labels import check_target, require_classes, split_target


class ConfusionMatrix(Metric):
    """Counts of (truth, prediction) over all batches and processes.

    The counts are integers, so the result is exact and independent of the order and size of the
    batches.

    Args:
        mode: What is decided per pixel: ``binary``, ``multiclass`` or ``multilabel``.
        num_classes: The number of classes. Binary: 2, background and foreground, or 1, the number
            of its channels, with the same meaning.
        ignore_index: Label of pixels that are not counted.
    """

    full_state_update = False
    matrix: Tensor

    def __init__(self, mode: Mode, num_classes: int, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        check_classes(mode, num_classes)
        self.mode = mode
        self.num_classes = 2 if mode == "binary" else num_classes
        self.ignore_index = ignore_index
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
        truth, valid = split_target(
            target, self.mode, channels, self.ignore_index, check_values=True
        )
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


def check_classes(mode: Mode, num_classes: int) -> None:
    """Raise SegkitError if the mode is unknown or cannot have that many classes."""
    if mode not in MODES:
        raise SegkitError(f"mode '{mode}' is unknown: use {', '.join(MODES)}.")
    fits, allowed = {
        "binary": (num_classes in (1, 2), "1 or 2"),
        "multiclass": (num_classes >= 2, "2 or more"),
        "multilabel": (num_classes >= 1, "1 or more"),
    }[mode]
    if not fits:
        raise SegkitError(
            f"num_classes is {num_classes}, but mode '{mode}' has {allowed}: give their number."
        )
