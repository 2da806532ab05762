"""The layers that encoders and necks share: convolution blocks, normalisation, upsampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["batch", "group", "instance", "layer", "none"]
Padding = Literal["same", "valid"]
UpsampleMode = Literal["nearest", "bilinear", "deconv"]

WORTH_A_KERNEL = 256
"""Pixels in a batch of coarse maps above which the fast path of JoinBlock pays."""

_plain = ContextVar("plain", default=False)


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PooledBatchNorm(nn.BatchNorm2d):
    """Batch normalisation that also trains on a batch of one value a channel, as pooling gives.

    A single value has no variance: then the running statistics normalise it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.training and x[:, 0].numel() == 1:
            statistics = self.running_mean, self.running_var
            return F.batch_norm(x, *statistics, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def make_norm(norm: Norm, channels: int, pooled: bool = False) -> nn.Module:
    """Create a normalisation layer; ``group`` has gcd(channels, 16) channels per group.

    For ``pooled`` maps of a single pixel there is none that would leave 0: of single values.
    """
    if norm == "batch":
        return PooledBatchNorm(channels) if pooled else nn.BatchNorm2d(channels)
    size = math.gcd(channels, 16)
    if norm == "group" and not (pooled and size == 1):
        return nn.GroupNorm(channels // size, channels)
    if norm == "instance" and not pooled:
        return nn.InstanceNorm2d(channels, affine=True)
    if norm == "layer":
        return ChannelLayerNorm(channels)
    return nn.Identity()


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, ReLU. ``padding="valid"`` shrinks a map by kernel_size - 1.

    ``pooled`` is for maps of a single pixel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        norm: Norm = "batch",
        padding: Padding = "same",
        dilation: int = 1,
        pooled: bool = False,
    ) -> None:
        layer = make_norm(norm, out_channels, pooled)
        super().__init__(
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                padding=dilation * (kernel_size // 2) if padding == "same" else 0,
                dilation=dilation,
                bias=isinstance(layer, nn.Identity),  # a normalisation brings its own
            ),
            layer,
            nn.ReLU(inplace=True),
        )


class DoubleConv(nn.Sequential):
    """Two 3x3 convolution blocks, the unit of the U-Net (Ronneberger et al. 2015, section 2)."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm, padding: Padding) -> None:
        super().__init__(
            ConvBlock(in_channels, out_channels, 3, norm, padding),
            ConvBlock(out_channels, out_channels, 3, norm, padding),
        )


class Upsample(nn.Module):
    """Upsampling by a whole factor: (B, in, H, W) -> (B, out, factor * H, factor * W).

    ``nearest`` and ``bilinear`` have no parameters and keep the channels. ``deconv`` is a
    transposed convolution to ``out_channels`` whose kernel equals its stride, as in the 2015 U-Net.

    Attributes:
        out_channels: Channels of the result.
    """

    def __init__(
        self, in_channels: int, factor: int, mode: UpsampleMode, out_channels: int | None = None
    ) -> None:
        super().__init__()
        self.factor, self.mode = factor, mode
        self.out_channels = in_channels
        if mode == "deconv":
            self.out_channels = out_channels or in_channels
            self.deconv = nn.ConvTranspose2d(in_channels, self.out_channels, factor, stride=factor)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample; the dtype stays."""
        if self.mode == "deconv":
            return self.deconv(x)
        if self.mode == "nearest":
            return F.interpolate(x, scale_factor=float(self.factor), mode="nearest")
        return F.interpolate(
            x, scale_factor=float(self.factor), mode="bilinear", align_corners=False
        )


@contextmanager
def plain_joins() -> Iterator[None]:
    """Inside, every JoinBlock upsamples and concatenates, as the architecture defines it."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


class JoinBlock(ConvBlock):
    """Upsample a map, concatenate a skip, convolve 3x3, normalise, ReLU.

    There is a fast path, equal up to rounding. A 3x3 convolution of a map that nearest
    interpolation has doubled reads each pixel several times. It equals a transposed convolution of
    the small map with stride 2, whose 4x4 kernel is a linear function of the 3x3 one: 4/9 of the
    multiplications, and no upsampled map in memory. The skip is convolved separately and added, so
    nothing is concatenated.

    The parameters are those of the plain convolution; in training the 4x4 kernel is computed from
    them in each step. The fast path is taken on the CPU, in eager mode, without autocast, for
    nearest upsampling by 2 of at least WORTH_A_KERNEL pixels. Exported and compiled networks
    contain the plain convolution.

    Args:
        in_channels: Channels of the upsampled map.
        skip_channels: Channels of the skip; 0 for none.
        out_channels: Channels of the result.
        up: The upsampling; its parameters are not part of the block.
        norm: The normalisation.
        padding: "valid" shrinks the map by two pixels.
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
        self._kept: tuple[Tensor, Tensor] | None = None

    def forward(  # type: ignore[override]  # a Sequential takes one map
        self,
        x: Tensor,
        up: Upsample,
        skip: Tensor | None = None,
        attend: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """(B, in_channels, h, w) and the skip (B, skip_channels, H, W) -> (B, out, f h, f w).

        ``up`` upsamples by a factor f; the skip is cropped about its centre. ``attend`` is applied
        to both together, before the convolution.
        """
        convolve, norm, activation = self
        if skip is not None:
            skip = crop_to(skip, (x.shape[-2] * up.factor, x.shape[-1] * up.factor))
        if attend is None and self.takes_fast_path(x):
            return activation(norm(self._join(x, skip)))
        x = up(x)  # (B, in_channels, f h, f w)
        joined = x if skip is None else torch.cat([skip, x], dim=1)
        return activation(norm(convolve(joined if attend is None else attend(joined))))

    def takes_fast_path(self, x: Tensor) -> bool:
        """Whether a map (B, in_channels, h, w) is joined without upsampling it."""
        # First of all: a condition on sizes would become part of an exported program, and torch
        # 2.11 cannot compile what reads a context variable.
        if torch.compiler.is_compiling() or _plain.get():
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

    def keep_kernels(self) -> None:
        """Compute the kernels of the fast path, if it can be taken, for weights that are final."""
        if not self.doubles or self.convolution.weight.device.type != "cpu":
            return
        own, upsampled = self._make_kernels()
        last = torch.channels_last
        self._kept = own.contiguous(memory_format=last), upsampled.contiguous(memory_format=last)

    def _make_kernels(self) -> tuple[Tensor, Tensor]:
        """(out, skip, 3, 3) for the skip, and (in, out, 4, 4) for the map before upsampling."""
        weight = self.convolution.weight
        w = weight[:, self.skip_channels :].permute(1, 2, 3, 0)  # (in, 3, 3, out)
        # Rows 2i and 2i + 1 of the output see w0 x[i-1] + (w1 + w2) x[i] and (w0 + w1) x[i] +
        # w2 x[i+1]; these are the taps of a transposed convolution, in reverse order.
        for axis in (1, 2):
            first, middle, last = w.unbind(axis)
            w = torch.stack((last, middle + last, first + middle, first), axis)
        return weight[:, : self.skip_channels], w.permute(0, 3, 1, 2)

    def _join(self, x: Tensor, skip: Tensor | None) -> Tensor:
        own, upsampled = self._kept or self._make_kernels()
        bias, padding = self.convolution.bias, int(self.convolution.padding[0])
        joined = F.conv_transpose2d(
            x, upsampled, bias, stride=2, padding=2 - padding
        )  # (B, out, H, W)
        return joined if skip is None else joined.add_(F.conv2d(skip, own, padding=padding))


def init_he(module: nn.Module) -> None:
    """Draw normal weights of deviation sqrt(2 / N) for N incoming connections (He et al. 2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            # An output of a transposed convolution sees one input pixel in each stride that its
            # kernel covers: one if both are equal. PyTorch would count them all.
            fan_in = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
            if isinstance(layer, nn.ConvTranspose2d):
                fan_in //= math.prod(layer.stride)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def crop_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Crop x (B, C, H, W) about its centre to (B, C, *size)."""
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]
