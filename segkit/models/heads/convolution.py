"""The heads of segkit: a 1x1 convolution each. They differ in what the logits mean."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode, decide
from segkit.models.conv import init_he
from segkit.models.heads.base import Head

Share = Annotated[float, Field(ge=0, lt=1)]
Threshold = Annotated[float, Field(gt=0, lt=1)]


class _Convolution(nn.Module):
    """Dropout of whole channels and a 1x1 convolution."""

    class_layer: ClassVar[str | None] = "conv"

    def __init__(self, in_channels: int, num_logits: int, dropout: float) -> None:
        super().__init__()
        self.num_logits = num_logits
        self.dropout = nn.Dropout2d(dropout)
        self.conv = nn.Conv2d(in_channels, num_logits, 1)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, num_logits, h, w)."""
        return self.conv(self.dropout(x))


class BinaryHead(_Convolution, Head, name="binary"):
    """A 1x1 convolution to one channel and a sigmoid, foreground above a threshold.

    Args:
        in_channels: Channels of the neck's map.
        num_classes: 2 (background and foreground), or 1 if the background is not counted; the
            attribute is 2 in any case.
        threshold: Probability above which a pixel is foreground.
        dropout: Probability of dropping whole channels of the map in training.
    """

    mode: ClassVar[Mode] = "binary"

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 2,
        threshold: Threshold = 0.5,
        dropout: Share = 0.0,
    ) -> None:
        if num_classes not in (1, 2):
            raise SegkitError(
                "head 'binary' has 2 classes, background and foreground, not"
                f" {num_classes}: use head=multiclass or head=multilabel."
            )
        super().__init__(in_channels, 1, dropout)
        self.num_classes, self.threshold = 2, threshold

    def activate(self, logits: Tensor) -> Tensor:
        """Sigmoid."""
        return torch.sigmoid(logits)

    def decide(self, probabilities: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, H, W): 1 where the probability exceeds the threshold."""
        labels: Tensor = decide(probabilities, self.mode, self.threshold)
        return labels.view(torch.uint8)  # no copy


class MulticlassHead(_Convolution, Head, name="multiclass"):
    """A 1x1 convolution to N channels, softmax, the most probable class.

    Args:
        in_channels: Channels of the neck's map.
        num_classes: Number of classes, background included; in a training the data's by default.
        dropout: Probability of dropping whole channels of the map in training.
    """

    mode: ClassVar[Mode] = "multiclass"

    def __init__(
        self,
        in_channels: int,
        num_classes: Annotated[int, Field(ge=2, le=255)],
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(in_channels, num_classes, dropout)
        self.num_classes = num_classes

    def activate(self, logits: Tensor) -> Tensor:
        """Softmax over the classes."""
        return torch.softmax(logits, dim=1)

    def decide(self, probabilities: Tensor) -> Tensor:
        """(B, N, H, W) -> (B, H, W): the class of the largest probability."""
        # the same as argmax, in a sixth of the time on a CPU
        return probabilities.max(dim=1).indices.to(torch.uint8)


class MultilabelHead(_Convolution, Head, name="multilabel"):
    """A 1x1 convolution to N channels, a sigmoid and a threshold for each.

    Args:
        in_channels: Channels of the neck's map.
        num_classes: Number of classes; in a training the data's by default.
        threshold: Probability above which a pixel belongs to a class.
        dropout: Probability of dropping whole channels of the map in training.
    """

    mode: ClassVar[Mode] = "multilabel"

    def __init__(
        self,
        in_channels: int,
        num_classes: Annotated[int, Field(ge=1, le=255)],
        threshold: Threshold = 0.5,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(in_channels, num_classes, dropout)
        self.num_classes, self.threshold = num_classes, threshold

    def activate(self, logits: Tensor) -> Tensor:
        """Sigmoid of each class."""
        return torch.sigmoid(logits)

    def decide(self, probabilities: Tensor) -> Tensor:
        """(B, N, H, W) -> (B, N, H, W): 1 where the probability exceeds the threshold."""
        labels: Tensor = decide(probabilities, self.mode, self.threshold)
        return labels.view(torch.uint8)  # no copy
