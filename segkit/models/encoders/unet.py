"""The contracting path of the 2015 U-Net, a VGG-style stack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.models.conv import DoubleConv, Norm, Padding, init_he
from segkit.models.encoders.base import Encoder, Pretrained
from segkit.models.encoders.weights import load_state


class UNetEncoder(Encoder, name="unet"):
    """Two 3x3 convolutions with ReLU per level, 2x2 max-pooling between (Ronneberger et al. 2015).

    With ``padding="valid"`` and ``neck.upsample=deconv`` it is the paper's network: five levels of
    64, 128, 256, 512 and 1024 channels at the strides 1, 2, 4, 8 and 16, dropout at the end of the
    path, He initialisation.

    Args:
        in_channels: Channels of the image.
        depth: Number of levels.
        width: Channels of the first level; each level has twice the channels of the one before.
        padding: "same" keeps the size in each convolution, "valid" is the paper's unpadded network.
        norm: Normalisation after each convolution; the paper has none.
        dropout: Probability of dropout on the coarsest map.
        pretrained: There are no public weights for it: a path loads a file, True is an error, and
            "auto" is as good as False.
    """

    def __init__(
        self,
        in_channels: Annotated[int, Field(ge=1)] = 3,
        depth: Annotated[int, Field(ge=2, le=6)] = 5,
        width: Annotated[int, Field(ge=1)] = 64,
        padding: Padding = "same",
        norm: Norm = "none",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        pretrained: Pretrained = "auto",
    ) -> None:
        super().__init__()
        if pretrained is True:
            raise SegkitError(
                "encoder.pretrained=true, but there are no public weights for the encoder 'unet':"
                " use encoder.pretrained=false or the path of a file."
            )
        self.channels = tuple(width * 2**level for level in range(depth))
        self.strides = tuple(2**level for level in range(depth))
        self.in_channels = in_channels
        self.padding = padding
        self.norm = norm
        self.levels = nn.ModuleList()
        for before, after in zip((in_channels, *self.channels), self.channels, strict=False):
            self.levels.append(DoubleConv(before, after, norm, padding))
        self.dropout = nn.Dropout(dropout)
        init_he(self)
        if isinstance(pretrained, Path):
            load_state(self, pretrained)
            self.pretrained_from = str(pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in, H, W) -> [(B, width * s, H / s, W / s) for s in 1, 2, 4 ...], less if valid."""
        maps = []
        for level, block in enumerate(self.levels):
            x = block(x if level == 0 else F.max_pool2d(x, 2))  # (B, width * s, H / s, W / s)
            maps.append(x)
        maps[-1] = self.dropout(maps[-1])
        return maps
