"""Boundary loss: errors cost by how far they are from the true boundary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segkit.losses.base import Loss, masked_mean
from segkit.losses.regions import regions

Mask = npt.NDArray[np.bool_]


class Boundary(Loss, name="boundary"):
    """Mean error, each times the distance to the boundary of its class, in pixels.

    With p the softmax or sigmoid of the logits, t the truth of 0 or 1 and D_c(i) the distance of
    the centre of pixel i from the boundary between the class c and the rest::

        loss = mean_i,c D_c(i) |p_c(i) - t_c(i)|

    The mean is over the pixels and classes that count. The paper's loss is sum phi p, with phi = -D
    inside and D outside: the same up to sum phi t, which does not depend on the model, so that the
    gradient is the same and a right prediction costs 0. The boundary runs between the pixels, half
    a pixel from either centre: D is 0.5 next to it, on both sides, and structures of one pixel
    count.

    Distances are measured within an image, to the pixels that are not ignored, as if the others
    were not there. Where a class fills all that counts of an image, or nothing of it, there is no
    boundary: each pixel then is as far as the diagonal of the part that counts, the largest
    distance that there could be. So false positives on an empty mask cost the most of all.

    The boundary alone is a poor teacher at the start, when nothing is near it: give it to a sum
    with a loss of regions, at a small weight. 0.01 is the paper's at its start. The distances are
    computed on the CPU, for which a GPU has to wait.

    Kervadec et al., "Boundary loss for highly unbalanced segmentation", 2019.

    Args:
        mode: What the channels of the logits mean.
        ignore_index: The label of pixels that do not count.
    """

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        p, t, valid = regions(logits, truth, valid, self.mode)
        distance = boundary_distance(t, valid).to(p.dtype)  # (B, C, H, W)
        return masked_mean(torch.where(t, 1 - p, p) * distance, valid)


# An operator of its own, so that a compiled graph goes through it without looking inside.
@torch.library.custom_op(
    "segkit::boundary_distance", mutates_args=(), schema="(Tensor truth, Tensor valid) -> Tensor"
)
def boundary_distance(truth: Tensor, valid: Tensor) -> Tensor:
    """The distance of each pixel's centre from the boundary of its class, in pixels, unsigned.

    Args:
        truth: Bool (B, C, H, W), on any device.
        valid: Which pixels count, likewise.

    Returns:
        Float32 (B, C, H, W), 0 where nothing counts.
    """
    planes, counted = (x.cpu().numpy().reshape(-1, *x.shape[2:]) for x in (truth, valid))
    distances = np.zeros(planes.shape, np.float32)  # (BC, H, W)
    for plane, counts, out in zip(planes, counted, distances, strict=True):
        if counts.any():
            out[counts] = _distance(plane, counts)[counts]
    return torch.from_numpy(distances).view(truth.shape).to(truth.device)


@boundary_distance.register_fake
def _(truth: Tensor, valid: Tensor) -> Tensor:
    return torch.empty(truth.shape, dtype=torch.float32, device=truth.device)


def _distance(truth: Mask, valid: Mask) -> npt.NDArray[np.float32]:
    """The distances of one class in one image, (H, W); they mean nothing where nothing counts."""
    import cv2  # here, because losses are listed and checked without it

    inside, outside = truth & valid, ~truth & valid
    if inside.any() and outside.any():
        # The precise method is exact; the others are off by some per cent.
        to_inside, to_outside = (
            cv2.distanceTransform((~x).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            for x in (inside, outside)
        )
        return np.where(truth, to_outside, to_inside) - np.float32(0.5)
    height, width = (np.ptp(indices) + 1 for indices in np.nonzero(valid))
    return np.full(truth.shape, np.hypot(height, width), np.float32)
