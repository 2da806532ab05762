"""Soft Dice loss: overlap of regions."""

from __future__ import annotations

import torch
from torch import Tensor

from segkit.errors import SegkitError
from segkit.losses.base import Loss, masked_mean
from segkit.losses.targets import one_hot
from segkit.targets import Mode


class Dice(Loss, name="dice"):
    """One minus the soft Dice coefficient, averaged over the classes.

    With p the softmax or sigmoid of the logits, t the truth of 0 or 1 and s the ``smooth``::

        d_c  = (2 sum p_c t_c + s) / (sum p_c + sum t_c + s)
        loss = mean_c (1 - d_c)

    The sums run over the pixels of the batch that are not ignored, or with ``per_image`` over those
    of each image, and the mean then over images and classes. Under several processes each takes its
    own batch.

    A class that is absent from the truth has d = s / (sum p + s). So its loss is 0 where nothing of
    it is predicted, and false positives of s pixels cost 1/2, of 9 s pixels 0.9. Every class weighs
    the same in every batch, absent or not, the background of a multiclass model too: leaving absent
    classes out of the mean would make their false positives free. Only a class (or image) whose
    every pixel is ignored is left out.

    Milletari et al., "V-Net", 2016, with the first power in the denominator as in Drozdzal et al.,
    "The Importance of Skip Connections in Biomedical Image Segmentation", 2016.

    Args:
        mode: What the channels of the logits mean.
        ignore_index: The label of pixels that do not count.
        smooth: s, in pixels, above 0. Far below 1 an absent class has hardly a gradient.
        per_image: Whether each image has its own sums. Small objects then weigh as much in a batch
            with large ones.

    Raises:
        SegkitError: ``smooth`` is not above 0.
    """

    def __init__(
        self, mode: Mode, ignore_index: int = 255, smooth: float = 1.0, per_image: bool = False
    ) -> None:
        super().__init__(mode, ignore_index)
        if not smooth > 0:
            raise SegkitError(f"smooth is {smooth}: give a number of pixels above 0, such as 1.0.")
        self.smooth = smooth
        self.per_image = per_image

    def compute(self, logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
        """See :meth:`Loss.compute`."""
        if self.mode == "multiclass":
            p = logits.softmax(1)  # (B, C, H, W)
            truth, valid = one_hot(truth, logits.shape[1]), valid.unsqueeze(1)
        else:
            p = logits.sigmoid()  # (B, C, H, W)
        valid = valid.expand_as(p)  # (B, C, H, W)
        p, t = torch.where(valid, p, 0), truth & valid  # (B, C, H, W)
        pixels = (2, 3) if self.per_image else (0, 2, 3)
        overlap = torch.where(t, p, 0).sum(pixels)  # (C,) or (B, C)
        mass = p.sum(pixels) + t.sum(pixels)  # (C,) or (B, C)
        d = (2 * overlap + self.smooth) / (mass + self.smooth)  # (C,) or (B, C)
        return masked_mean(1 - d, valid.any(pixels))
