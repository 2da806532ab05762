"""MA-Net: attention between the pixels of the coarsest map, and to the channels of the skips."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segkit.models.conv import ConvBlock, Norm, Upsample, UpsampleMode, init_he
from segkit.models.joining import JoinStep, make_excitation
from segkit.models.necks.base import Neck, list_steps


class MANetNeck(Neck, name="manet"):
    """Attention among pixels, and to the channels of skips (Fan et al. 2020, "MA-Net").

    Each pixel of the coarsest map attends to all others. Then each step weights the channels of the
    coarser map by what it and the skip agree on, upsamples, joins the skip and convolves.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        upsample: How each step upsamples: nearest or bilinear interpolation, or a learned
            transposed convolution ("deconv").
        width: Channels at stride 1; a level of stride s has s times as many.
        attention_width: Channels in which the pixels of the coarsest map are compared.
        out_stride: Stride at which decoding stops; 1 decodes to full size.
        norm: Normalisation after each convolution; None takes the encoder's.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        upsample: UpsampleMode = "nearest",
        width: Annotated[int, Field(ge=1)] = 16,
        attention_width: Annotated[int, Field(ge=1)] = 64,
        out_stride: Annotated[int, Field(ge=1)] = 1,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        pairs = dict(zip(strides, channels, strict=True))
        targets = list_steps(strides, out_stride)
        self._skips = [strides.index(s) if s in pairs else None for s in targets]
        current, stride = channels[-1], strides[-1]
        self.center = PositionAttention(current, attention_width)
        self.fuse, self.ups, self.steps = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        widths = []
        for target in targets:
            skip = pairs.get(target, 0)
            fuse = _ChannelFusion(current, skip, norm or "batch") if skip else nn.Identity()
            self.fuse.append(fuse)
            inner = skip or current
            up = Upsample(inner, stride // target, upsample, inner)
            self.ups.append(up)
            current, stride = width * target, target
            self.steps.append(JoinStep(inner, skip, current, up, norm or "batch"))
            widths.append(current)
        self.out_channels, self.out_stride = current, stride
        self.level_strides = tuple(targets[::-1]) or (stride,)
        self.level_channels = tuple(widths[::-1]) or (current,)
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, out_channels, H / out_stride, W / out_stride)."""
        return self.levels(maps)[0]

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The map of each step, finest first."""
        x = self.center(maps[-1])
        results = []
        for fuse, up, step, index in zip(self.fuse, self.ups, self.steps, self._skips, strict=True):
            skip = None if index is None else maps[index]
            x = step(x if skip is None else fuse(x, skip), up, skip)  # (B, width * s, H / s, W / s)
            results.append(x)
        return results[::-1] or [x]


class PositionAttention(nn.Module):
    """Each pixel is added what it attends to among all pixels of the map (Fu et al. 2019, DANet).

    Args:
        channels: Channels of the map.
        width: Channels in which pixels are compared.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, width, 1)
        self.key = nn.Conv2d(channels, width, 1)
        self.value = nn.Conv2d(channels, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        query, key, value = (
            layer(x).flatten(2).transpose(1, 2)[:, None]  # (B, 1, H W, width or C)
            for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return self.out(x + attended[:, 0].transpose(1, 2).reshape(x.shape))


class _ChannelFusion(nn.Module):
    """Brings a map to the channels of a skip, weighted by the excitations of both."""

    def __init__(self, in_channels: int, skip_channels: int, norm: Norm) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            ConvBlock(in_channels, in_channels, 3, norm),
            ConvBlock(in_channels, skip_channels, 1, norm),
        )
        self.excite = make_excitation(skip_channels)
        self.excite_skip = make_excitation(skip_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, h, w) and the skip (B, c, H, W) -> (B, c, h, w)."""
        x = self.reduce(x)
        return x * (self.excite(x) + self.excite_skip(skip))
