"""The head contract: a feature map in, logits out, and what the logits mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from segkit.core.labels import Mode
from segkit.core.registry import Registrable


class Head(nn.Module, Registrable, ABC, family="head"):
    """Turns a feature map into logits (B, num_logits, h, w) and owns what they mean.

    A member takes ``in_channels`` and ``num_classes``, in this order, and its own options.
    Training, metrics, prediction and export all decide through :meth:`activate` and :meth:`decide`.

    Attributes:
        mode: What the logits mean to losses and metrics.
        num_classes: Number of classes, background included; those of a multilabel head are
            independent of each other.
        num_logits: Channels of the logits.
        class_layer: Name of the layer whose weights have a row for each logit, if there is one:
            another training takes those of its classes (``init``).
        tells_objects: Whether the network gives one more map, with numbers of objects: see
            :meth:`segkit.models.heads.queries.QueriesHead.find_objects`.
    """

    mode: ClassVar[Mode]
    class_layer: ClassVar[str | None] = None
    num_classes: int
    num_logits: int
    tells_objects: bool = False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, num_logits, h, w)."""

    @abstractmethod
    def activate(self, logits: Tensor) -> Tensor:
        """Logits to probabilities, (B, num_logits, H, W) both."""

    @abstractmethod
    def decide(self, probabilities: Tensor) -> Tensor:
        """(B, num_logits, H, W) -> uint8 labels (B, H, W), of a multilabel head (B, N, H, W)."""
