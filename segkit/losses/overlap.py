"""Overlap losses, all cases of Tversky's index: Dice, Jaccard, Tversky and focal Tversky.

With p the softmax or sigmoid of the logits, t the truth of 0 or 1 and s the ``smooth``::

    TP = sum p_c t_c      FP = sum p_c (1 - t_c)      FN = sum (1 - p_c) t_c
    T_c  = (TP + s) / (TP + alpha FP + beta FN + s)
    loss = mean_c (1 - T_c)^gamma

The sums run over the pixels of the batch that are not ignored, or with ``per_image`` over those of
each image; the mean then runs over images and classes. Each process of a distributed training sums
over its own batch.

A class that is absent from the truth has T = s / (alpha sum p + s): its loss is 0 if nothing of it
is predicted, and 1/2 (to the power gamma) for s / alpha pixels of false positives. All classes are
in the mean, absent or not, including the background of a multiclass model: leaving absent classes
out would make their false positives free. Only a class (or image) whose every pixel is ignored is
left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.losses.base import ClassWeights, Loss, Positive
from segkit.losses.points import Points, select_points
from segkit.losses.regions import average_regions, choose_dims, sum_regions, weigh_regions


class Dice(Loss, name="dice"):
    """One minus the soft Dice coefficient, averaged over the classes.

    Tversky's index with alpha = beta = 1/2, and half the ``smooth``::

        d_c  = (2 sum p_c t_c + s) / (sum p_c + sum t_c + s)
        loss = mean_c (1 - d_c)

    See :mod:`segkit.losses.overlap` for the sums and for absent classes: false positives of s
    pixels of an absent class cost 1/2, of 9 s pixels 0.9.

    Milletari et al., "V-Net", 2016, with the first power in the denominator as in Drozdzal et al.,
    "The Importance of Skip Connections in Biomedical Image Segmentation", 2016.

    Args:
        smooth: Pixels added to both sides of the ratio. Far below 1 an absent class has hardly any
            gradient.
        per_image: Whether each image has its own ratio, instead of one for the batch. Small objects
            then weigh as much as large ones in other images.
        class_weights: Weight of each class in the mean, as [0, 1, 1] without the background; not
            with the binary head. auto: the more, the rarer the class is, as in the cross-entropy.
        points: Compute it in training on so many points per image, three quarters of them where the
            prediction is least certain; None: on all pixels. ``smooth`` then counts points.
    """

    fits_points = True

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = IGNORE_INDEX,
        smooth: Positive = 1.0,
        per_image: bool = False,
        class_weights: ClassWeights = None,
        points: Points | None = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        self.points = points
        half = 0.5, 0.5, 1.0, smooth / 2
        self.index = Tversky(mode, ignore_index, *half, per_image, class_weights)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        if self.points is not None and self.training:
            chosen = select_points(logits, truth, valid, weight, self.mode, self.points)
            logits, truth, valid, _ = chosen
        return self.index.compute(logits, truth, valid)


class Jaccard(Loss, name="jaccard"):
    """One minus the soft Jaccard index (intersection over union), averaged over the classes.

    Tversky's index with alpha = beta = 1::

        j_c  = (sum p_c t_c + s) / (sum p_c + sum t_c - sum p_c t_c + s)
        loss = mean_c (1 - j_c)

    See :mod:`segkit.losses.overlap` for the sums and for absent classes: false positives of s
    pixels of an absent class cost 1/2.

    Rahman and Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image
    Segmentation", 2016.

    Args:
        smooth: Pixels added to both sides of the ratio. Far below 1 an absent class has hardly any
            gradient.
        per_image: Whether each image has its own ratio, instead of one for the batch.
        class_weights: Weight of each class in the mean, as [0, 1, 1] without the background; not
            with the binary head. auto: the more, the rarer the class is, as in the cross-entropy.
    """

    fits_points = True

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = IGNORE_INDEX,
        smooth: Positive = 1.0,
        per_image: bool = False,
        class_weights: ClassWeights = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        whole = 1.0, 1.0, 1.0, smooth
        self.index = Tversky(mode, ignore_index, *whole, per_image, class_weights)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        return self.index.compute(logits, truth, valid)


class Tversky(Loss, name="tversky"):
    """One minus the soft Tversky index, to the power gamma, averaged over the classes.

    See :mod:`segkit.losses.overlap` for the formula and for absent classes. Misses and false
    alarms weigh differently; with gamma = 1, alpha = beta = 1 this is the Jaccard loss.

    Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional deep
    networks", 2017, where alpha = 0.3, beta = 0.7 did best. Focal: Abraham and Khan, "A Novel Focal
    Tversky Loss Function", 2019; its exponent is 1/gamma, and its best, 4/3, is 0.75 here.

    Args:
        alpha: Weight of the false positives.
        beta: Weight of the false negatives. Larger than alpha it favours recall.
        gamma: Power of the loss of each class. 1 is plain Tversky; below 1 classes that are nearly
            right count more (0.75 is the focal Tversky of the paper), above 1 those that are wrong.
        smooth: Pixels added to both sides of the ratio. Far below 1 an absent class has hardly any
            gradient.
        per_image: Whether each image has its own ratio, instead of one for the batch.
        class_weights: Weight of each class in the mean, as [0, 1, 1] without the background; not
            with the binary head. auto: the more, the rarer the class is, as in the cross-entropy.
    """

    fits_points = True
    class_weights: Tensor | None

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = IGNORE_INDEX,
        alpha: Positive = 0.3,
        beta: Positive = 0.7,
        gamma: Positive = 1.0,
        smooth: Positive = 1.0,
        per_image: bool = False,
        class_weights: ClassWeights = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        self.alpha, self.beta, self.gamma, self.smooth = alpha, beta, gamma, smooth
        self.per_image = per_image
        self.register_buffer("class_weights", weigh_regions(mode, class_weights), persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        # Three sums, as each operation on a whole map takes time: errors = FP + FN,
        # predicted - true = FP - FN, predicted + true - errors = 2 TP; each (C,) or (B, C)
        errors, predicted, true = sum_regions(logits, truth, valid, self.mode, self.per_image)
        wrong, total = errors, predicted + true + 2 * self.smooth
        if (self.alpha, self.beta) != (0.5, 0.5):  # of Dice this is already the formula, doubled
            wrong = (self.alpha + self.beta) * errors + (self.alpha - self.beta) * (
                predicted - true
            )
            total = total - errors + wrong
        losses = wrong / total
        if self.gamma != 1:
            # the slope of x^gamma is infinite at 0 where gamma < 1: it is cut to 0 there
            smallest = 1e-12
            losses = torch.where(losses > smallest, losses.clamp(min=smallest) ** self.gamma, 0)
        counted = None  # all classes, by the same pixels; if there are none, all losses are 0
        if self.per_image or self.mode == "multilabel":
            each = valid.unsqueeze(1) if self.mode == "multiclass" else valid
            counted = each.expand_as(logits).any(choose_dims(self.per_image))
        return average_regions(losses, counted, self.class_weights)
