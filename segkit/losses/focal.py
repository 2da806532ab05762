"""Focal loss: cross-entropy that concentrates on the hard pixels."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.losses.base import Loss, average_valid, make_weights, require_count
from segkit.losses.labels import encode_one_hot


class Focal(Loss, name="focal"):
    """Mean focal loss over the pixels (for multilabel: and classes) that count.

    With p the probability of the true class of a pixel, from the softmax or sigmoid::

        l = -alpha (1 - p)^gamma log p

    The mean divides by the number of pixels, not by the weights alpha. With gamma = 0 and no alpha
    it is the cross-entropy. Each pixel of an empty mask costs by its own p, as any other.

    Lin et al., "Focal Loss for Dense Object Detection", 2017, eq. 5.

    Args:
        gamma: How strongly easy pixels are down-weighted; 0 is cross-entropy.
        alpha: With the binary and multilabel heads the weight of positives, from 0 to 1, where
            negatives weigh 1 - alpha; with the multiclass head one weight per class.
    """

    takes_weight = True
    alpha: Tensor | None

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = IGNORE_INDEX,
        gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0,
        alpha: float | list[float] | None = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        self.gamma = gamma
        self.register_buffer("alpha", _make_alpha(mode, alpha), persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        if self.mode == "multiclass":
            # a softmax is a sigmoid of the margin: p_y = sigmoid(x_y - logsumexp of the others)
            own = encode_one_hot(truth, logits.shape[1])  # (B, C, H, W)
            others = logits.masked_fill(own, -torch.inf).logsumexp(1)  # (B, H, W)
            margin = torch.where(own, logits, 0).sum(1) - others  # (B, H, W)
        else:
            margin = torch.where(truth, logits, -logits)  # (B, C, H, W)
        # (1 - p)^gamma from its logarithm: the power has no derivative where p rounds to 1
        losses = -(self.gamma * F.logsigmoid(-margin)).exp() * F.logsigmoid(margin)
        if self.alpha is not None:
            alpha = self.alpha.to(logits)  # (C,), binary and multilabel (2,): negative, positive
            if self.mode == "multiclass":
                require_count("alpha", alpha, logits.shape[1], "class")
            losses = losses * alpha[truth.long()]
        if weight is not None:
            losses = losses * weight
        return average_valid(losses, valid)


def _make_alpha(mode: Mode, alpha: float | list[float] | None) -> Tensor | None:
    """The weight of each class, (C,), or of (negative, positive)."""
    if alpha is None:
        return None
    if mode == "multiclass":
        if not isinstance(alpha, list):
            raise SegkitError(f"alpha is {alpha}: mode 'multiclass' takes a list, one per class.")
        return make_weights("alpha", alpha)
    if isinstance(alpha, list) or not 0 <= alpha <= 1:
        raise SegkitError(f"alpha is {alpha}: mode '{mode}' takes one number from 0 to 1.")
    return torch.tensor([1 - alpha, alpha])
