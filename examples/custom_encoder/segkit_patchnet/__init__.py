"""An encoder of patches: each stage halves the map and mixes the pixels of a 2 x 2 patch."""

from __future__ import annotations

from torch import Tensor, nn

import segkit
from segkit.models.conv import ConvBlock


class PatchNet(segkit.Encoder, name="patchnet"):
    """Stages of a strided 2x2 convolution and a 3x3 convolution, at the strides 2, 4, 8 ...

    Args:
        in_channels: Channels of the image.
        depth: Number of stages.
        width: Channels of the first stage; each stage has twice the channels of the one before.
        pretrained: There are no weights for it; taken for the sake of the contract.
    """

    def __init__(
        self,
        in_channels: int = 3,
        depth: int = 4,
        width: int = 16,
        pretrained: bool | str = False,
    ) -> None:
        super().__init__()
        self.channels = tuple(width * 2**i for i in range(depth))
        self.strides = tuple(2 ** (i + 1) for i in range(depth))
        before = (in_channels, *self.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 2, stride=2), ConvBlock(o, o))
            for i, o in zip(before, self.channels, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in, H, W) -> [(B, width * 2^i, H / 2^(i+1), W / 2^(i+1))]."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
