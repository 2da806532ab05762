"""PSPNet: the coarsest map beside its averages over grids of several sizes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segkit.models.context import PyramidPooling
from segkit.models.conv import ConvBlock, Norm, init_he
from segkit.models.necks.base import Neck


class PSPNetNeck(Neck, name="pspnet"):
    """The coarsest map beside its averages over grids (Zhao et al. 2017, "PSPNet", figure 3).

    The result has the encoder's coarsest stride: give it ``encoder.output_stride=8``, as in the
    paper, or ``encoder.depth=3``. Auxiliary heads see the encoder's other maps, the coarsest first.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        width: Channels of the result.
        dropout: Probability of dropping whole channels of the result in training.
        norm: Normalisation after each convolution; None takes the encoder's.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        width: Annotated[int, Field(ge=1)] = 512,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self.pool = PyramidPooling(channels[-1], max(1, channels[-1] // 4), norm or "batch")
        self.project = ConvBlock(self.pool.out_channels, width, 3, norm or "batch")
        self.dropout = nn.Dropout2d(dropout)
        self.out_channels, self.out_stride = width, strides[-1]
        self.level_channels = (width, *channels[-2::-1])
        self.level_strides = strides[::-1]
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, width, H / out_stride, W / out_stride)."""
        return self.dropout(self.project(self.pool(maps[-1])))

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The map of :meth:`forward`, then the encoder's from the second coarsest on."""
        return [self(maps), *maps[-2::-1]]
