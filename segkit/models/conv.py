"""The convolution blocks and normalisations that encoders and necks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Norm = Literal["batch", "group", "instance", "layer", "none"]
Padding = Literal["same", "valid"]


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of each pixel, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """The normalisation layer of that name; ``group`` has gcd(channels, 16) channels per group."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(channels // math.gcd(channels, 16), channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if norm == "layer":
        return ChannelLayerNorm(channels)
    return nn.Identity()


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, ReLU: (B, in, H, W) -> (B, out, H, W), 2 pixels less if valid."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        norm: Norm = "batch",
        padding: Padding = "same",
    ) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                padding=kernel_size // 2 if padding == "same" else 0,
                bias=norm == "none",  # a normalisation brings its own
            ),
            make_norm(norm, out_channels),
            nn.ReLU(inplace=True),
        )


class DoubleConv(nn.Sequential):
    """Two 3x3 convolution blocks, the unit of the U-Net (Ronneberger et al. 2015, section 2)."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm, padding: Padding) -> None:
        super().__init__(
            ConvBlock(in_channels, out_channels, 3, norm, padding),
            ConvBlock(out_channels, out_channels, 3, norm, padding),
        )


def init_he(module: nn.Module) -> None:
    """Normal weights of deviation sqrt(2 / N) for N incoming connections (He et al. 2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            # Each output of a transposed convolution whose kernel equals its stride sees one input
            # pixel: its fan-in is the number of input channels, which PyTorch would miscount.
            fan_in = layer.in_channels
            if isinstance(layer, nn.Conv2d):
                fan_in *= math.prod(layer.kernel_size)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def crop_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """The centre (B, C, *size) of x (B, C, H, W); x itself where the sizes agree."""
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]
