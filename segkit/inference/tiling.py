"""Logits of images of any size: at once, or in overlapping tiles (the overlap-tile strategy)."""

from __future__ import annotations

import torch
from torch import Tensor

from segkit.models.segmenter import Segmenter
from segkit.models.sizes import valid_input, valid_output

WHOLE_PIXELS = 2048 * 2048
"""Images up to this size go through the network at once."""
TILE = 1024
"""Side of a tile of larger images."""
OVERLAP = 0.25
"""Share of a tile that it has in common with the next."""


def whole_logits(
    model: Segmenter, images: Tensor, tile: int | None = None, overlap: float = OVERLAP
) -> Tensor:
    """Logits (B, num_logits, H, W), float32, of images (B, C, H, W) of any size.

    Tiles overlap; where they do, the logits are averaged with the weight of a Gaussian around the
    middle of each tile (Isensee et al. 2021, nnU-Net). An unpadded network sees the true
    surroundings of each tile, and mirrored ones at the image's border (Ronneberger et al. 2015,
    figure 2).

    Args:
        model: The network.
        images: Normalised images, on the network's device.
        tile: Side of the tiles in pixels; None: the whole image if it is small enough, else 1024.
        overlap: Share of a tile that it has in common with the next, 0 to below 1.
    """
    height, width = images.shape[-2:]
    window, context = _geometry(model, height, width, tile)
    if window[0] >= height and window[1] >= width and not context:
        return model(images).float()

    tops, lefts = (
        starts(size, side, overlap) for size, side in zip((height, width), window, strict=True)
    )
    weight = _bump(window, images.device)
    total = images.new_zeros(len(images), model.head.num_logits, height, width, dtype=torch.float32)
    weights = images.new_zeros(height, width, dtype=torch.float32)
    for top in tops:
        rows = mirrored(top - context, top + window[0] + context, height, images.device)
        for left in lefts:
            columns = mirrored(left - context, left + window[1] + context, width, images.device)
            part = images[..., rows, :][..., columns]  # (B, C, window + 2 context, ...)
            logits = model(part).float()  # (B, num_logits, window)
            inside = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            h, w = weights[inside].shape
            total[inside] += (logits * weight)[..., :h, :w]
            weights[inside] += weight[:h, :w]
    return total / weights


def starts(size: int, tile: int, overlap: float) -> list[int]:
    """First pixels of tiles that cover ``size`` pixels evenly, the last one flush with the end.

    Example:
        >>> starts(100, 40, 0.25)
        [0, 30, 60]
    """
    if tile >= size:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(size - tile) // step) + 1
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def mirrored(first: int, end: int, size: int, device: torch.device | None = None) -> Tensor:
    """Indices first ... end - 1 with those outside 0 ... size - 1 mirrored back in, any distance.

    Example:
        >>> mirrored(-2, 5, 3).tolist()
        [1, 0, 0, 1, 2, 2, 1]
    """
    index = torch.arange(first, end, device=device) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)


def _geometry(
    model: Segmenter, height: int, width: int, tile: int | None
) -> tuple[tuple[int, int], int]:
    """The pixels that one pass decides, and those around them that it must see."""
    encoder = model.encoder
    if encoder.padding == "valid":
        depth = len(encoder.strides)
        side = valid_input(min(tile or max(height, width), TILE, max(height, width)), depth)
        output = valid_output(side, depth)
        assert output is not None
        return (output, output), (side - output) // 2
    if encoder.fixed_size is not None:
        return encoder.fixed_size, 0
    if tile is None and height * width <= WHOLE_PIXELS:
        return (height, width), 0
    return (min(tile or TILE, height), min(tile or TILE, width)), 0


def _bump(window: tuple[int, int], device: torch.device) -> Tensor:
    """A Gaussian over a tile, (h, w), with a standard deviation of an eighth of its side."""
    profiles = []
    for side in window:
        x = torch.arange(side, device=device, dtype=torch.float32) - (side - 1) / 2
        profiles.append(torch.exp(-0.5 * (x / (side / 8)) ** 2).clamp(min=1e-3))
    return profiles[0][:, None] * profiles[1][None, :]
