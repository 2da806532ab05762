"""Tversky and focal Tversky loss: overlap in which misses and false alarms weigh differently."""

from __future__ import annotations

import torch
from torch import Tensor

from segkit.core.labels import Mode
from segkit.losses.base import Loss
from segkit.losses.regions import (
    region_mean,
    require_positive,
    soft_counts,
    tversky_distance,
)
from segkit.losses.weights import region_weights


class Tversky(Loss, name="tversky"):
    """One minus the soft Tversky index, to the power gamma, averaged over the classes.

    With p the softmax or sigmoid of the logits, t the truth of 0 or 1 and s the ``smooth``::

        TP = sum p_c t_c      FP = sum p_c (1 - t_c)      FN = sum (1 - p_c) t_c
        T_c  = (TP + s) / (TP + alpha FP + beta FN + s)
        loss = mean_c (1 - T_c)^gamma

    The sums run over the pixels of the batch that are not ignored, or with ``per_image`` over those
    of each image, and the mean then over images and classes. With gamma = 1, alpha = beta = 1 this
    is the Jaccard loss, and alpha = beta = 1/2 the Dice loss of the ``smooth`` 2 s.

    A class that is absent from the truth has T = s / (alpha sum p + s): its loss is 0 where nothing
    of it is predicted, and false positives of s / alpha pixels cost (1/2)^gamma. All classes are in
    the mean, absent or not; only a class (or image) whose every pixel is ignored is left out.

    Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional deep
    networks", 2017, where alpha = 0.3, beta = 0.7 did best. Focal: Abraham and Khan, "A Novel Focal
    Tversky Loss Function", 2019; the exponent is 1/gamma there, and their best, 4/3, is 0.75 here.

    Args:
        mode: What the channels of the logits mean.
        ignore_index: The label of pixels that do not count.
        alpha: The weight of false positives, above 0.
        beta: The weight of false negatives, above 0. Larger than alpha it favours recall.
        gamma: Above 0. Below 1 the classes (and images) that are nearly right count more, above 1
            those that are wrong.
        smooth: s, in pixels, above 0. Far below 1 an absent class has hardly a gradient.
        per_image: Whether each image has its own sums.
        class_weights: Multiclass and multilabel: the weight of each class in the mean; a first one
            of 0 leaves the background out.

    Raises:
        SegkitError: A number is not above 0, or the weights are out of range, or there are too few
            or too many of them.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = 255,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 1.0,
        smooth: float = 1.0,
        per_image: bool = False,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        require_positive("alpha", alpha, "a number above 0, or false positives would cost nothing")
        require_positive("beta", beta, "a number above 0, or misses would cost nothing")
        require_positive("gamma", gamma, "a number above 0, such as 0.75")
        require_positive("smooth", smooth, "a number of pixels above 0, such as 1.0")
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.smooth = smooth
        self.per_image = per_image
        # Not persistent: they come from the config, not from training.
        self.register_buffer("class_weights", region_weights(mode, class_weights), persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        counts, counted = soft_counts(logits, truth, valid, self.mode, self.per_image)
        losses = tversky_distance(counts, self.alpha, self.beta, self.smooth)  # (C,) or (B, C)
        if self.gamma != 1:
            losses = _power(losses, self.gamma)
        return region_mean(losses, counted, self.class_weights)


def _power(x: Tensor, gamma: float) -> Tensor:
    """x^gamma for x >= 0, with a finite slope: 0 at and next to 0, where that of x^gamma is not."""
    smallest = 1e-12
    return torch.where(x > smallest, x.clamp(min=smallest) ** gamma, 0)
