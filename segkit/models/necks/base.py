"""The neck contract: a pyramid of feature maps in, one feature map out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from segkit.core.registry import Registrable


class Neck(nn.Module, Registrable, ABC, family="neck"):
    """Merges the maps of an encoder into one map (B, out_channels, H / out_stride, W / out_stride).

    A member takes ``channels`` and ``strides`` of the encoder, in this order, and its own options.
    If it has an option ``norm`` that is None, the encoder's normalisation is meant; if it has an
    option ``padding``, it can follow an unpadded encoder.

    Attributes:
        out_channels: Channels of the map.
        out_stride: Its stride, in pixels of the input.
        level_channels: Channels of what :meth:`levels` gives.
        level_strides: Its strides.
    """

    out_channels: int
    out_stride: int

    @abstractmethod
    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)], finest first -> (B, out_channels, H / out_stride, ...)."""

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The map of :meth:`forward`, then coarser ones for auxiliary heads, if there are any."""
        return [self(maps)]

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each map of :meth:`levels`."""
        return (self.out_channels,)

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Stride of each map of :meth:`levels`."""
        return (self.out_stride,)
