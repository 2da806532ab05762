"""Boundary loss: an error costs in proportion to its distance from the true boundary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segkit.losses.base import Loss, average_valid
from segkit.losses.regions import split_regions

Mask = npt.NDArray[np.bool_]


class Boundary(Loss, name="boundary"):
    """Mean error, weighted by the distance in pixels to the boundary of the class.

    With p the softmax or sigmoid of the logits, t the truth of 0 or 1 and D_c(i) the distance from
    the centre of pixel i to the boundary between class c and the rest::

        loss = mean_i,c D_c(i) |p_c(i) - t_c(i)|

    The mean is over the pixels and classes that count. The paper's loss is sum phi p, with phi = -D
    inside and D outside. It differs by sum phi t, which does not depend on the model: the gradient
    is the same, and here a correct prediction costs 0. The boundary runs between pixels, half a
    pixel from the centres on both sides, so D is 0.5 next to it and one-pixel structures count.

    Distances are measured within an image, as if ignored pixels were not there. Where a class fills
    everything that counts in an image, or is absent from it, there is no boundary: every pixel is
    then at the largest possible distance, the diagonal of the part that counts. So false positives
    on an empty mask cost most.

    Training with this loss alone starts poorly, while nothing is near a boundary: combine it with
    an overlap loss in a sum, at a small weight. The paper starts at 0.01. Distances are computed on
    the CPU, so a GPU has to wait for them.

    Kervadec et al., "Boundary loss for highly unbalanced segmentation", 2019.
    """

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        p, t, valid = split_regions(logits, truth, valid, self.mode)
        distance = boundary_distance(t, valid).to(p.dtype)  # (B, C, H, W)
        return average_valid(torch.where(t, 1 - p, p) * distance, valid)


# A custom operator, so that a compiled graph does not trace into it, and CUDA graphs leave it out:
# it waits for the GPU.
@torch.library.custom_op(
    "segkit::boundary_distance",
    mutates_args=(),
    schema="(Tensor truth, Tensor valid) -> Tensor",
    tags=(torch.Tag.cudagraph_unsafe,),
)
def boundary_distance(truth: Tensor, valid: Tensor) -> Tensor:
    """The unsigned distance in pixels of each pixel's centre from the boundary of its class.

    From bool (B, C, H, W) on any device to float32, 0 where nothing counts.
    """
    planes, counted = (x.cpu().numpy().reshape(-1, *x.shape[2:]) for x in (truth, valid))
    distances = np.zeros(planes.shape, np.float32)  # (BC, H, W)
    for plane, counts, out in zip(planes, counted, distances, strict=True):
        if counts.any():
            out[counts] = _measure_distance(plane, counts)[counts]
    return torch.from_numpy(distances).view(truth.shape).to(truth.device)


@boundary_distance.register_fake
def _(truth: Tensor, valid: Tensor) -> Tensor:
    return torch.empty(truth.shape, dtype=torch.float32, device=truth.device)


def _measure_distance(truth: Mask, valid: Mask) -> npt.NDArray[np.float32]:
    """The distances of one class in one image, (H, W); undefined where nothing counts."""
    import cv2  # here: listing and checking losses does not need it

    inside, outside = truth & valid, ~truth & valid
    if inside.any() and outside.any():
        # only the precise method is exact
        to_inside, to_outside = (
            cv2.distanceTransform((~x).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            for x in (inside, outside)
        )
        return np.where(truth, to_outside, to_inside) - np.float32(0.5)
    height, width = (np.ptp(indices) + 1 for indices in np.nonzero(valid))
    return np.full(truth.shape, np.hypot(height, width), np.float32)
