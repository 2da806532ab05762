"""UPerNet: a feature pyramid over pyramid pooling, its levels joined."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from segkit.models.context import PyramidPooling
from segkit.models.conv import (
    ChannelLayerNorm,
    ConvBlock,
    Norm,
    Upsample,
    UpsampleMode,
    init_he,
)
from segkit.models.necks.base import Neck, skip_finer


class UPerNetNeck(Neck, name="upernet"):
    """A feature pyramid over pyramid pooling, its levels joined (Xiao et al. 2018, figure 4).

    The encoder's maps are layer-normalised first, as is usual for the transformers and ConvNeXts
    with which this neck is used: these give sums of blocks of no common scale.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        upsample: How maps are upsampled: nearest or bilinear interpolation, or a learned
            transposed convolution ("deconv").
        width: Channels of the levels and of the result (512 in the paper).
        out_stride: Stride of the result (4 in the paper); finer maps of the encoder are left out.
        norm: Normalisation after each convolution; None takes the encoder's.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        upsample: UpsampleMode = "bilinear",
        width: Annotated[int, Field(ge=1)] = 256,
        out_stride: Annotated[int, Field(ge=1)] = 4,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        norm = norm or "batch"
        self._first = skip_finer(strides, out_stride)
        channels, strides = channels[self._first :], strides[self._first :]
        self.norms = nn.ModuleList(ChannelLayerNorm(c, eps=1e-6) for c in channels)
        pool = PyramidPooling(channels[-1], width, norm)
        self.pool = nn.Sequential(pool, ConvBlock(pool.out_channels, width, 3, norm))
        self.laterals = nn.ModuleList(ConvBlock(c, width, 1, norm) for c in channels[:-1])
        self.ups = nn.ModuleList(
            Upsample(width, coarse // fine, upsample) for fine, coarse in pairwise(strides)
        )
        self.smooth = nn.ModuleList(ConvBlock(width, width, 3, norm) for _ in channels[:-1])
        self.to_finest = nn.ModuleList(
            Upsample(width, stride // strides[0], upsample) for stride in strides[1:]
        )
        self.join = ConvBlock(width * len(strides), width, 3, norm)
        self.out_channels, self.out_stride = width, strides[0]
        self.level_channels = (width,) * len(strides)
        self.level_strides = strides
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, width, H / out_stride, W / out_stride)."""
        return self.levels(maps)[0]

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The joined map, then the coarser levels of the pyramid."""
        *skips, coarsest = (n(m) for n, m in zip(self.norms, maps[self._first :], strict=True))
        laterals = [conv(skip) for conv, skip in zip(self.laterals, skips, strict=True)]
        sums = [self.pool(coarsest)]
        for lateral, up in zip(reversed(laterals), reversed(self.ups), strict=True):
            sums.append(lateral + up(sums[-1]))  # (B, width, H / s, W / s)
        *rest, last = reversed(sums)
        levels = [*(conv(x) for conv, x in zip(self.smooth, rest, strict=True)), last]
        coarser = [up(x) for up, x in zip(self.to_finest, levels[1:], strict=True)]
        return [self.join(torch.cat([levels[0], *coarser], dim=1)), *levels[1:]]
