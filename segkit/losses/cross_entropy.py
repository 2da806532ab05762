"""Cross-entropy in every mode, binary cross-entropy with pos_weight, and the focal loss."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.losses.base import (
    ClassWeights,
    Loss,
    average_valid,
    make_weights,
    require_count,
)
from segkit.losses.labels import encode_one_hot
from segkit.losses.points import Points, select_points

Smoothing = Annotated[float, Field(ge=0, lt=1)]


class CrossEntropy(Loss, name="cross_entropy"):
    """Mean cross-entropy: softmax for multiclass, sigmoid for binary and multilabel.

    With p the softmax of the logits, y the true class, w the class weights and e the smoothing::

        q_c  = (1 - e) [c = y] + e / C
        loss = sum_pixels sum_c -w_c q_c log p_c  /  sum_pixels w_y

    Both sums leave ignored pixels out. A sigmoid is a choice between two classes, so binary and
    multilabel logits follow the same formula with C = 2; for multilabel the sums run over the
    classes too. Pixel weights multiply the upper sum only. An absent class adds nothing to either
    sum; its false positives are errors of the classes that are present.

    With ``top_k`` both sums run over the hardest pixels alone, those that cost most, their weights
    included; for multilabel over the hardest pairs of pixel and class. Of n that count in the
    batch of a process, those are top_k n, rounded, but at least one. Ignored pixels are not among
    them, and not in n.

    Bishop, "Pattern Recognition and Machine Learning", 2006, eq. 4.108; smoothing: Szegedy et al.,
    "Rethinking the Inception Architecture", 2016; hardest pixels: Shrivastava et al., "Training
    Region-based Object Detectors with Online Hard Example Mining", 2016, of pixels Wu et al.,
    "Bridging Category-level and Instance-level Semantic Image Segmentation", 2016.

    Args:
        class_weights: One weight per class; with the binary head two, [background, foreground]. A
            class of a multilabel head has one weight for its presence and absence alike. auto: the
            inverse square roots of the shares of the classes in the training pixels, 1 on average.
        label_smoothing: Share of each label that is spread over all classes.
        top_k: Share of the pixels that count, the hardest of the batch; 1: all of them. Below 1
            easy pixels are left out, which outnumber all others.
    """

    takes_weight = True
    fits_points = True
    class_weights: Tensor | None

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = IGNORE_INDEX,
        class_weights: ClassWeights = None,
        label_smoothing: Smoothing = 0.0,
        top_k: Annotated[float, Field(gt=0, le=1)] = 1.0,
    ) -> None:
        super().__init__(mode, ignore_index)
        weights = None if class_weights is None else make_weights("class_weights", class_weights)
        if weights is not None and mode == "binary":
            require_count("class_weights", weights, 2, "class: background, foreground")
        self.label_smoothing, self.top_k = label_smoothing, top_k
        # weights are never persistent: they come from the config, not from training
        self.register_buffer("class_weights", weights, persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        weights, smoothing = self.class_weights, self.label_smoothing  # (C,), binary (2,)
        if weights is not None:
            if self.mode != "binary":
                require_count("class_weights", weights, logits.shape[1], "class")
            weights = weights.to(logits)  # the module may have been cast to half precision
        divisor = None
        if self.mode == "multiclass":
            # not reduced by torch: its mean is NaN where all pixels are ignored, and its sum is not
            # deterministic on CUDA
            losses = F.cross_entropy(
                logits, truth, weights, reduction="none", label_smoothing=smoothing
            )  # (B, H, W)
            if weights is not None:
                divisor = weights[truth]  # (B, H, W)
        else:
            wrong = get_wrong_logits(logits, truth)  # (B, C, H, W)
            losses = F.softplus(wrong)  # -log p of the true choice
            if weights is None or self.mode == "multilabel":
                if smoothing:
                    losses = losses - smoothing / 2 * wrong  # log(1 - p) = log p + wrong
                if weights is not None:
                    divisor = weights.view(-1, 1, 1).expand_as(losses)
                    losses = losses * divisor
            else:
                negative, positive = weights.unbind()
                divisor = torch.where(truth, positive, negative)
                others = torch.where(truth, negative, positive)
                losses = (1 - smoothing / 2) * divisor * losses
                losses = losses + smoothing / 2 * others * F.softplus(-wrong)
        if weight is not None:
            losses = losses * weight
        if self.top_k < 1:
            losses, valid, divisor = select_hardest(losses, valid, divisor, self.top_k)
        return average_valid(losses, valid, divisor)


def select_hardest(
    losses: Tensor, valid: Tensor, divisor: Tensor | None, share: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Select the largest losses, so many that they are a share of those that count.

    Args:
        losses: Any shape, 0 or more where they count.
        valid: Which count, bool, same shape.
        divisor: What goes with each loss, same shape.
        share: Above 0, at most 1.

    Returns:
        The three, flat; one may still not count.
    """
    losses, valid = losses.flatten(), valid.flatten()
    # how many count is known to the device alone: so many are taken as could be needed at most
    most = min(losses.numel(), max(1, round(share * losses.numel())))
    hardest, places = torch.where(valid, losses, -1).topk(most)
    number = (valid.sum() * share).round().clamp(min=1)
    chosen = (torch.arange(most, device=losses.device) < number) & valid[places]
    return hardest, chosen, None if divisor is None else divisor.flatten()[places]


class BinaryCrossEntropy(Loss, name="bce"):
    """Mean binary cross-entropy over the pixels (for multilabel: and classes) that count.

    With p = sigmoid(logit), y the truth of 0 or 1, w the ``pos_weight`` and e the smoothing::

        q = (1 - e) y + e / 2
        l = -(w q log p + (1 - q) log(1 - p))

    The mean divides by the number of pixels, not by their weights, as PyTorch's
    ``BCEWithLogitsLoss`` does. Each pixel of an empty mask costs -log(1 - p), as any other.

    Bishop, "Pattern Recognition and Machine Learning", 2006, eq. 4.90.

    Args:
        pos_weight: Weight of the positive pixels: one number, or one per class. Above 1 it favours
            recall.
        label_smoothing: Share of each label that is spread over presence and absence.
    """

    modes: ClassVar[tuple[Mode, ...]] = ("binary", "multilabel")
    takes_weight = True
    fits_points = True
    pos_weight: Tensor

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = IGNORE_INDEX,
        pos_weight: float | list[float] | None = None,
        label_smoothing: Smoothing = 0.0,
    ) -> None:
        super().__init__(mode, ignore_index)
        self.label_smoothing = label_smoothing
        if not isinstance(pos_weight, list):
            pos_weight = [1.0 if pos_weight is None else pos_weight]
        self.register_buffer("pos_weight", make_weights("pos_weight", pos_weight), persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        if self.pos_weight.numel() > 1:
            require_count("pos_weight", self.pos_weight, logits.shape[1], "channel of the logits")
        positive = self.pos_weight.to(logits).view(-1, 1, 1)  # (1 or C, 1, 1)
        wrong, half = get_wrong_logits(logits, truth), self.label_smoothing / 2
        losses = F.softplus(wrong) * torch.where(truth, positive, 1)  # of the label itself
        if half:  # and of the other choice
            others = F.softplus(-wrong) * torch.where(truth, 1, positive)
            losses = (1 - half) * losses + half * others
        if weight is not None:
            losses = losses * weight
        return average_valid(losses, valid)


def get_wrong_logits(logits: Tensor, truth: Tensor) -> Tensor:
    """The logits of the wrong choice of each sigmoid: -x where the truth is 1, else x.

    softplus of them is -log p of the true choice. Nothing cancels in it, as 1 - sigmoid(x) would
    where sigmoid(x) rounds to 1.
    """
    return logits * torch.rsub(truth.to(logits.dtype), 1, alpha=2)  # 1 - 2 t


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
        points: Compute it in training on so many points per image, three quarters of them where the
            prediction is least certain; None: on all pixels. Saves time where crops have ten times
            as many pixels.
    """

    takes_weight = True
    fits_points = True
    alpha: Tensor | None

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = IGNORE_INDEX,
        gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0,
        alpha: float | list[float] | None = None,
        points: Points | None = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        self.gamma, self.points = gamma, points
        self.register_buffer("alpha", _make_alpha(mode, alpha), persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        if self.points is not None and self.training:
            inputs = logits, truth, valid, weight
            logits, truth, valid, weight = select_points(*inputs, self.mode, self.points)
        if self.mode == "multiclass":
            # a softmax is a sigmoid of the margin: p_y = sigmoid(x_y - logsumexp of the others)
            own = encode_one_hot(truth, logits.shape[1])  # (B, C, H, W)
            others = logits.masked_fill(own, -torch.inf).logsumexp(1)  # (B, H, W)
            margin = torch.where(own, logits, 0).sum(1) - others  # (B, H, W)
        else:
            margin = -get_wrong_logits(logits, truth)  # (B, C, H, W)
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
