"""The feature pyramid network: laterals, addition, and one merged map for segmentation."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segkit.models.conv import ConvBlock, JoinBlock, Norm, Upsample, UpsampleMode, init_he
from segkit.models.necks.base import Neck, skip_finer


class FPNNeck(Neck, name="fpn"):
    """A feature pyramid (Lin et al. 2017), its levels merged (Kirillov et al. 2019, figure 3).

    Each level goes through a 1x1 lateral convolution to ``width`` channels, the coarser one is
    upsampled and added, a 3x3 convolution smooths the sum. For the semantic map each level is
    convolved to ``merge_width`` channels and upsampled by two until it has the stride of the
    finest; then all are added.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        upsample: How maps are upsampled: nearest or bilinear interpolation, or a learned
            transposed convolution ("deconv").
        width: Channels of the pyramid (256 in the paper).
        merge_width: Channels of the semantic map (128 in the paper).
        out_stride: Stride of the semantic map (4 in the paper); finer maps of the encoder are left
            out, as long as two remain.
        smooth: Whether 3x3 convolutions smooth the sums; without them the network is a third
            cheaper.
        norm: Normalisation in the branches of the semantic map; None takes the encoder's.
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
        self._first = skip_finer(strides, out_stride, least=2)
        channels, strides = channels[self._first :], strides[self._first :]
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.ups = nn.ModuleList(
            Upsample(width, coarse // fine, upsample) for fine, coarse in pairwise(strides)
        )
        self.smooth = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) if smooth else nn.Identity() for _ in channels
        )
        # Branches of a block and an upsampling by two in turn (Kirillov et al. 2019, figure 3).
        self.merge = nn.ModuleList()
        for stride in strides:
            branch = nn.ModuleList([ConvBlock(width, merge_width, 3, norm or "batch")])
            while (times := stride // strides[0]) > 1:
                up = Upsample(merge_width, 2 if times % 2 == 0 else times, upsample)
                branch.append(up)
                stride //= up.factor
                if stride > strides[0]:
                    branch.append(JoinBlock(merge_width, 0, merge_width, up, norm or "batch"))
            self.merge.append(branch)
        self.out_channels, self.out_stride = merge_width, strides[0]
        self.level_channels = (merge_width, *[width] * (len(strides) - 1))
        self.level_strides = strides
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
        (first,) = self.merge[0].children()
        merged = first(pyramid[0])  # (B, merge_width, H / out_stride, W / out_stride)
        last: dict[Upsample | int, tuple[Upsample, Tensor]] = {}
        for branch, level in zip(self.merge[1:], pyramid[1:], strict=True):
            first, *steps, end = branch.children()
            assert isinstance(end, Upsample)
            x = first(level)
            for up, join in zip(steps[::2], steps[1::2], strict=True):
                x = join(x, up)
            # Interpolation is linear: maps that share the last one are added before it.
            kind = end if end.mode == "deconv" else end.factor
            last[kind] = end, x + last[kind][1] if kind in last else x
        for end, x in last.values():
            merged = merged + end(x)
        return [merged, *pyramid[1:]]
