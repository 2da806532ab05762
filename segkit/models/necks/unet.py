"""The expansive path of the U-Net: upsample, concatenate the skip, convolve."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.models.conv import ConvBlock, Norm, Padding, init_he
from segkit.models.necks.base import Neck
from segkit.models.necks.joining import JoinBlock
from segkit.models.necks.upsample import Upsample, UpsampleMode

DEFAULT_WIDTH = 16


class UNetNeck(Neck, name="unet"):
    """From the coarsest map up, each step joins the next finer map by concatenation (U-Net, 2015).

    Where the encoder has no map of a stride (stride 2 of a ConvNeXt, stride 1 of a ResNet), the
    step goes without a skip. A level of stride s has ``width * s`` channels.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Their strides.
        upsample: How each step doubles the size.
        width: Channels at stride 1. None: those of the encoder if its channels are themselves
            width * s, as in the 2015 stack, which the neck then mirrors; else 16.
        out_stride: Where to stop; 1 decodes to full size.
        norm: Normalisation; None: the encoder's.
        padding: "valid" crops the skips to follow an unpadded encoder.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        upsample: UpsampleMode = "nearest",
        width: Annotated[int, Field(ge=1)] | None = None,
        out_stride: Annotated[int, Field(ge=1)] = 1,
        norm: Norm | None = None,
        padding: Padding = "same",
    ) -> None:
        super().__init__()
        if width is None:
            mirrors = all(c == channels[0] * s for c, s in zip(channels, strides, strict=True))
            width = channels[0] if mirrors else DEFAULT_WIDTH
        targets = [s for s in reversed(strides[:-1]) if s >= out_stride]
        while (finest := (targets or [strides[-1]])[-1]) % 2 == 0 and finest // 2 >= out_stride:
            targets.append(finest // 2)
        if padding == "valid" and targets[-1] != strides[0]:
            raise SegkitError(
                f"neck.out_stride is {out_stride}, but an unpadded network is decoded to the stride"
                f" of its first level: use neck.out_stride={strides[0]}."
            )
        skips = dict(zip(strides, channels, strict=True))
        self._skip_of = [strides.index(s) if s in skips else None for s in targets]
        self.ups, self.convs = nn.ModuleList(), nn.ModuleList()
        current, stride = channels[-1], strides[-1]
        widths = []
        for target in targets:
            up = Upsample(current, stride // target, upsample, width * target)
            current, stride = width * target, target
            self.ups.append(up)
            self.convs.append(_Step(up, skips.get(target, 0), current, norm or "batch", padding))
            widths.append(current)
        self.out_channels, self.out_stride = current, stride
        # without a step the coarsest map itself comes out
        self._level_channels = tuple(reversed(widths)) or (current,)
        self._level_strides = tuple(reversed(targets)) or (stride,)
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, out_channels, H / out_stride, W / out_stride)."""
        return self.levels(maps)[0]

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The map of each step, finest first."""
        x = maps[-1]
        steps = []
        for up, conv, skip in zip(self.ups, self.convs, self._skip_of, strict=True):
            x = conv(x, up, None if skip is None else maps[skip])
            steps.append(x)
        return steps[::-1] or [x]

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each step, finest first."""
        return self._level_channels

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Stride of each step, finest first."""
        return self._level_strides


class _Step(nn.Sequential):
    """Joins a map with a skip, and convolves once more (Ronneberger et al. 2015, section 2)."""

    def __init__(
        self, up: Upsample, skip_channels: int, out_channels: int, norm: Norm, padding: Padding
    ) -> None:
        super().__init__(
            JoinBlock(up.out_channels, skip_channels, out_channels, up, norm, padding),
            ConvBlock(out_channels, out_channels, 3, norm, padding),
        )

    def forward(  # type: ignore[override]  # a Sequential takes one map
        self, x: Tensor, up: Upsample, skip: Tensor | None
    ) -> Tensor:
        join, conv = self
        return conv(join(x, up, skip))
