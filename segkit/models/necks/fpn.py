"""The feature pyramid network: laterals, addition, and the merging for semantic maps."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segkit.models.conv import ConvBlock, Norm, init_he
from segkit.models.necks.base import Neck
from segkit.models.necks.joining import JoinBlock
from segkit.models.necks.upsample import Upsample, UpsampleMode


class FPNNeck(Neck, name="fpn"):
    """Lin et al. 2017, merged as in "Panoptic Feature Pyramid Networks" (Kirillov et al. 2019).

    Each level goes through a 1x1 lateral convolution to ``width`` channels, the coarser one is
    upsampled and added, a 3x3 convolution smooths the sum. For the semantic map each level is
    convolved to ``merge_width`` channels and upsampled by two until it has the stride of the
    finest, and all are added.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Their strides.
        upsample: How maps are upsampled, on the way down and in the merging.
        width: Channels of the pyramid (256 in the paper).
        merge_width: Channels of the semantic map (128 in the paper).
        out_stride: Stride of the semantic map (4 in the paper); finer maps of the encoder are left
            out, as long as two remain.
        smooth: Whether 3x3 convolutions smooth the sums; without them the network is a third
            cheaper.
        norm: Normalisation of the merging; None: the encoder's.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        upsample: UpsampleMode = "nearest",
        width: Annotated[int, Field(ge=1)] = 256,
        merge_width: Annotated[int, Field(ge=1)] = 128,
        out_stride: Annotated[int, Field(ge=1)] = 4,
        smooth: bool = True,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self._first = max(0, min(sum(s < out_stride for s in strides), len(strides) - 2))
        channels, strides = channels[self._first :], strides[self._first :]
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.ups = nn.ModuleList(
            Upsample(width, coarse // fine, upsample) for fine, coarse in pairwise(strides)
        )
        self.smooth = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) if smooth else nn.Identity() for _ in channels
        )
        self.merge = nn.ModuleList(
            _Merge(width, merge_width, s, strides[0], upsample, norm or "batch") for s in strides
        )
        self.out_channels, self.out_stride = merge_width, strides[0]
        self._level_channels = (merge_width, *[width] * (len(strides) - 1))
        self._level_strides = strides
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, merge_width, H / out_stride, W / out_stride)."""
        return self.levels(maps)[0]

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The semantic map, then the coarser levels of the pyramid."""
        laterals = [
            conv(m) for conv, m in zip(self.laterals, maps[self._first :], strict=True)
        ]  # (B, width, H / s_i, W / s_i)
        sums = [laterals[-1]]
        for lateral, up in zip(laterals[-2::-1], reversed(self.ups), strict=True):
            sums.append(lateral + up(sums[-1]))
        pyramid = [conv(x) for conv, x in zip(self.smooth, reversed(sums), strict=True)]
        merged = self.merge[0](pyramid[0])  # (B, merge_width, H / out_stride, W / out_stride)
        before_end: dict[Upsample | int, tuple[Upsample, Tensor]] = {}
        for merge, level in zip(self.merge[1:], pyramid[1:], strict=True):
            x, end = merge(level), list(merge.children())[-1]
            assert isinstance(end, Upsample)
            # Interpolation is linear: maps with the same one before them are added first.
            kind = end if end.mode == "deconv" else end.factor
            before_end[kind] = end, x + before_end[kind][1] if kind in before_end else x
        for end, x in before_end.values():
            merged = merged + end(x)
        return [merged, *pyramid[1:]]

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of the semantic map and of the coarser levels."""
        return self._level_channels

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Their strides."""
        return self._level_strides


class _Merge(nn.Sequential):
    """3x3 convolutions, each with an upsampling by two (Kirillov et al. 2019, figure 3).

    :meth:`forward` leaves out the last upsampling.
    """

    def __init__(
        self,
        width: int,
        out: int,
        stride: int,
        target: int,
        upsample: UpsampleMode,
        norm: Norm,
    ) -> None:
        steps: list[nn.Module] = [ConvBlock(width, out, 3, norm)]
        while stride > target:
            factor = 2 if (stride // target) % 2 == 0 else stride // target
            up = Upsample(out, factor, upsample)
            steps.append(up)
            stride //= factor
            if stride > target:
                steps.append(JoinBlock(out, 0, out, up, norm))
        super().__init__(*steps)

    def forward(self, x: Tensor) -> Tensor:
        first, *steps = self
        x = first(x)
        for up, conv in zip(steps[:-1:2], steps[1::2], strict=True):
            x = conv(x, up)
        return x
