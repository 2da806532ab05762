"""UNet 3+: each level of the decoder sees every scale, of the encoder's or its own maps."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segkit.models.conv import ConvBlock, JoinBlock, Norm, Upsample, UpsampleMode, init_he
from segkit.models.joining import JoinStep
from segkit.models.necks.base import Neck, list_steps, skip_finer


class FullScaleLevel(nn.Module):
    """A level of the decoder: the maps of all scales, brought to its own, joined and convolved.

    Args:
        pooled: Channels and factor of each of the encoder's maps, which is max-pooled by it;
            the last is that of the level, of factor 1.
        upsampled: Channels and factor of each coarser map of the decoder.
        width: Channels to which each map is convolved.
        upsample: How coarser maps are upsampled.
        norm: Normalisation after each convolution.
    """

    def __init__(
        self,
        pooled: list[tuple[int, int]],
        upsampled: list[tuple[int, int]],
        width: int,
        upsample: UpsampleMode,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.out_channels = width * (len(pooled) + len(upsampled))
        self.factors = [factor for _, factor in pooled]
        self.skips = nn.ModuleList(ConvBlock(c, width, 3, norm) for c, _ in pooled)
        ups = [Upsample(c, factor, upsample, width) for c, factor in upsampled]
        self.ups = nn.ModuleList(ups)
        self.joins = nn.ModuleList(JoinBlock(up.out_channels, 0, width, up, norm) for up in ups)
        self.fuse = ConvBlock(self.out_channels, self.out_channels, 3, norm)

    def forward(self, finer: list[Tensor], coarser: list[Tensor]) -> Tensor:
        """[(B, c_i, f H, f W)] and [(B, c_i, H / f, W / f)] -> (B, out_channels, H, W)."""
        parts = [
            conv(m if factor == 1 else F.max_pool2d(m, factor))
            for conv, m, factor in zip(self.skips, finer, self.factors, strict=True)
        ]
        for join, m, up in zip(self.joins, coarser, self.ups, strict=True):
            parts.append(join(m, up))
        return self.fuse(torch.cat(parts, dim=1))  # of maps (B, width, H, W)


class UNet3PlusNeck(Neck, name="unet3plus"):
    """A U-Net whose levels each see all scales (Huang et al. 2020, "UNet 3+", section 2.1).

    A level joins the encoder's maps down to its own stride, the finer ones max-pooled, and the
    decoder's coarser maps, upsampled. Each of these goes through a 3x3 convolution to ``width``
    channels, and one more convolves them together. The coarsest map of the decoder is the
    encoder's. Steps beyond the encoder's finest map have no skip. There is no classification-guided
    module.

    Auxiliary heads (deep supervision) see the levels, finest first; the last is the encoder's
    coarsest map.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        upsample: How maps are upsampled: nearest or bilinear interpolation (the paper's), or a
            learned transposed convolution ("deconv").
        width: Channels of each map that a level joins (64 in the paper). With n maps of the
            encoder, a level has n times as many, and the steps beyond its finest map have
            ``width``.
        out_stride: Stride at which decoding stops; 1 decodes to full size. Finer maps of the
            encoder are still pooled and joined.
        norm: Normalisation after each convolution; None takes the encoder's.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        upsample: UpsampleMode = "bilinear",
        width: Annotated[int, Field(ge=1)] = 64,
        out_stride: Annotated[int, Field(ge=1)] = 1,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        norm = norm or "batch"
        self._first = skip_finer(strides, out_stride)
        widths = [channels[-1]]  # of the decoder's maps, finest first
        self.steps = nn.ModuleList()  # coarsest first
        for level in range(len(strides) - 2, self._first - 1, -1):
            stride = strides[level]
            factors = [stride // s for s in strides[: level + 1]]
            step = FullScaleLevel(
                list(zip(channels[: level + 1], factors, strict=True)),
                [(c, s // stride) for c, s in zip(widths, strides[level + 1 :], strict=True)],
                width,
                upsample,
                norm,
            )
            self.steps.append(step)
            widths.insert(0, step.out_channels)
        self.level_channels, self.level_strides = tuple(widths), strides[self._first :]
        self.beyond_ups, self.beyond = nn.ModuleList(), nn.ModuleList()
        current, stride = self.level_channels[0], self.level_strides[0]
        for coarse, fine in pairwise((stride, *list_steps((stride,), out_stride))):
            up = Upsample(current, coarse // fine, upsample, width)
            self.beyond_ups.append(up)
            self.beyond.append(JoinStep(current, 0, width, up, norm))
            current, stride = width, fine
        if self.beyond:
            self.level_channels = (current, *self.level_channels)
            self.level_strides = (stride, *self.level_strides)
        self.out_channels, self.out_stride = current, stride
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, out_channels, H / out_stride, W / out_stride)."""
        return self.levels(maps)[0]

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The map of :meth:`forward`, then the levels of the decoder, finest first."""
        decoded = [maps[-1]]  # finest first
        for step in self.steps:
            decoded.insert(0, step(maps[: -len(decoded)], decoded))  # (B, width * n, H / s, W / s)
        x = decoded[0]
        for step, up in zip(self.beyond, self.beyond_ups, strict=True):
            x = step(x, up)  # (B, width, H / s, W / s)
        return [x, *decoded] if self.beyond else decoded
