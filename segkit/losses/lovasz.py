"""Lovasz losses: the Jaccard index itself, continued to predictions that are not sure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.core.labels import Mode
from segkit.losses.base import Loss
from segkit.losses.regions import region_mean, regions
from segkit.losses.weights import region_weights


class Lovasz(Loss, name="lovasz"):
    """The Lovasz extension of the Jaccard loss: hinge for sigmoids, softmax for multiclass.

    Each pixel i has an error m_i of 0 or more for each class c. With J(S) = |S| / |truth or S| the
    Jaccard loss of a region whose wrong pixels are the set S, and the pixels numbered from the
    largest error to the smallest::

        hinge:    m_i = max(0, 1 - x_i) where the truth is c, else max(0, 1 + x_i)   (x the logits)
        softmax:  m_i = 1 - p_i         where the truth is c, else p_i
        loss_c    = sum_i m_i (J({1 ... i}) - J({1 ... i - 1}))
        loss      = mean_c loss_c

    For errors of 0 and 1 it is one minus the intersection over union, with no smoothing. The
    pixels are ranked over the batch without those that are ignored, or with ``per_image`` in each
    image, and the mean is then over images and classes. The hinge is that of the logits, so it has
    no upper bound and is 0 where every pixel is right by a margin of 1.

    Empty masks and absent classes: in the binary and multilabel modes they are in the mean, and
    cost the largest error, that of the worst false positive. In the multiclass mode the mean is
    over the classes that are present, as in the paper: false positives of an absent class take
    their probability from the class that is there, and cost as its misses. A class (or image) whose
    every pixel is ignored is left out.

    Berman et al., "The Lovasz-Softmax loss", 2018; hinge: Yu and Blaschko, "Learning Submodular
    Losses with the Lovasz Hinge", 2015.

    Args:
        mode: What the channels of the logits mean.
        ignore_index: The label of pixels that do not count.
        per_image: Whether the pixels are ranked in each image instead of in the batch.
        class_weights: Multiclass and multilabel: the weight of each class in the mean; a first one
            of 0 leaves the background out.

    Raises:
        SegkitError: The weights are out of range, or there are too few or too many of them.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = 255,
        per_image: bool = False,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        self.per_image = per_image
        # Not persistent: they come from the config, not from training.
        self.register_buffer("class_weights", region_weights(mode, class_weights), persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        if self.mode == "multiclass":
            p, truth, valid = regions(logits, truth, valid, self.mode)
            errors = torch.where(truth, 1 - p, p)  # (B, C, H, W)
        else:
            truth = truth & valid  # (B, C, H, W)
            errors = F.relu(1 - torch.where(truth, logits, -logits))  # (B, C, H, W)
        errors = torch.where(valid, errors, 0)
        if self.per_image:
            errors, truth, valid = (x.flatten(2) for x in (errors, truth, valid))  # (B, C, HW)
        else:
            errors, truth, valid = (
                x.transpose(0, 1).flatten(1) for x in (errors, truth, valid)
            )  # (C, BHW)
        # The weights are the gradient of the extension, constant while the ranking is.
        losses = (errors * jaccard_steps(errors.detach(), truth, valid)).sum(-1)  # (C,) or (B, C)
        counted = truth if self.mode == "multiclass" else valid
        return region_mean(losses, counted.any(-1), self.class_weights)


@torch.no_grad()
def jaccard_steps(errors: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """How much each pixel adds to the Jaccard loss when the pixels turn wrong, worst error first.

    Args:
        errors: 0 or more, (..., P).
        truth: Bool, False where nothing counts, (..., P).
        valid: Which pixels count, bool, (..., P).

    Returns:
        (..., P), 0 where nothing counts.
    """
    order = torch.where(valid, errors, -1).argsort(-1, descending=True)
    t, counts = truth.gather(-1, order), valid.gather(-1, order)
    total = t.sum(-1, keepdim=True)
    false = (counts & ~t).cumsum(-1)  # int64: exact for any number of pixels
    left = total - t.cumsum(-1)  # what is still found of the truth after this pixel
    union = (total + false).to(errors.dtype)
    # J = 1 - left / union. Its steps in closed form, since J rounds where a step is small:
    # a miss takes one from `left`, a false positive adds one to `union`.
    miss = 1 / union.clamp(min=1)
    false_positive = left / (union * (union - 1)).clamp(min=1)
    # Without truth the first false positive is the step from 0 to 1, and there is no other.
    false_positive = torch.where(total > 0, false_positive, (false == 1).to(errors.dtype))
    steps = torch.where(counts, torch.where(t, miss, false_positive), 0)
    return torch.zeros_like(errors).scatter(-1, order, steps)
