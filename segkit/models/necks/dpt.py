"""The decoder of dense prediction transformers: residual blocks that fuse level after level."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segkit.models.conv import ConvBlock, Norm, Upsample, UpsampleMode, init_he, make_norm
from segkit.models.necks.base import Neck, skip_finer


class DPTNeck(Neck, name="dpt"):
    """Residual blocks that fuse level after level (Ranftl et al. 2021, "DPT", figure 1).

    "Reassemble" brings each level to ``width`` channels. Its resampling of a plain transformer's
    maps is the encoder's own pyramid, so that this neck takes the maps of any other encoder too;
    class tokens are not used. "Fusion" adds a level to the coarser result, with a residual block
    before and after, and upsamples; the last one by two.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        upsample: How results are upsampled: nearest or bilinear interpolation, or a learned
            transposed convolution ("deconv").
        width: Channels of each level and of the result.
        out_stride: Stride of the result (2 in the paper); maps finer than twice that are left out.
        norm: Normalisation in the residual blocks; None takes the encoder's.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        upsample: UpsampleMode = "bilinear",
        width: Annotated[int, Field(ge=1)] = 256,
        out_stride: Annotated[int, Field(ge=1)] = 2,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        norm = norm or "batch"
        self._first = skip_finer(strides, 2 * out_stride)
        channels, strides = channels[self._first :], strides[self._first :]
        self.reassemble = nn.ModuleList(
            nn.Conv2d(c, width, 3, padding=1, bias=False) for c in channels
        )
        finest = strides[0] // 2 if strides[0] % 2 == 0 else strides[0]
        targets = (finest, *strides[:-1])
        self.fuse = nn.ModuleList(
            _Fusion(Upsample(width, stride // target, upsample), width, norm, stride < strides[-1])
            for stride, target in zip(strides, targets, strict=True)
        )
        self.last = ConvBlock(width, width, 3, norm)
        self.out_channels, self.out_stride = width, finest
        self.level_channels, self.level_strides = (width,) * len(targets), targets
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, width, H / out_stride, W / out_stride)."""
        return self.levels(maps)[0]

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The map of :meth:`forward`, then the coarser results of fusion."""
        levels = [conv(m) for conv, m in zip(self.reassemble, maps[self._first :], strict=True)]
        x: Tensor | None = None
        results = []
        for fuse, level in zip(reversed(self.fuse), reversed(levels), strict=True):
            x = fuse(level, x)
            results.append(x)  # (B, width, H / target, W / target)
        *coarser, finest = results
        return [self.last(finest), *coarser[::-1]]


class _Fusion(nn.Module):
    """Adds a level to the coarser result, and upsamples. The coarsest level has no other."""

    def __init__(self, up: Upsample, width: int, norm: Norm, has_coarser: bool) -> None:
        super().__init__()
        self.level = _ResidualBlock(width, norm) if has_coarser else nn.Identity()
        self.sum = _ResidualBlock(width, norm)
        self.up = up
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, level: Tensor, coarser: Tensor | None) -> Tensor:
        """(B, width, h, w) both -> (B, width, f h, f w)."""
        x = self.level(level)
        x = self.sum(x if coarser is None else x + coarser)
        return self.project(self.up(x))


class _ResidualBlock(nn.Module):
    """ReLU and a 3x3 convolution twice, added to the map."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layer = make_norm(norm, width)
            bias = isinstance(layer, nn.Identity)
            layers += [nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=bias), layer]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> (B, width, h, w)."""
        return x + self.layers(x)
