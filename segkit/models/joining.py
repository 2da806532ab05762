"""One step of a U-Net's expansive path, with the attention that it may have."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.models.conv import ConvBlock, JoinBlock, Norm, Padding, Upsample, crop_to

Attention = Literal["none", "scse", "gate"]


class SqueezeExcite(nn.Module):
    """Squeeze and excite channels and pixels (Roy et al. 2018, "Concurrent Spatial and Channel
    Squeeze & Excitation in Fully Convolutional Networks", section 2): the sum of both.

    Args:
        channels: Channels of the map.
        reduction: The hidden layer has ``channels / reduction`` channels, at least one.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channel = make_excitation(channels, reduction)
        self.pixel = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * (self.channel(x) + torch.sigmoid(self.pixel(x)))


class AttentionGate(nn.Module):
    """Additive attention to a skip (Oktay et al. 2018, "Attention U-Net", equations 1 and 2).

    The weights are computed on the grid of the coarser map, half as wide as the skip, and
    interpolated to the skip's.

    Args:
        skip_channels: Channels of the skip.
        in_channels: Channels of the coarser map, which gates it.
        factor: How many times finer the skip is.
    """

    def __init__(self, skip_channels: int, in_channels: int, factor: int) -> None:
        super().__init__()
        width = max(1, skip_channels // 2)
        self.theta = nn.Conv2d(skip_channels, width, factor, stride=factor, bias=False)
        self.phi = nn.Conv2d(in_channels, width, 1)
        self.psi = nn.Conv2d(width, 1, 1)
        self.up = Upsample(1, factor, "bilinear")

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Skip (B, c, f h, f w) and coarser map (B, C, h, w) -> (B, c, f h, f w)."""
        scores = self.psi(F.relu(self.theta(skip) + self.phi(x)))  # (B, 1, h, w)
        return skip * torch.sigmoid(self.up(scores))


class JoinStep(nn.ModuleList):
    """Upsample, join the skip, and convolve twice.

    Args:
        in_channels: Channels of the coarser map.
        skip_channels: Channels of the skip; 0 for none.
        out_channels: Channels of the result.
        up: The upsampling; its parameters are not part of the step.
        norm: Normalisation after each convolution.
        padding: "valid" shrinks the map by four pixels.
        attention: "scse" squeezes and excites what is joined, and the result; "gate" weights the
            skip. A step without a skip has no gate.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        up: Upsample,
        norm: Norm = "batch",
        padding: Padding = "same",
        attention: Attention = "none",
    ) -> None:
        joined = up.out_channels
        super().__init__(
            [
                JoinBlock(joined, skip_channels, out_channels, up, norm, padding),
                ConvBlock(out_channels, out_channels, 3, norm, padding),
            ]
        )
        self.gate: AttentionGate | None = None
        self.scse: nn.ModuleList | None = None
        if attention == "gate" and skip_channels:
            self.gate = AttentionGate(skip_channels, in_channels, up.factor)
        if attention == "scse":
            self.scse = nn.ModuleList([SqueezeExcite(out_channels)])
            if skip_channels:
                self.scse.append(SqueezeExcite(skip_channels + joined))

    def forward(self, x: Tensor, up: Upsample, skip: Tensor | None = None) -> Tensor:
        """(B, in_channels, h, w) and the skip (B, skip_channels, H, W) -> (B, out, f h, f w)."""
        join, conv = self[0], self[1]
        if self.gate is not None:
            assert skip is not None
            skip = crop_to(skip, (x.shape[-2] * up.factor, x.shape[-1] * up.factor))
            skip = self.gate(skip, x)
        if self.scse is None:
            return conv(join(x, up, skip))
        after, *before = self.scse
        return after(conv(join(x, up, skip, before[0] if before else None)))


def make_excitation(channels: int, reduction: int = 16) -> nn.Sequential:
    """Weights (B, C, 1, 1) for the channels of a map (B, C, H, W) (Hu et al. 2018)."""
    hidden = max(1, channels // reduction)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(channels, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, channels, 1),
        nn.Sigmoid(),
    )
