"""A linear probe: the encoder's maps as they are, for the head's 1x1 convolution."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from segkit.models.conv import Norm, Upsample, init_he, make_norm
from segkit.models.necks.base import Neck, skip_finer


class LinearNeck(Neck, name="linear"):
    """The encoder's maps as they are: a linear probe (Oquab et al. 2023, "DINOv2", section 7.4).

    Of a plain transformer give the features themselves and not a learned pyramid of them:
    ``encoder.freeze=all encoder.blocks=plain``.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        maps: Whether the head sees the "last" map alone, or "all" maps from ``out_stride`` on,
            upsampled to the finest of them and concatenated.
        hidden: Channels of a hidden layer with GELU between the maps and the head; None for none.
        out_stride: With "all", finer maps of the encoder are left out.
        norm: Normalisation of the maps; None takes the encoder's.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        maps: Literal["last", "all"] = "last",
        hidden: Annotated[int, Field(ge=1)] | None = None,
        out_stride: Annotated[int, Field(ge=1)] = 4,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self._first = skip_finer(strides, out_stride) if maps == "all" else len(strides) - 1
        channels, strides = channels[self._first :], strides[self._first :]
        self.ups = nn.ModuleList(
            Upsample(c, s // strides[0], "bilinear") for c, s in zip(channels, strides, strict=True)
        )
        width = sum(channels)
        self.norm = make_norm(norm or "batch", width)
        self.mlp = nn.Sequential()
        if hidden is not None:
            self.mlp.extend([nn.Conv2d(width, hidden, 1), nn.GELU()])
        self.out_channels, self.out_stride = hidden or width, strides[0]
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, out_channels, H / out_stride, W / out_stride)."""
        parts = [up(m) for up, m in zip(self.ups, maps[self._first :], strict=True)]
        return self.mlp(self.norm(torch.cat(parts, dim=1)))
