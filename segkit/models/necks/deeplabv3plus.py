"""DeepLabv3+: DeepLabv3 with one skip, of separable convolutions."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from segkit.models.context import DilatedPyramid, SeparableConv, choose_rates
from segkit.models.conv import ConvBlock, Norm, Upsample, UpsampleMode, init_he
from segkit.models.necks.base import Neck, skip_finer

Rate = Annotated[int, Field(ge=1)]


class DeepLabV3PlusNeck(Neck, name="deeplabv3plus"):
    """DeepLabv3 of separable convolutions, with one skip (Chen et al. 2018, figure 2).

    The paper's encoders have ``encoder.output_stride=16`` or 8. Auxiliary heads see the encoder's
    maps between the skip and the coarsest, the coarser first.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        upsample: How the coarsest result is upsampled to the skip: nearest or bilinear
            interpolation, or a learned transposed convolution ("deconv").
        width: Channels of each dilated branch, and of the result.
        skip_width: Channels to which the skip is reduced.
        out_stride: Stride of the skip and of the result; if the encoder has no such map, the next
            coarser one.
        rates: Dilations of the three branches, in pixels of the coarsest map. None takes the
            paper's: 6, 12, 18 at stride 16, twice that at 8, half of it at 32.
        dropout: Probability of dropping a value of the joined branches in training.
        norm: Normalisation after each convolution; None takes the encoder's.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        upsample: UpsampleMode = "bilinear",
        width: Annotated[int, Field(ge=1)] = 256,
        skip_width: Annotated[int, Field(ge=1)] = 48,
        out_stride: Annotated[int, Field(ge=1)] = 4,
        rates: tuple[Rate, Rate, Rate] | None = None,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self._first = skip_finer(strides, out_stride)
        channels, strides = channels[self._first :], strides[self._first :]
        rates = rates or choose_rates(strides[-1])
        norm = norm or "batch"
        self.pyramid = nn.Sequential(
            DilatedPyramid(channels[-1], width, rates, norm, dropout, separable=True),
            SeparableConv(width, width, norm),
        )
        self.up = Upsample(width, strides[-1] // strides[0], upsample)
        self.skip = ConvBlock(channels[0], skip_width, 1, norm)
        self.join = SeparableConv(skip_width + width, width, norm)
        self.out_channels, self.out_stride = width, strides[0]
        self.level_channels = (width, *channels[-2:0:-1])
        self.level_strides = (strides[0], *strides[-2:0:-1])
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, width, H / out_stride, W / out_stride)."""
        context = self.up(self.pyramid(maps[-1]))  # (B, width, H / out_stride, W / out_stride)
        return self.join(torch.cat([self.skip(maps[self._first]), context], dim=1))

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The map of :meth:`forward`, then the encoder's between the coarsest and the skip."""
        return [self(maps), *maps[-2 : self._first : -1]]
