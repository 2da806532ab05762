"""Focal loss: cross-entropy that turns to the hard pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.losses.base import Loss, masked_mean
from segkit.losses.targets import one_hot
from segkit.losses.weights import require_count, weight_tensor


class Focal(Loss, name="focal"):
    """Mean focal loss over the pixels (and, in multilabel mode, the classes) that count.

    With p the probability that the softmax or sigmoid gives to the truth of a pixel::

        l = -alpha (1 - p)^gamma log p

    The mean divides by the number of pixels, not by the weights alpha. With gamma = 0 and no alpha
    it is the cross-entropy. An empty mask is as any other: each pixel costs by its own p.

    Lin et al., "Focal Loss for Dense Object Detection", 2017, eq. 5.

    Args:
        mode: What the channels of the logits mean.
        ignore_index: The label of pixels that do not count.
        gamma: 0 or more: how much less the easy pixels weigh.
        alpha: Binary and multilabel: the weight of positives in [0, 1], 1 - alpha being that of
            negatives. Multiclass: one weight per class. None: no weights.

    Raises:
        SegkitError: ``gamma`` or ``alpha`` is out of range, or ``alpha`` is not of the kind that
            the mode takes.
    """

    takes_weight = True
    alpha: Tensor | None

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = 255,
        gamma: float = 2.0,
        alpha: float | list[float] | None = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        if not (math.isfinite(gamma) and gamma >= 0):
            raise SegkitError(f"gamma is {gamma}: give 0 or more.")
        self.gamma = gamma
        # Not persistent: it comes from the config, not from training.
        self.register_buffer("alpha", _alpha(mode, alpha), persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        if self.mode == "multiclass":
            # A softmax is a sigmoid of the margin: p_y = sigmoid(x_y - logsumexp of the others).
            own = one_hot(truth, logits.shape[1])  # (B, C, H, W)
            others = logits.masked_fill(own, -torch.inf).logsumexp(1)  # (B, H, W)
            margin = torch.where(own, logits, 0).sum(1) - others  # (B, H, W)
        else:
            margin = torch.where(truth, logits, -logits)  # (B, C, H, W)
        # (1 - p)^gamma by its logarithm: the power itself has no derivative where p rounds to 1.
        losses = -(self.gamma * F.logsigmoid(-margin)).exp() * F.logsigmoid(margin)
        if self.alpha is not None:
            alpha = self.alpha.to(logits)  # (C,), binary and multilabel (2,): negative, positive
            if self.mode == "multiclass":
                require_count("alpha", alpha, logits.shape[1], "class")
            losses = losses * alpha[truth.long()]
        if weight is not None:
            losses = losses * weight
        return masked_mean(losses, valid)


def _alpha(mode: Mode, alpha: float | list[float] | None) -> Tensor | None:
    """The weight of each class, (C,), or of (negative, positive)."""
    if alpha is None:
        return None
    if mode == "multiclass":
        if not isinstance(alpha, list):
            raise SegkitError(f"alpha is {alpha}: mode 'multiclass' takes a list, one per class.")
        return weight_tensor("alpha", alpha)
    if isinstance(alpha, list) or not 0 <= alpha <= 1:
        raise SegkitError(f"alpha is {alpha}: mode '{mode}' takes one number from 0 to 1.")
    return torch.tensor([1 - alpha, alpha])
