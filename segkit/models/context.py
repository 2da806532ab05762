"""Blocks that let each pixel see much of the image: pyramid pooling and dilated convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.models.conv import ConvBlock, Norm, make_norm


def pool_to_grid(x: Tensor, side: int) -> Tensor:
    """Average over ``side`` x ``side`` parts of a map: (B, C, H, W) -> (B, C, side, side).

    This is adaptive average pooling, as two matrix products: a network that is exported for images
    of any size cannot hold the operation itself.
    """
    if side == 1:
        return x.mean((2, 3), keepdim=True)
    rows, columns = (_make_bins(size, side, x) for size in x.shape[2:])
    return _lay_channels_last(rows @ x @ columns.T)


def _make_bins(size: int, side: int, like: Tensor) -> Tensor:
    """(side, size): the share of each of ``size`` pixels in each of ``side`` averages."""
    part = torch.arange(side, device=like.device)[:, None]
    pixel = torch.arange(size, device=like.device)
    overlap = ((pixel + 1) * side > part * size) & (pixel * side < (part + 1) * size)
    return (overlap / overlap.sum(dim=1, keepdim=True)).to(like.dtype)


def resize_like(x: Tensor, like: Tensor) -> Tensor:
    """Interpolate a map (B, C, h, w) bilinearly to (B, C, H, W) of another one's H and W."""
    x = _lay_channels_last(x)
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def _lay_channels_last(x: Tensor) -> Tensor:
    """Lay a small map out so that what is made of it fits to maps with the channels last.

    A map of 1 x 1 fits both layouts; by the strides of the other one torch would lay out whatever
    it is interpolated to and joined with. Joined with maps of that other layout, it is copied.
    """
    batch, channels, height, width = x.shape
    pixels = x.flatten(2).transpose(1, 2).contiguous()  # (B, h w, C)
    return pixels.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class PyramidPooling(nn.Module):
    """A map and its averages over grids of several sizes (Zhao et al. 2017, PSPNet, section 3.2).

    Args:
        in_channels: Channels of the map.
        width: Channels of each average.
        norm: Normalisation of the averages.
        sides: Sides of the grids, in parts.

    Attributes:
        out_channels: Channels of the result.
    """

    def __init__(
        self, in_channels: int, width: int, norm: Norm, sides: Sequence[int] = (1, 2, 3, 6)
    ) -> None:
        super().__init__()
        self.sides = tuple(sides)
        self.convs = nn.ModuleList(
            ConvBlock(in_channels, width, 1, norm, pooled=side == 1) for side in sides
        )
        self.out_channels = in_channels + width * len(self.sides)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W): the map, then the averages."""
        pooled = [
            resize_like(conv(pool_to_grid(x, side)), x)
            for side, conv in zip(self.sides, self.convs, strict=True)
        ]
        return torch.cat([x, *pooled], dim=1)


class SeparableConv(nn.Sequential):
    """A 3x3 convolution of each channel, a 1x1 convolution, normalisation, ReLU (Chollet 2017)."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm, dilation: int = 1) -> None:
        layer = make_norm(norm, out_channels)
        super().__init__(
            nn.Conv2d(
                in_channels,
                in_channels,
                3,
                padding=dilation,
                dilation=dilation,
                groups=in_channels,
                bias=False,
            ),
            nn.Conv2d(in_channels, out_channels, 1, bias=isinstance(layer, nn.Identity)),
            layer,
            nn.ReLU(inplace=True),
        )


class DilatedPyramid(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017, DeepLabv3, section 3.3).

    A 1x1 convolution, three dilated 3x3 convolutions and the average of the whole map, side by
    side, and a 1x1 convolution of them all.

    Args:
        in_channels: Channels of the map.
        width: Channels of each branch, and of the result.
        rates: Dilations of the 3x3 convolutions, in pixels of the map.
        norm: Normalisation after each convolution.
        dropout: Probability of dropping a value of the result in training.
        separable: Whether the dilated convolutions are depthwise separable (Chen et al. 2018).
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        rates: Sequence[int],
        norm: Norm,
        dropout: float,
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvBlock(in_channels, width, 1, norm)])
        for rate in rates:
            self.convs.append(
                SeparableConv(in_channels, width, norm, rate)
                if separable
                else ConvBlock(in_channels, width, 3, norm, dilation=rate)
            )
        self.average = ConvBlock(in_channels, width, 1, norm, pooled=True)
        self.project = ConvBlock((len(self.convs) + 1) * width, width, 1, norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, width, H, W)."""
        average = resize_like(self.average(pool_to_grid(x, 1)), x)
        return self.dropout(
            self.project(torch.cat([*(conv(x) for conv in self.convs), average], dim=1))
        )


def choose_rates(stride: int) -> tuple[int, int, int]:
    """The dilations of DeepLab on a map of a stride: 6, 12, 18 at 16, twice that at 8.

    Example:
        >>> choose_rates(16), choose_rates(8)
        ((6, 12, 18), (12, 24, 36))
    """
    first, second, third = (max(1, pixels // stride) for pixels in (96, 192, 288))
    return first, second, third
