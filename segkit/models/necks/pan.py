"""The pyramid attention network: a pyramid on the coarsest map, and skips that it selects."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segkit.models.context import pool_to_grid, resize_like
from segkit.models.conv import ConvBlock, Norm, Upsample, UpsampleMode, init_he, make_norm
from segkit.models.necks.base import Neck, skip_finer


class PANNeck(Neck, name="pan"):
    """Attention from a pyramid, and skips that are selected (Li et al. 2018, figures 3 and 4).

    Feature pyramid attention weights the coarsest map by what three coarser ones show. Global
    attention upsampling adds the encoder's finer maps, their channels weighted by the coarser
    result.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        upsample: How results are upsampled: nearest or bilinear interpolation, or a learned
            transposed convolution ("deconv").
        width: Channels of all results.
        out_stride: Stride of the result (4 in the paper); finer maps of the encoder are left out.
        norm: Normalisation after each convolution; None takes the encoder's. The pyramid has maps
            of one channel, which only batch normalisation suits: with another they have none.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        upsample: UpsampleMode = "bilinear",
        width: Annotated[int, Field(ge=1)] = 32,
        out_stride: Annotated[int, Field(ge=1)] = 4,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self._first = skip_finer(strides, out_stride)
        channels, strides = channels[self._first :], strides[self._first :]
        self.pyramid = _PyramidAttention(channels[-1], width, norm or "batch")
        self.steps = nn.ModuleList(
            _GlobalAttention(c, Upsample(width, coarse // fine, upsample), width, norm or "batch")
            for c, (fine, coarse) in zip(channels[:-1], pairwise(strides), strict=True)
        )
        self.out_channels, self.out_stride = width, strides[0]
        self.level_channels, self.level_strides = (width,) * len(strides), strides
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, width, H / out_stride, W / out_stride)."""
        return self.levels(maps)[0]

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The result of each step, finest first, that of the pyramid included."""
        *skips, coarsest = maps[self._first :]
        results = [self.pyramid(coarsest)]
        for step, skip in zip(reversed(self.steps), reversed(skips), strict=True):
            results.append(step(skip, results[-1]))  # (B, width, H / s, W / s)
        return results[::-1]


class _PyramidAttention(nn.Module):
    """Feature pyramid attention: weights from three coarser maps, and the mean of all."""

    def __init__(self, in_channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        single: Norm = "batch" if norm == "batch" else "none"

        def convolve(channels: int, kernel_size: int) -> ConvBlock:
            return ConvBlock(channels, 1, kernel_size, single, pooled=True)

        self.mean = ConvBlock(in_channels, width, 1, norm, pooled=True)
        self.direct = ConvBlock(in_channels, width, 1, norm)
        self.down = nn.ModuleList([convolve(in_channels, 7), convolve(1, 5), convolve(1, 3)])
        self.across = nn.ModuleList([convolve(1, 7), convolve(1, 5), convolve(1, 3)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, width, H, W)."""
        coarser, current = [], x
        for down in self.down:
            current = down(_halve(current))
            coarser.append(current)  # (B, 1, H / 2, W / 2) and so on
        weights = self.across[2](coarser[2])
        for finer, across in ((coarser[1], self.across[1]), (coarser[0], self.across[0])):
            weights = resize_like(weights, finer) + across(finer)
        return self.direct(x) * resize_like(weights, x) + self.mean(pool_to_grid(x, 1))


def _halve(x: Tensor) -> Tensor:
    """The largest of each 2 x 2 pixels, of an odd last row or column of those that there are."""
    height, width = x.shape[2:]
    return F.max_pool2d(F.pad(x, (0, width % 2, 0, height % 2), mode="replicate"), 2)


class _GlobalAttention(nn.Module):
    """Global attention upsampling: adds a skip whose channels the coarser result weights."""

    def __init__(self, skip_channels: int, up: Upsample, width: int, norm: Norm) -> None:
        super().__init__()
        self.up = up
        self.skip = ConvBlock(skip_channels, width, 3, norm)
        layer = make_norm(norm, width, pooled=True)
        bias = isinstance(layer, nn.Identity)
        self.weight = nn.Sequential(nn.Conv2d(width, width, 1, bias=bias), layer)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Skip (B, c, f h, f w) and coarser result (B, width, h, w) -> (B, width, f h, f w)."""
        return self.up(x) + self.skip(skip) * torch.sigmoid(self.weight(pool_to_grid(x, 1)))
