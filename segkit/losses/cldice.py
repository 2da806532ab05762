"""clDice: overlap of centre lines, for thin structures that must stay connected."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.losses.base import ClassWeights, Loss, Positive
from segkit.losses.regions import average_regions, choose_dims, split_regions, weigh_regions


class CenterlineDice(Loss, name="cldice"):
    """One minus the soft centre-line Dice, averaged over the classes.

    With p the softmax or sigmoid of the logits, t the truth of 0 or 1, S_p and S_t their soft
    skeletons (see :func:`skeletonize_softly`) and s the ``smooth``::

        precision   = (sum S_p t + s) / (sum S_p + s)
        sensitivity = (sum S_t p + s) / (sum S_t + s)
        loss = mean_c (1 - 2 precision sensitivity / (precision + sensitivity))

    A gap in a vessel costs by its length, however thin the vessel. Widths hardly count, so combine
    it with an overlap loss such as Dice in a sum. The sums run over the pixels of the batch that
    are not ignored, or with ``per_image`` over those of each image, and the mean then over images
    and classes. To the skeletons, ignored pixels are outside the image.

    A class that is absent from the truth has sensitivity 1 and precision s / (sum S_p + s): its
    loss is 0 if nothing of it is predicted, and false positives cost by the length of their
    skeleton, 1/3 at s pixels. Only a class (or image) whose every pixel is ignored is left out of
    the mean.

    Shit et al., "clDice", 2021, algorithms 1 and 2.

    Args:
        iterations: Thinning steps of the skeletons: at least half the width of the widest
            structure, in pixels. Time and memory grow in proportion.
        smooth: Pixels of centre line added to both sides of the ratios.
        per_image: Whether each image has its own ratio, instead of one for the batch.
        class_weights: Weight of each class in the mean; not with the binary head. None leaves out
            the background, class 0 of the multiclass head, and weights all others equally. auto:
            the more, the rarer the class is, as in the cross-entropy.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = IGNORE_INDEX,
        iterations: Annotated[int, Field(ge=1)] = 5,
        smooth: Positive = 1.0,
        per_image: bool = False,
        class_weights: ClassWeights = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        self.iterations, self.smooth, self.per_image = iterations, smooth, per_image
        self.register_buffer("class_weights", weigh_regions(mode, class_weights), persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        p, t, valid = split_regions(logits, truth, valid, self.mode)
        dims = choose_dims(self.per_image)
        line_p = skeletonize_softly(p, valid, self.iterations)  # (B, C, H, W)
        line_t = skeletonize_softly(t.to(p.dtype), valid, self.iterations)
        precision = _measure_fraction(line_p, t.to(p.dtype), self.smooth, dims)  # (C,) or (B, C)
        sensitivity = _measure_fraction(line_t, p, self.smooth, dims)
        losses = 1 - 2 * precision * sensitivity / (precision + sensitivity)
        weights = self.class_weights
        if weights is None and self.mode == "multiclass":
            weights = (torch.arange(logits.shape[1], device=logits.device) > 0).to(p.dtype)
        return average_regions(losses, valid.any(dims), weights)


def skeletonize_softly(x: Tensor, valid: Tensor, iterations: int) -> Tensor:
    """Collect the ridges of a soft mask: what opening removes, at each step of erosion::

        S <- 0
        repeat:  S <- S + (1 - S) relu(x - dilate(erode(x))),  x <- erode(x)
        S <- S + (1 - S) x

    The last line is not in the paper. It keeps what is too thick to be thinned away in
    ``iterations`` steps, which the paper loses: there a prediction that is positive everywhere has
    no skeleton and costs nothing. For thinner structures, both are the same.

    Args:
        x: Probabilities (B, C, H, W).
        valid: Which pixels count, bool, same shape. The others are outside: they neither thin a
            structure nor continue one, and the result is 0 there.
        iterations: Number of erosions.
    """
    skeleton = torch.zeros_like(x)
    for _ in range(iterations):
        thinner = _erode(x, valid)
        ridge = F.relu(x - _dilate(thinner, valid))
        skeleton = skeleton + (1 - skeleton) * ridge
        x = thinner
    return torch.where(valid, skeleton + (1 - skeleton) * x, 0)


def _erode(x: Tensor, valid: Tensor) -> Tensor:
    """The minimum of each pixel and its four neighbours."""
    x = torch.where(valid, -x, -1)  # outside 1, which is never the minimum
    columns = F.max_pool2d(x, (3, 1), 1, (1, 0))
    rows = F.max_pool2d(x, (1, 3), 1, (0, 1))
    return -torch.maximum(columns, rows)


def _dilate(x: Tensor, valid: Tensor) -> Tensor:
    """The maximum of each pixel and its eight neighbours."""
    return F.max_pool2d(torch.where(valid, x, 0), 3, 1, 1)


def _measure_fraction(line: Tensor, region: Tensor, smooth: float, dims: tuple[int, ...]) -> Tensor:
    """The fraction of a centre line that lies in a region, (C,) or (B, C)."""
    return ((line * region).sum(dims) + smooth) / (line.sum(dims) + smooth)
