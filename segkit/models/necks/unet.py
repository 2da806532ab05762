"""The expansive path of the U-Net: upsample, concatenate the skip, convolve."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.models.conv import Norm, Padding, Upsample, UpsampleMode, init_he
from segkit.models.joining import Attention, JoinStep
from segkit.models.necks.base import Neck, list_steps

DEFAULT_WIDTH = 16


class UNetNeck(Neck, name="unet"):
    """From the coarsest map up, each step joins the next finer map by concatenation (U-Net, 2015).

    Where the encoder has no map of a stride (stride 2 of a ConvNeXt, stride 1 of a ResNet), the
    step has no skip. A level of stride s has ``width * s`` channels.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        upsample: How each step upsamples: nearest or bilinear interpolation, or a learned
            transposed convolution ("deconv", as in the paper).
        width: Channels at stride 1; a level of stride s has s times as many. None mirrors an
            encoder whose channels are themselves width * s, as in the 2015 network, and is 16 for
            others.
        out_stride: Stride at which decoding stops; 1 decodes to full size.
        norm: Normalisation after each convolution; None takes the encoder's.
        padding: "valid" crops the skips to follow an unpadded encoder. By default the encoder's.
        attention: "scse" squeezes and excites channels and pixels in each step; "gate" weights the
            skips by attention.
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
        attention: Attention = "none",
    ) -> None:
        super().__init__()
        pairs = dict(zip(strides, channels, strict=True))
        if width is None:
            mirrors = list(channels) == [channels[0] * s for s in strides]
            width = channels[0] if mirrors else DEFAULT_WIDTH
        targets = list_steps(strides, out_stride)
        if padding == "valid" and targets[-1] != strides[0]:
            raise SegkitError(
                f"neck.out_stride is {out_stride}, but an unpadded network is decoded to the stride"
                f" of its first level: use neck.out_stride={strides[0]}."
            )
        self._skips = [strides.index(s) if s in pairs else None for s in targets]
        self.ups, self.convs = nn.ModuleList(), nn.ModuleList()
        current, stride = channels[-1], strides[-1]
        widths = []
        for target in targets:
            up = Upsample(current, stride // target, upsample, width * target)
            self.ups.append(up)
            self.convs.append(
                JoinStep(
                    current,
                    pairs.get(target, 0),
                    width * target,
                    up,
                    norm or "batch",
                    padding,
                    attention,
                )
            )
            current, stride = width * target, target
            widths.append(current)
        self.out_channels, self.out_stride = current, stride
        # without a step the coarsest map itself is the result
        self.level_strides = tuple(targets[::-1]) or (stride,)
        self.level_channels = tuple(widths[::-1]) or (current,)
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, out_channels, H / out_stride, W / out_stride)."""
        return self.levels(maps)[0]

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The map of each step, finest first."""
        x = maps[-1]
        steps = []
        for up, step, skip in zip(self.ups, self.convs, self._skips, strict=True):
            x = step(x, up, None if skip is None else maps[skip])  # (B, width * s, H / s, W / s)
            steps.append(x)
        return steps[::-1] or [x]
