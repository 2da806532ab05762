"""Lovasz losses: the Jaccard index, extended to soft predictions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.losses.base import ClassWeights, Loss
from segkit.losses.regions import average_regions, split_regions, weigh_regions


class Lovasz(Loss, name="lovasz"):
    """The Lovasz extension of the Jaccard loss: softmax for multiclass, else hinge.

    For each class c, pixel i has an error m_i of 0 or more. With J(S) = |S| / |truth or S| the
    Jaccard loss of a region whose wrong pixels are the set S, and the pixels sorted from the
    largest error to the smallest::

        hinge:    m_i = max(0, 1 - x_i) where the truth is c, else max(0, 1 + x_i)   (x the logits)
        softmax:  m_i = 1 - p_i         where the truth is c, else p_i
        loss_c    = sum_i m_i (J({1 ... i}) - J({1 ... i - 1}))
        loss      = mean_c loss_c

    For errors of 0 and 1 it is one minus the intersection over union, without smoothing. The pixels
    that count are sorted over the batch, or with ``per_image`` in each image; the mean is then over
    images and classes. The hinge of the logits has no upper bound, and is 0 where every pixel is
    right by a margin of 1.

    Binary and multilabel: empty masks and absent classes are in the mean, and cost the largest
    error, that of the worst false positive. Multiclass: the mean is over the classes that are
    present, as in the paper; false positives of an absent class cost as misses of the class that
    is there. A class (or image) whose every pixel is ignored is left out.

    Berman et al., "The Lovasz-Softmax loss", 2018; hinge: Yu and Blaschko, "Learning Submodular
    Losses with the Lovasz Hinge", 2015.

    Args:
        per_image: Whether the pixels are ranked within each image, instead of within the batch.
        class_weights: Weight of each class in the mean, as [0, 1, 1] without the background; not
            with the binary head. auto: the more, the rarer the class is, as in the cross-entropy.
    """

    fits_points = True
    class_weights: Tensor | None

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = IGNORE_INDEX,
        per_image: bool = False,
        class_weights: ClassWeights = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        self.per_image = per_image
        self.register_buffer("class_weights", weigh_regions(mode, class_weights), persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        if self.mode == "multiclass":
            p, truth, valid = split_regions(logits, truth, valid, self.mode)
            errors = torch.where(truth, 1 - p, p)  # (B, C, H, W)
        else:
            truth = truth & valid  # (B, C, H, W)
            errors = F.relu(1 - torch.where(truth, logits, -logits))  # (B, C, H, W)
        errors = torch.where(valid, errors, 0)
        if self.per_image:
            errors, truth, valid = (x.flatten(2) for x in (errors, truth, valid))  # (B, C, HW)
        else:  # (C, BHW)
            errors, truth, valid = (x.transpose(0, 1).flatten(1) for x in (errors, truth, valid))
        # the steps are the gradient of the extension, constant as long as the order is
        steps = compute_jaccard_steps(errors.detach(), truth, valid)
        losses = (errors * steps).sum(-1)  # (C,) or (B, C)
        counted = truth if self.mode == "multiclass" else valid
        return average_regions(losses, counted.any(-1), self.class_weights)


@torch.no_grad()
def compute_jaccard_steps(errors: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """How much each pixel adds to the Jaccard loss as pixels turn wrong, largest error first.

    All are (..., P); ``truth`` is False and the result 0 where nothing counts.
    """
    order = errors.argsort(-1, descending=True)
    t, counts = truth.gather(-1, order), valid.gather(-1, order)
    total = t.sum(-1, keepdim=True)
    false = (counts & ~t).cumsum(-1)  # int64: exact for any number of pixels
    left = total - t.cumsum(-1)  # true pixels still found after this one
    union = (total + false).to(errors.dtype)
    # J = 1 - left / union. Its steps in closed form, as differences of J would round small ones
    # away: a miss takes one from `left`, a false positive adds one to `union`.
    miss = 1 / union.clamp(min=1)
    false_positive = left / (union * (union - 1)).clamp(min=1)
    # without truth the first false positive is the only step, from 0 to 1
    false_positive = torch.where(total > 0, false_positive, (false == 1).to(errors.dtype))
    steps = torch.where(counts, torch.where(t, miss, false_positive), 0)
    return torch.zeros_like(errors).scatter(-1, order, steps)
