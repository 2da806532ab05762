"""Upsampling by a whole factor: nearest, bilinear or by a learned deconvolution."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

UpsampleMode = Literal["nearest", "bilinear", "deconv"]


class Upsample(nn.Module):
    """(B, in, H, W) -> (B, out, factor * H, factor * W).

    ``nearest`` and ``bilinear`` have no parameters and keep the channels; ``deconv`` is a
    transposed convolution whose kernel equals its stride, as in the 2015 U-Net, and gives
    ``out_channels``.

    Attributes:
        out_channels: Channels that come out.
    """

    def __init__(
        self, in_channels: int, factor: int, mode: UpsampleMode, out_channels: int | None = None
    ) -> None:
        super().__init__()
        self.factor, self.mode = factor, mode
        self.out_channels = in_channels
        if mode == "deconv":
            self.out_channels = out_channels or in_channels
            self.deconv = nn.ConvTranspose2d(in_channels, self.out_channels, factor, stride=factor)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample by the factor, in the type of the input."""
        if self.mode == "deconv":
            return self.deconv(x)
        if self.mode == "nearest":
            return F.interpolate(x, scale_factor=float(self.factor), mode="nearest")
        return F.interpolate(
            x, scale_factor=float(self.factor), mode="bilinear", align_corners=False
        )
