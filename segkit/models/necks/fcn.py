"""The skips of fully convolutional networks, and an example of how short a neck can be."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segkit.models.conv import Upsample, UpsampleMode
from segkit.models.necks.base import Neck


class FCNNeck(Neck, name="fcn"):
    """FCN-8s (Long et al. 2015): 1x1 score maps of the three coarsest levels, upsampled and added.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        upsample: How score maps are upsampled: nearest or bilinear interpolation, or a learned
            transposed convolution ("deconv"). The paper initialises its deconvolutions as bilinear.
        width: Channels of the score maps, which the head turns into classes.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        upsample: UpsampleMode = "bilinear",
        width: Annotated[int, Field(ge=1)] = 64,
    ) -> None:
        super().__init__()
        self.scores = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels[-3:])
        self.ups = nn.ModuleList(
            Upsample(width, coarse // fine, upsample) for fine, coarse in pairwise(strides[-3:])
        )
        self.out_channels, self.out_stride = width, strides[-3:][0]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, width, H / out_stride, W / out_stride)."""
        scores = [conv(m) for conv, m in zip(self.scores, maps[-3:], strict=True)]
        x = scores[-1]
        for score, up in zip(scores[-2::-1], reversed(self.ups), strict=True):
            x = score + up(x)  # (B, width, H / s_i, W / s_i)
        return x
