"""One foreground class against the background."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.core.labels import decide
from segkit.models.conv import init_he
from segkit.models.heads.base import Head


class BinaryHead(Head, name="binary"):
    """A 1x1 convolution to one channel and a sigmoid, foreground above a threshold.

    Args:
        in_channels: Channels of the neck's map.
        num_classes: 2 (background and foreground), or 1 if the background is not counted; the
            attribute is 2 in any case.
        threshold: Probability above which a pixel is foreground.
        dropout: Probability of dropping whole channels of the map in training.
    """

    mode = "binary"

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 2,
        threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        if num_classes not in (1, 2):
            raise SegkitError(
                "head 'binary' has 2 classes, background and foreground, not"
                f" {num_classes}: use head=multiclass or head=multilabel."
            )
        self.num_classes, self.num_logits, self.threshold = 2, 1, threshold
        self.dropout = nn.Dropout2d(dropout)
        self.conv = nn.Conv2d(in_channels, 1, 1)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, 1, h, w)."""
        return self.conv(self.dropout(x))

    def activate(self, logits: Tensor) -> Tensor:
        """Sigmoid."""
        return torch.sigmoid(logits)

    def decide(self, probabilities: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, H, W): 1 where the probability exceeds the threshold."""
        return decide(probabilities, self.mode, self.threshold).long()
