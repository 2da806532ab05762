"""Binary cross-entropy: one sigmoid per channel."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from segkit.core.labels import Mode
from segkit.losses.base import Loss, masked_mean
from segkit.losses.weights import require_count, weight_tensor


class BinaryCrossEntropy(Loss, name="bce"):
    """Mean binary cross-entropy over the pixels (and, in multilabel mode, the classes) that count.

    With p = sigmoid(logit), y the truth of 0 or 1 and w the ``pos_weight``::

        l = -(w y log p + (1 - y) log(1 - p))

    The mean divides by the number of pixels, not by their weights, as PyTorch's
    ``BCEWithLogitsLoss`` does. An empty mask is as any other: each pixel costs -log(1 - p).

    Definition: Good, "Rational Decisions", 1952; Bishop, "Pattern Recognition and Machine
    Learning", 2006, eq. 4.90.

    Args:
        mode: ``binary`` or ``multilabel``.
        ignore_index: The label of pixels that do not count.
        pos_weight: Weight of the positive pixels: one number, or one per class. Above 1 it favours
            recall.

    Raises:
        SegkitError: A weight is not finite or negative, or the mode is not served.
    """

    modes: ClassVar[tuple[Mode, ...]] = ("binary", "multilabel")
    takes_weight = True
    pos_weight: Tensor

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = 255,
        pos_weight: float | list[float] | None = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        if not isinstance(pos_weight, list):
            pos_weight = [1.0 if pos_weight is None else pos_weight]
        # Not persistent: it comes from the config, not from training.
        self.register_buffer(
            "pos_weight", weight_tensor("pos_weight", pos_weight), persistent=False
        )

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        if self.pos_weight.numel() > 1:
            require_count("pos_weight", self.pos_weight, logits.shape[1], "channel of the logits")
        positive = self.pos_weight.to(logits).view(-1, 1, 1)  # (1 or C, 1, 1)
        losses = sigmoid_cross_entropy(
            logits, truth.to(logits.dtype), positive, 1.0
        )  # (B, C, H, W)
        if weight is not None:
            losses = losses * weight
        return masked_mean(losses, valid)


def sigmoid_cross_entropy(
    logits: Tensor, truth: Tensor, positive: Tensor, negative: Tensor | float
) -> Tensor:
    """Cross-entropy of each sigmoid, not reduced.

    Args:
        logits: (B, C, H, W).
        truth: The probability of the positive class, (B, C, H, W), float.
        positive: The weight of the positive term, broadcast to (B, C, H, W).
        negative: The weight of the negative term, likewise.
    """
    # log(1 - sigmoid(x)) = log sigmoid(-x), which does not cancel where sigmoid(x) rounds to 1.
    return -(
        positive * truth * F.logsigmoid(logits) + negative * (1 - truth) * F.logsigmoid(-logits)
    )
