"""The pixel decoder of mask transformers: attention among coarse pixels, then a pyramid."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.models.conv import ConvBlock, Norm, Upsample, UpsampleMode, init_he
from segkit.models.necks.base import Neck, skip_finer
from segkit.models.queries import EncoderLayer, list_tokens, make_positions

COARSE = 16
"""Stride from which on pixels attend to each other: those of stride 8 are four times as many."""


class Mask2FormerNeck(Neck, name="mask2former"):
    """A pixel decoder for ``head=queries`` (after Cheng et al. 2022, "Mask2Former", section 3.2).

    The pixels of the maps of stride 16 and more attend to each other, all of them at once; without
    such maps there is no attention. In the paper it is deformable, takes in stride 8, and reads few
    places for each pixel; its kernels cannot be exported. Finer maps are added as in a feature
    pyramid.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        upsample: How maps are upsampled: nearest or bilinear interpolation, or a learned
            transposed convolution ("deconv").
        width: Channels of the maps (256 in the paper).
        layers: Layers of attention (6 in the paper).
        attention_heads: Heads of the attention (8 in the paper).
        out_stride: Stride of the result (4 in the paper); finer maps of the encoder are left out.
        norm: Normalisation of the convolutions; None takes the encoder's.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        upsample: UpsampleMode = "bilinear",
        width: Annotated[int, Field(ge=4, multiple_of=4)] = 256,
        layers: Annotated[int, Field(ge=1)] = 3,
        attention_heads: Annotated[int, Field(ge=1)] = 8,
        out_stride: Annotated[int, Field(ge=1)] = 4,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        if width % attention_heads:
            raise SegkitError(
                f"neck.width is {width}, but it is divided among {attention_heads} heads of"
                " attention: give a multiple of neck.attention_heads."
            )
        norm = norm or "batch"
        self._first = skip_finer(strides, out_stride)
        channels, strides = channels[self._first :], strides[self._first :]
        self._coarse = sum(s < COARSE for s in strides)  # the index of the first that attends
        self.inputs = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        coarse = len(channels) - self._coarse
        self.level = nn.Embedding(coarse, width) if coarse else None
        self.layers = nn.ModuleList(
            EncoderLayer(width, attention_heads) for _ in range(layers if coarse else 0)
        )
        self.ups = nn.ModuleList(
            Upsample(width, stride // finer, upsample)
            for finer, stride in pairwise(strides[: self._coarse + 1])
        )
        finer = channels[: self._coarse]
        self.smooth = nn.ModuleList(ConvBlock(width, width, 3, norm) for _ in finer)
        self.out_channels, self.out_stride = width, strides[0]
        self.level_channels, self.level_strides = (width,) * len(strides), strides
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, width, H / out_stride, W / out_stride)."""
        return self.levels(maps)[0]

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The finest map, then the coarser ones."""
        given = [
            conv(m) for conv, m in zip(self.inputs, maps[self._first :], strict=True)
        ]  # (B, width, H / s_i, W / s_i)
        results = self._attend(given[self._coarse :])
        for i in reversed(range(self._coarse)):
            finer = given[i] + self.ups[i](results[0]) if results else given[i]
            results.insert(0, self.smooth[i](finer))
        return results

    def _attend(self, coarse: list[Tensor]) -> list[Tensor]:
        if self.level is None:
            return []
        tokens = torch.cat([list_tokens(m) for m in coarse], 1)
        places = [make_positions(m) + self.level.weight[i] for i, m in enumerate(coarse)]
        place = torch.cat(places)  # (all pixels, width)
        for layer in self.layers:
            tokens = layer(tokens, place)
        parts = torch.split(tokens, [m.shape[-2] * m.shape[-1] for m in coarse], 1)
        return [
            part.transpose(1, 2).reshape(m.shape) for part, m in zip(parts, coarse, strict=True)
        ]
