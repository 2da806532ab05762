"""The neck contract: a pyramid of feature maps in, one feature map out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from segkit.core.registry import Registrable


class Neck(nn.Module, Registrable, ABC, family="neck"):
    """Merges the maps of an encoder into one map (B, out_channels, H / out_stride, W / out_stride).

    A member takes the encoder's ``channels`` and ``strides``, in this order, and its own options.
    An option ``norm`` that is None is set to the encoder's normalisation. Only a neck with an
    option ``padding`` can follow an unpadded encoder.

    Attributes:
        out_channels: Channels of the map.
        out_stride: Stride of the map, in pixels of the input.
        level_channels: Channels of each map of :meth:`levels`, for a member that has several.
        level_strides: Stride of each map of :meth:`levels`, likewise.
    """

    out_channels: int
    out_stride: int
    _level_channels: tuple[int, ...] = ()
    _level_strides: tuple[int, ...] = ()

    @abstractmethod
    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)], finest first -> (B, out_channels, H / out_stride, ...)."""

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The map of :meth:`forward`, then the others for auxiliary heads, if any."""
        return [self(maps)]

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each map of :meth:`levels`."""
        return self._level_channels or (self.out_channels,)

    @level_channels.setter
    def level_channels(self, channels: tuple[int, ...]) -> None:
        self._level_channels = channels

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Stride of each map of :meth:`levels`."""
        return self._level_strides or (self.out_stride,)

    @level_strides.setter
    def level_strides(self, strides: tuple[int, ...]) -> None:
        self._level_strides = strides


def list_steps(strides: tuple[int, ...], out_stride: int) -> list[int]:
    """The strides that a decoder goes through from the coarsest map: the encoder's, then halves.

    Example:
        >>> list_steps((4, 8, 16), 1)
        [8, 4, 2, 1]
    """
    steps = [s for s in reversed(strides[:-1]) if s >= out_stride]
    while (finest := (steps or strides)[-1]) % 2 == 0 and finest // 2 >= out_stride:
        steps.append(finest // 2)
    return steps


def skip_finer(strides: tuple[int, ...], out_stride: int, least: int = 1) -> int:
    """How many of the finest maps to leave out for a stride, so that ``least`` remain.

    Example:
        >>> skip_finer((2, 4, 8), 4)
        1
    """
    return max(0, min(sum(s < out_stride for s in strides), len(strides) - least))
