"""A neck in a loose file. From the top of the repository:

python -m segkit.train plugins=[examples/loose_file/residual.py] neck=residual
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

import segkit


class ResidualNeck(segkit.Neck, name="residual"):
    """Every level squeezed to one width, brought to the finest size and added."""

    def __init__(
        self, channels: tuple[int, ...], strides: tuple[int, ...], width: int = 64
    ) -> None:
        super().__init__()
        self.squeeze = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.out_channels, self.out_stride = width, strides[0]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, width, H / s_0, W / s_0)."""
        size = maps[0].shape[-2:]
        total = sum(F.interpolate(f(m), size=size) for f, m in zip(self.squeeze, maps, strict=True))
        return F.relu(self.mix(total))
