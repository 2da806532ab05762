"""DeepLabv3: dilated convolutions side by side on the coarsest map."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from segkit.models.context import DilatedPyramid, choose_rates
from segkit.models.conv import ConvBlock, Norm, init_he
from segkit.models.necks.base import Neck

Rate = Annotated[int, Field(ge=1)]


class DeepLabV3Neck(Neck, name="deeplabv3"):
    """Dilated convolutions side by side (Chen et al. 2017, "Rethinking Atrous Convolution").

    The result has the encoder's coarsest stride: give it ``encoder.output_stride=8`` or 16, as in
    the paper. Auxiliary heads see the encoder's other maps, the coarsest first.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        width: Channels of each branch, and of the result.
        rates: Dilations of the three branches, in pixels of the coarsest map. None takes the
            paper's: 6, 12, 18 at stride 16, twice that at 8, half of it at 32.
        dropout: Probability of dropping a value of the joined branches in training.
        norm: Normalisation after each convolution; None takes the encoder's.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        width: Annotated[int, Field(ge=1)] = 256,
        rates: tuple[Rate, Rate, Rate] | None = None,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        rates = rates or choose_rates(strides[-1])
        self.pyramid = DilatedPyramid(channels[-1], width, rates, norm or "batch", dropout)
        self.conv = ConvBlock(width, width, 3, norm or "batch")
        self.out_channels, self.out_stride = width, strides[-1]
        self.level_channels = (width, *channels[-2::-1])
        self.level_strides = strides[::-1]
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, width, H / out_stride, W / out_stride)."""
        return self.conv(self.pyramid(maps[-1]))

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The map of :meth:`forward`, then the encoder's from the second coarsest on."""
        return [self(maps), *maps[-2::-1]]
