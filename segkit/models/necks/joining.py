"""The convolution of an upsampled map beside a skip: the plain way, and a faster one, equal to it.

A 3x3 convolution of a map that nearest interpolation doubled meets each of its pixels several times
over. It equals a transposed convolution of the small map with stride 2, whose 4x4 kernel is a
linear function of the 3x3 one: 4/9 of the multiplications, and no upsampled map in memory. With a
skip beside it the result is the sum of the convolutions of both, and nothing is concatenated.

The parameters stay those of the plain convolution; in training the 4x4 kernel is computed from them
in each step. Exported and compiled networks keep the plain one, and so do devices other than the
CPU, where it has not been measured to pay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.models.conv import ConvBlock, Norm, Padding, crop_to
from segkit.models.necks.upsample import Upsample

WORTH_A_KERNEL = 256
"""Pixels of a batch of small maps, from which on it pays to compute the 4x4 kernel for them."""

_plain = ContextVar("plain", default=False)


@contextmanager
def plain_joins() -> Iterator[None]:
    """Inside, maps are upsampled and concatenated as the architecture says it."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


class JoinBlock(ConvBlock):
    """3x3 convolution, normalisation and ReLU of a skip and, behind it, an upsampled map.

    Args:
        in_channels: Channels of the upsampled map.
        skip_channels: Channels of the skip; 0: there is none.
        out_channels: Channels that come out.
        up: How the map is upsampled.
        norm: The normalisation.
        padding: "valid" takes two pixels off.

    Attributes:
        doubles: Whether the map is upsampled in the way that has a fast path.
        kept: The fast convolution with kernels that were computed once and for all. Set in a
            network that is not trained any more, in place of the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        up: Upsample,
        norm: Norm = "batch",
        padding: Padding = "same",
    ) -> None:
        super().__init__(skip_channels + in_channels, out_channels, 3, norm, padding)
        self.doubles = (up.mode, up.factor) == ("nearest", 2)
        self.skip_channels = skip_channels
        self.kept: Callable[[Tensor, Tensor | None], Tensor] | None = None

    def forward(  # type: ignore[override]  # a Sequential takes one map
        self, x: Tensor, up: Upsample, skip: Tensor | None = None
    ) -> Tensor:
        """Join two maps.

        Args:
            x: (B, in_channels, h, w), the coarser one.
            up: How it is upsampled, by f.
            skip: (B, skip_channels, H, W), the finer one; its centre is taken.

        Returns:
            (B, out_channels, f h, f w).
        """
        convolve, norm, activation = self
        if skip is not None:
            skip = crop_to(skip, (x.shape[-2] * up.factor, x.shape[-1] * up.factor))
        if self.kept is not None:
            return activation(norm(self.kept(x, skip)))
        if self._is_fast(x):
            return activation(norm(self._join(x, skip)))
        x = up(x)
        return activation(norm(convolve(x if skip is None else torch.cat([skip, x], dim=1))))

    def _is_fast(self, x: Tensor) -> bool:
        # first of all: what is asked of sizes would stand in the exported program
        if _plain.get() or torch.compiler.is_compiling():
            return False
        return (
            self.doubles
            and x.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
            and x[:, 0].numel() >= WORTH_A_KERNEL
        )

    @property
    def convolution(self) -> nn.Conv2d:
        """The plain convolution, which has the parameters."""
        first = self[0]
        assert isinstance(first, nn.Conv2d)
        return first

    def kernels(self) -> tuple[Tensor, Tensor]:
        """(out, skip, 3, 3) for the skip, and (in, out, 4, 4) for the map before upsampling."""
        weight = self.convolution.weight
        w = weight[:, self.skip_channels :].permute(1, 2, 3, 0)  # (in, 3, 3, out)
        # Rows 2i and 2i + 1 of the output see w0 x[i-1] + (w1 + w2) x[i] and (w0 + w1) x[i] +
        # w2 x[i+1]; these are the taps of a transposed convolution, which go the other way.
        for axis in (1, 2):
            first, middle, last = w.unbind(axis)
            w = torch.stack((last, middle + last, first + middle, first), axis)
        return weight[:, : self.skip_channels], w.permute(0, 3, 1, 2)

    def _join(self, x: Tensor, skip: Tensor | None) -> Tensor:
        bias, padding = self.convolution.bias, int(self.convolution.padding[0])
        own, upsampled = self.kernels()
        joined = F.conv_transpose2d(x, upsampled, bias, stride=2, padding=2 - padding)
        return joined if skip is None else joined.add_(F.conv2d(skip, own, padding=padding))
