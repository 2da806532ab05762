"""Cross-entropy in every mode, with class weights and label smoothing."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.losses.base import Loss, masked_mean
from segkit.losses.bce import sigmoid_cross_entropy
from segkit.losses.weights import require_count, weight_tensor


class CrossEntropy(Loss, name="cross_entropy"):
    """Mean cross-entropy over the pixels that count.

    With p the softmax of the logits, y the true class, w the class weights and e the smoothing::

        q_c  = (1 - e) [c = y] + e / C
        loss = sum_pixels sum_c -w_c q_c log p_c  /  sum_pixels w_y

    Only pixels that are not ignored enter either sum. A sigmoid is a choice between two classes, so
    binary and multilabel logits follow the same formula with C = 2: binary has the two weights
    (background, foreground); multilabel has one weight per class, for its presence and absence
    alike, and the sums run over the classes too. A map of pixel weights multiplies the upper sum
    only. An absent class adds nothing to either sum; its false positives are errors of the classes
    that are there. Definition: Bishop, "Pattern Recognition and
    Machine Learning", 2006, eq. 4.108; smoothing: Szegedy et al., "Rethinking the Inception
    Architecture", 2016.

    Args:
        mode: What the channels of the logits mean.
        ignore_index: The label of pixels that do not count.
        class_weights: Multiclass and multilabel: one weight per class. Binary: background,
            foreground.
        label_smoothing: e, in [0, 1).

    Raises:
        SegkitError: The weights or the smoothing are out of range, or there are too few or too many
            weights.
    """

    takes_weight = True
    class_weights: Tensor | None

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = 255,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(mode, ignore_index)
        if not 0 <= label_smoothing < 1:
            raise SegkitError(f"label_smoothing is {label_smoothing}: give 0 or more, below 1.")
        weights = None if class_weights is None else weight_tensor("class_weights", class_weights)
        if weights is not None and mode == "binary":
            require_count("class_weights", weights, 2, "class: background, foreground")
        self.label_smoothing = label_smoothing
        # Not persistent: they come from the config, not from training.
        self.register_buffer("class_weights", weights, persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        weights = self._weights(logits)  # (C,), binary (2,)
        if self.mode == "multiclass":
            # Not reduced by torch: its own mean is NaN where all is ignored, and its sum is not
            # deterministic on CUDA.
            losses = F.cross_entropy(
                logits, truth, weights, reduction="none", label_smoothing=self.label_smoothing
            )  # (B, H, W)
            divisor = weights[truth]  # (B, H, W)
        else:
            if self.mode == "binary":
                negative, positive = weights.unbind()
            else:
                negative = positive = weights.view(-1, 1, 1)  # (C, 1, 1)
            smooth = truth * (1 - self.label_smoothing) + self.label_smoothing / 2  # (B, C, H, W)
            losses = sigmoid_cross_entropy(logits, smooth.to(logits.dtype), positive, negative)
            divisor = truth * positive + ~truth * negative  # (B, C, H, W)
        if weight is not None:
            losses = losses * weight
        return masked_mean(losses, valid, divisor)

    def _weights(self, logits: Tensor) -> Tensor:
        if self.class_weights is None:
            return logits.new_ones(2 if self.mode == "binary" else logits.shape[1])
        if self.mode != "binary":
            require_count("class_weights", self.class_weights, logits.shape[1], "class")
        return self.class_weights.to(logits)  # the module may have been cast to half precision
