"""Soft Dice loss: overlap of regions."""

from __future__ import annotations

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


class Dice(Loss, name="dice"):
    """One minus the soft Dice coefficient, averaged over the classes.

    With p the softmax or sigmoid of the logits, t the truth of 0 or 1 and s the ``smooth``::

        d_c  = (2 sum p_c t_c + s) / (sum p_c + sum t_c + s)
        loss = mean_c (1 - d_c)

    The sums run over the pixels of the batch that are not ignored, or with ``per_image`` over those
    of each image, and the mean then over images and classes. Under several processes each takes its
    own batch.

    A class that is absent from the truth has d = s / (sum p + s). So its loss is 0 where nothing of
    it is predicted, and false positives of s pixels cost 1/2, of 9 s pixels 0.9. Without
    ``class_weights`` every class weighs the same in every batch, absent or not, the background of a
    multiclass model too: leaving absent classes out of the mean would make their false positives
    free. Only a class (or image) whose every pixel is ignored is left out.

    Milletari et al., "V-Net", 2016, with the first power in the denominator as in Drozdzal et al.,
    "The Importance of Skip Connections in Biomedical Image Segmentation", 2016.

    Args:
        mode: What the channels of the logits mean.
        ignore_index: The label of pixels that do not count.
        smooth: s, in pixels, above 0. Far below 1 an absent class has hardly a gradient.
        per_image: Whether each image has its own sums. Small objects then weigh as much in a batch
            with large ones.
        class_weights: Multiclass and multilabel: the weight of each class in the mean; a first one
            of 0 leaves the background out.

    Raises:
        SegkitError: ``smooth`` is not above 0, or the weights are out of range, or there are too
            few or too many of them.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        mode: Mode,
        ignore_index: int = 255,
        smooth: float = 1.0,
        per_image: bool = False,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        require_positive("smooth", smooth, "a number of pixels above 0, such as 1.0")
        self.smooth = smooth
        self.per_image = per_image
        # Not persistent: they come from the config, not from training.
        self.register_buffer("class_weights", region_weights(mode, class_weights), persistent=False)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        counts, counted = soft_counts(logits, truth, valid, self.mode, self.per_image)
        # Dice is Tversky's index with both weights 1/2; its ratio is that one's times 2.
        losses = tversky_distance(counts, 0.5, 0.5, self.smooth / 2)  # (C,) or (B, C)
        return region_mean(losses, counted, self.class_weights)
