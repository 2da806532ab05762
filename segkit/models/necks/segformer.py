"""The all-MLP decoder of SegFormer: a linear layer for each level, and one for their sum."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segkit.models.conv import Norm, Upsample, init_he, make_norm
from segkit.models.necks.base import Neck, skip_finer


class SegFormerNeck(Neck, name="segformer"):
    """A linear layer for each level, and one for all (Xie et al. 2021, "SegFormer", equation 4).

    The paper concatenates the upsampled levels and brings them to ``width`` channels. Interpolation
    and a linear layer may change places: here each level has its part of that layer before it is
    upsampled, and the results are added. With four levels that takes a third of the operations.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        width: Channels of each level and of the result (256 in the paper for B0 and B1, else 768).
        out_stride: Stride of the result (4 in the paper); finer maps of the encoder are left out.
        norm: Normalisation of the sum; None takes the encoder's.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        width: Annotated[int, Field(ge=1)] = 256,
        out_stride: Annotated[int, Field(ge=1)] = 4,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self._first = skip_finer(strides, out_stride)
        channels, strides = channels[self._first :], strides[self._first :]
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.fuse = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in channels)
        self.ups = nn.ModuleList(Upsample(width, s // strides[0], "bilinear") for s in strides)
        self.act = nn.Sequential(make_norm(norm or "batch", width), nn.ReLU(inplace=True))
        self.out_channels, self.out_stride = width, strides[0]
        self.level_channels = (width,) * len(strides)
        self.level_strides = strides
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, width, H / out_stride, W / out_stride)."""
        return self.levels(maps)[0]

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The sum, then the coarser levels before it."""
        levels = [conv(m) for conv, m in zip(self.project, maps[self._first :], strict=True)]
        parts = [
            up(conv(level)) for up, conv, level in zip(self.ups, self.fuse, levels, strict=True)
        ]
        return [self.act(sum(parts[1:], parts[0])), *levels[1:]]
