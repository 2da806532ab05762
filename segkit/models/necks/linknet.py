"""LinkNet: the encoder's maps are added to those of a light decoder."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segkit.models.conv import ConvBlock, Norm, Upsample, UpsampleMode, init_he, make_norm
from segkit.models.necks.base import Neck, list_steps


class LinkNetNeck(Neck, name="linknet"):
    """Light steps that add the encoder's maps (Chaurasia and Culurciello 2017, "LinkNet").

    Each step reduces the channels to a quarter (1x1), upsamples, and expands them to those of the
    encoder's next finer map (1x1), which is added. A step without such a map keeps its channels;
    the last one then has ``width``.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        upsample: How each step upsamples: a transposed convolution whose kernel is twice its stride
            ("deconv", 4x4 for a step of two; 3x3 in the paper), or nearest or bilinear
            interpolation and a 3x3 convolution.
        width: Channels of the last step if it is finer than all maps of the encoder.
        out_stride: Stride at which decoding stops; 1 decodes to full size.
        norm: Normalisation after each convolution; None takes the encoder's.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        upsample: UpsampleMode = "deconv",
        width: Annotated[int, Field(ge=1)] = 32,
        out_stride: Annotated[int, Field(ge=1)] = 1,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        pairs = dict(zip(strides, channels, strict=True))
        targets = list_steps(strides, out_stride)
        self._skips = [strides.index(s) if s in pairs else None for s in targets]
        current, stride = channels[-1], strides[-1]
        self.steps, widths = nn.ModuleList(), []
        for target in targets:
            out = pairs.get(target, width if target == targets[-1] else current)
            hidden = max(1, current // 4)
            self.steps.append(
                nn.Sequential(
                    ConvBlock(current, hidden, 1, norm or "batch"),
                    _upsample(hidden, stride // target, upsample, norm or "batch"),
                    ConvBlock(hidden, out, 1, norm or "batch"),
                )
            )
            current, stride = out, target
            widths.append(out)
        self.out_channels, self.out_stride = current, stride
        self.level_strides = tuple(targets[::-1]) or (stride,)
        self.level_channels = tuple(widths[::-1]) or (current,)
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, out_channels, H / out_stride, W / out_stride)."""
        return self.levels(maps)[0]

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The map of each step, finest first."""
        x = maps[-1]
        results = []
        for step, skip in zip(self.steps, self._skips, strict=True):
            x = step(x)
            if skip is not None:
                x = x + maps[skip]  # (B, c, H / s, W / s)
            results.append(x)
        return results[::-1] or [x]


def _upsample(channels: int, factor: int, mode: UpsampleMode, norm: Norm) -> nn.Sequential:
    if mode != "deconv":
        up = Upsample(channels, factor, mode)
        return nn.Sequential(up, ConvBlock(channels, channels, 3, norm))
    half = factor // 2
    return nn.Sequential(
        nn.ConvTranspose2d(channels, channels, factor + 2 * half, stride=factor, padding=half),
        make_norm(norm, channels),
        nn.ReLU(inplace=True),
    )
