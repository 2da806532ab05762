"""Queries: learned vectors, each of which finds one object or one class in an image.

Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation" (MaskFormer),
2021, and "Masked-attention Mask Transformer for Universal Image Segmentation" (Mask2Former), 2022.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Masks(NamedTuple):
    """What the queries have found, before it is drawn.

    Mask q of an image is ``pixels`` times ``masks[q]``. It is linear in the pixels, so it is drawn
    only where it is needed: at another size, or at points.

    Attributes:
        classes: (B, Q, N + 1) logits of the N classes, and of there being nothing.
        masks: (B, Q, D).
        pixels: (B, D, h, w), of the padded image.
        stride: Stride of the pixels.
        size: Height and width of the image without its padding.
    """

    classes: Tensor
    masks: Tensor
    pixels: Tensor
    stride: int
    size: tuple[int, int]

    def draw(self, times: int = 1) -> Tensor:
        """Logits of the masks, (B, Q, h / times, w / times), averaged over squares of pixels."""
        pixels = pool(self.pixels, times)
        return (self.masks @ pixels.flatten(2)).view(*self.masks.shape[:2], *pixels.shape[-2:])

    def sample(self, points: Tensor) -> Tensor:
        """The pixels at points of the image, (B, K, 2) from 0 to 1 as x and y: (B, D, K).

        They are interpolated between the centres, and so are masks, which are linear in them.
        """
        height, width = self.size
        padded = [side * self.stride for side in (self.pixels.shape[-1], self.pixels.shape[-2])]
        shares = self.pixels.new_tensor([width / padded[0], height / padded[1]])
        grid = 2 * points.unsqueeze(1).to(self.pixels) * shares - 1  # (B, 1, K, 2)
        found = F.grid_sample(self.pixels, grid, padding_mode="border", align_corners=False)
        return found.squeeze(2)


def pool(maps: Tensor, times: int) -> Tensor:
    """Average squares of pixels, (B, C, h, w) -> (B, C, h / times, w / times)."""
    return F.avg_pool2d(maps, times) if times > 1 else maps


def find_seen(masks: Tensor) -> Tensor:
    """Which pixels each query may look at, (B, Q, h w) bool: those of its mask, or all if none is.

    Args:
        masks: Logits (B, Q, h, w).
    """
    outside = masks.detach().flatten(2) < 0
    return ~(outside & ~outside.all(-1, keepdim=True))


class Attention(nn.Module):
    """Attention with several heads (Vaswani et al. 2017), whose masks may be those of queries."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.project = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
        """(B, Q, C) and twice (B, L, C) -> (B, Q, C); ``seen`` (B, Q, L): what each may look at."""
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )  # (B, heads, Q or L, C / heads)
        mask = None if seen is None else seen.unsqueeze(1)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.project(found.transpose(1, 2).flatten(2))


class QueryLayer(nn.Module):
    """Masked attention to a map, attention among the queries, and an MLP (Cheng 2022, figure 2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.across, self.among = Attention(width, heads), Attention(width, heads)
        self.mlp = make_mlp(width, 8 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(
        self, x: Tensor, place: Tensor, keys: Tensor, values: Tensor, seen: Tensor
    ) -> Tensor:
        """Queries (B, Q, C), their positions (Q, C), a map (B, L, C) -> (B, Q, C)."""
        x = self.norms[0](x + self.across(x + place, keys, values, seen))
        x = self.norms[1](x + self.among(x + place, x + place, x, None))
        return self.norms[2](x + self.mlp(x))


class EncoderLayer(nn.Module):
    """Attention among the pixels of maps and an MLP, with the norm behind (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.among = Attention(width, heads)
        self.mlp = make_mlp(width, 4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """(B, L, C), and the positions (L, C) -> (B, L, C)."""
        x = self.norms[0](x + self.among(x + place, x + place, x, None))
        return self.norms[1](x + self.mlp(x))


def make_mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def list_tokens(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C)."""
    return maps.flatten(2).transpose(1, 2)


def make_positions(maps: Tensor) -> Tensor:
    """Sines and cosines of the positions of the pixels, (h w, C) (Carion et al. 2020, "DETR").

    C is a multiple of 4: half of it for the rows, half for the columns, which end at 2 pi.
    """
    channels, height, width = maps.shape[1:]
    steps = torch.arange(channels // 4, device=maps.device, dtype=torch.float32)
    rates = 10000 ** (-steps * 4 / channels)  # (C / 4,)
    sides = []
    for size in (height, width):
        along = torch.arange(1, size + 1, device=maps.device, dtype=torch.float32) / size
        angles = 2 * torch.pi * along[:, None] * rates  # (size, C / 4)
        sides.append(torch.cat([angles.sin(), angles.cos()], 1))
    rows = sides[0][:, None].expand(-1, width, -1)
    columns = sides[1][None].expand(height, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1).to(maps.dtype)
