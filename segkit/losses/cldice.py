"""clDice: overlap of centre lines, for thin structures that must stay connected."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.losses.base import Loss
from segkit.losses.regions import region_dims, region_mean, regions, require_positive
from segkit.losses.weights import region_weights


class CenterlineDice(Loss, name="cldice"):
    """One minus the soft centre-line Dice, averaged over the classes.

    With p the softmax or sigmoid of the logits, t the truth of 0 or 1, S_p and S_t their soft
    skeletons (see :func:`soft_skeleton`) and s the ``smooth``::

        precision   = (sum S_p t + s) / (sum S_p + s)
        sensitivity = (sum S_t p + s) / (sum S_t + s)
        loss = mean_c (1 - 2 precision sensitivity / (precision + sensitivity))

    A gap in a vessel costs by its length, however thin the vessel; the width hardly counts, so give
    it to a sum with a loss of regions such as Dice. The sums run over the pixels of the batch that
    are not ignored, or with ``per_image`` over those of each image, and the mean then over images
    and classes. Ignored pixels are to the skeletons what lies outside the image.

    A class that is absent from the truth has the sensitivity 1 and the precision s / (sum S_p + s):
    its loss is 0 where nothing of it is predicted, and false positives cost by the length of their
    skeleton, s pixels of it 1/3. They are in the mean. Only a class (or image) whose every pixel is
    ignored is left out.

    Shit et al., "clDice", 2021, algorithms 1 and 2. As there, the background of a
    multiclass model does not count unless ``class_weights`` says so.

    Args:
        mode: What the channels of the logits mean.
        ignore_index: The label of pixels that do not count.
        iterations: How often the skeletons are thinned, 1 or more: at least half the width of the
            widest structure, in pixels. It costs time and memory in proportion.
        smooth: s, in pixels, above 0.
        per_image: Whether each image has its own sums.
        class_weights: Multiclass and multilabel: the weight of each class in the mean. None weighs
            all the same, but for class 0 of a multiclass model, which has weight 0.

    Raises:
        SegkitError: An option is out of range, or there are too few or too many weights.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = 255,
        iterations: int = 5,
        smooth: float = 1.0,
        per_image: bool = False,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        if iterations < 1:
            raise SegkitError(f"iterations is {iterations}: give a whole number of 1 or more.")
        require_positive("smooth", smooth, "a number of pixels above 0, such as 1.0")
        self.iterations = iterations
        self.smooth = smooth
        self.per_image = per_image
        # Not persistent: they come from the config, not from training.
        self.register_buffer("class_weights", region_weights(mode, class_weights), persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        p, t, valid = regions(logits, truth, valid, self.mode)
        dims = region_dims(self.per_image)
        line_p = soft_skeleton(p, valid, self.iterations)  # (B, C, H, W)
        line_t = soft_skeleton(t.to(p.dtype), valid, self.iterations)
        precision = _share(line_p, t.to(p.dtype), self.smooth, dims)  # (C,) or (B, C)
        sensitivity = _share(line_t, p, self.smooth, dims)
        losses = 1 - 2 * precision * sensitivity / (precision + sensitivity)
        weights = self.class_weights
        if weights is None and self.mode == "multiclass":
            weights = (torch.arange(logits.shape[1], device=logits.device) > 0).to(p.dtype)
        return region_mean(losses, valid.any(dims), weights)


def soft_skeleton(x: Tensor, valid: Tensor, iterations: int) -> Tensor:
    """The ridges of a soft mask: what opening takes away, from each of its erosions::

        S <- 0
        repeat:  S <- S + (1 - S) relu(x - dilate(erode(x))),  x <- erode(x)
        S <- S + (1 - S) x

    The last line is not in the paper. What is thicker than ``iterations`` thinnings reach stays in
    the skeleton as it is, where the paper loses it: without it a prediction that is everywhere
    positive would have no skeleton, and cost nothing. Of thinner structures nothing is left by
    then, and the two are the same.

    Args:
        x: Probabilities (B, C, H, W).
        valid: Which pixels count, bool, likewise. The others are outside: they neither thin a
            structure nor carry one on.
        iterations: How often x is eroded.

    Returns:
        (B, C, H, W), from 0 to 1, 0 where nothing counts.
    """
    skeleton = torch.zeros_like(x)
    for _ in range(iterations):
        thinner = _erode(x, valid)
        ridge = F.relu(x - _dilate(thinner, valid))
        skeleton = skeleton + (1 - skeleton) * ridge
        x = thinner
    return torch.where(valid, skeleton + (1 - skeleton) * x, 0)


def _erode(x: Tensor, valid: Tensor) -> Tensor:
    """The least of each pixel and its four neighbours."""
    x = torch.where(valid, -x, -1)  # outside 1, the greatest there is, which is never the least
    columns = F.max_pool2d(x, (3, 1), 1, (1, 0))
    rows = F.max_pool2d(x, (1, 3), 1, (0, 1))
    return -torch.maximum(columns, rows)


def _dilate(x: Tensor, valid: Tensor) -> Tensor:
    """The greatest of each pixel and its eight neighbours."""
    return F.max_pool2d(torch.where(valid, x, 0), 3, 1, 1)


def _share(line: Tensor, region: Tensor, smooth: float, dims: tuple[int, ...]) -> Tensor:
    """The part of a centre line that lies in a region, (C,) or (B, C)."""
    return ((line * region).sum(dims) + smooth) / (line.sum(dims) + smooth)
