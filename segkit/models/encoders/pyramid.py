"""A feature pyramid out of the single-scale maps of a plain vision transformer."""

from __future__ import annotations

from torch import Tensor, nn

from segkit.models.conv import ChannelLayerNorm


def pyramid_strides(stride: int) -> tuple[int, ...]:
    """The strides of a pyramid around one: a quarter and a half of it, if whole, and twice it.

    Example:
        >>> pyramid_strides(16), pyramid_strides(14)
        ((4, 8, 16, 32), (7, 14, 28))
    """
    finer = [stride // factor for factor in (4, 2) if stride % factor == 0]
    return (*finer, stride, 2 * stride)


class SimplePyramid(nn.Module):
    """Maps of one stride to a pyramid around it (Li et al. 2022, "Exploring Plain ViT Backbones").

    Finer levels are deconvolved by steps of two, each but the last step with layer norm and GELU;
    the coarser level is max-pooled.

    Args:
        channels: Channels of the input maps: one per level; of fewer, the first serves the finest
            levels as well.
        stride: Their common stride.
        depth: Number of levels to make, the finest ones; None for all of :func:`pyramid_strides`.

    Attributes:
        channels: Channels of each level.
        strides: Stride of each level.
    """

    def __init__(self, channels: tuple[int, ...], stride: int, depth: int | None = None) -> None:
        super().__init__()
        self.strides = pyramid_strides(stride)[:depth]
        missing = len(self.strides) - len(channels)
        self._sources = [max(0, i - missing) for i in range(len(self.strides))]
        self.channels = tuple(channels[source] for source in self._sources)
        self.steps = nn.ModuleList(
            nn.MaxPool2d(target // stride) if target > stride else _finer(width, stride // target)
            for target, width in zip(self.strides, self.channels, strict=True)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, C, H / stride, W / stride)] -> [(B, C, H / s, W / s) for s in strides]."""
        return [step(maps[source]) for step, source in zip(self.steps, self._sources, strict=True)]


def _finer(width: int, factor: int) -> nn.Sequential:
    """(B, width, h, w) -> (B, width, factor * h, factor * w), factor 1, 2 or 4."""
    layers: list[nn.Module] = []
    for _ in range(factor.bit_length() - 1):
        layers += [
            nn.ConvTranspose2d(width, width, 2, stride=2),
            ChannelLayerNorm(width),
            nn.GELU(),
        ]
    return nn.Sequential(*layers[:-2])  # the last step is linear: the neck normalises
