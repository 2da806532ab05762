"""The map of a plain transformer, enlarged: no neck but for what queries need."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segkit.models.conv import ChannelLayerNorm, init_he
from segkit.models.necks.base import Neck


class UpscaleNeck(Neck, name="upscale"):
    """The encoder's last map, doubled (Kerssies et al. 2025, "EoMT", section 3.2).

    The map is normalised, as plain transformers leave it large, and goes through steps of a
    transposed convolution, GELU, a 3x3 convolution of each channel and a norm until it has
    ``out_stride``.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        width: Channels of the result; None: those of the last map.
        out_stride: Stride from which on it is not doubled any more.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        width: Annotated[int, Field(ge=1)] | None = None,
        out_stride: Annotated[int, Field(ge=1)] = 4,
    ) -> None:
        super().__init__()
        stride, inner = strides[-1], width or channels[-1]
        layers: list[nn.Module] = [ChannelLayerNorm(channels[-1])]
        before = channels[-1]
        while stride % 2 == 0 and stride // 2 >= out_stride:
            layers += [
                nn.ConvTranspose2d(before, inner, 2, 2),
                nn.GELU(),
                nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False),
                ChannelLayerNorm(inner),
            ]
            before, stride = inner, stride // 2
        self.layers = nn.Sequential(*layers)
        self.out_channels, self.out_stride = before, stride
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[..., (B, c, H / s, W / s)] -> (B, out_channels, H / out_stride, W / out_stride)."""
        return self.layers(maps[-1])
