"""N classes that may overlap."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from segkit.core.labels import decide
from segkit.models.conv import init_he
from segkit.models.heads.base import Head


class MultilabelHead(Head, name="multilabel"):
    """A 1x1 convolution to N channels, a sigmoid and a threshold for each.

    Args:
        in_channels: Channels of the neck's map.
        num_classes: Number of classes; in a training the data's by default.
        threshold: Probability above which a pixel belongs to a class.
        dropout: Probability of dropping whole channels of the map in training.
    """

    mode = "multilabel"

    def __init__(
        self,
        in_channels: int,
        num_classes: Annotated[int, Field(ge=1, le=255)],
        threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = self.num_logits = num_classes
        self.threshold = threshold
        self.dropout = nn.Dropout2d(dropout)
        self.conv = nn.Conv2d(in_channels, num_classes, 1)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, num_classes, h, w)."""
        return self.conv(self.dropout(x))

    def activate(self, logits: Tensor) -> Tensor:
        """Sigmoid of each class."""
        return torch.sigmoid(logits)

    def decide(self, probabilities: Tensor) -> Tensor:
        """(B, N, H, W) -> (B, N, H, W): 1 where the probability exceeds the threshold."""
        return decide(probabilities, self.mode, self.threshold).long()
