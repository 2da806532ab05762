"""Queries that go through the last blocks of a plain transformer, beside the pixels.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model" (EoMT), 2025.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.models.queries import Masks, find_seen

POWER = 0.9
"""Exponent with which the masks of the attention fade (section 3.3)."""

Predict = Callable[[list[Tensor], Tensor], Masks]
"""Takes the map of the pixels and queries (B, Q, C)."""


def require_blocks(model: nn.Module, name: str, blocks: int) -> None:
    """Raise a SegkitError if the last blocks of a timm model cannot carry queries."""
    takes_masks = isinstance(model, VisionTransformer | Eva) and all(
        "attn_mask" in inspect.signature(block.forward).parameters for block in model.blocks
    )
    if not takes_masks:
        raise SegkitError(
            f"encoder.query_blocks={blocks}: queries go through the blocks of a plain transformer,"
            f" and '{name}' is none, or timm {_version()} has no masks for its attention. Choose"
            " one such as vit_small_patch14_dinov2, or leave query_blocks out."
        )
    count = len(model.blocks)  # type: ignore[arg-type]  # a ModuleList
    if blocks > count:
        raise SegkitError(
            f"encoder.query_blocks is {blocks}, but '{name}' has {count} blocks: give 1 to {count}."
        )


def carry_queries(
    model: Any, x: Tensor, queries: Tensor, blocks: int, progress: float, predict: Predict
) -> list[Masks]:
    """What queries have found before each of the last blocks, and after them.

    In training they look only where their masks are. That fades block by block, so that the
    finished network runs without masks, which need not be predicted before its end.

    Args:
        model: A VisionTransformer or Eva of timm.
        x: Images (B, C, H, W).
        queries: (Q, C).
        blocks: How many blocks carry the queries.
        progress: The share of the training that is done, 0 to 1.
        predict: See :data:`Predict`.
    """
    patches = model.patch_embed(x)  # (B, h, w, C), or (B, h w, C) of a model of one size
    height, width = patches.shape[1:3] if patches.ndim == 4 else model.patch_embed.grid_size
    tokens, rope = model._pos_embed(patches), None
    if isinstance(tokens, tuple):
        tokens, rope = tokens
    tokens = model.norm_pre(tokens)
    prefix = model.num_prefix_tokens
    first, count = len(model.blocks) - blocks, len(queries)
    found: list[Masks] = []

    def look() -> Masks:
        pixels = tokens[:, prefix + count :].transpose(1, 2).unflatten(2, (height, width))
        return predict([pixels], tokens[:, prefix : prefix + count])

    for number, block in enumerate(model.blocks):
        given: dict[str, Any] = {}
        if rope is not None:
            given["rope"] = rope[number] if getattr(model, "rope_mixed", False) else rope
        if number >= first:
            if number == first:
                learned = queries.to(tokens.dtype).expand(len(tokens), -1, -1)
                tokens = torch.cat([tokens[:, :prefix], learned, tokens[:, prefix:]], 1)
            if rope is not None:
                given["rope"] = _keep_queries(given["rope"], count)
            if model.training:
                found.append(look())
                share = find_share(number - first, blocks, progress)
                given["attn_mask"] = _mask_queries(found[-1], prefix, (height, width), share)
        tokens = block(tokens, **given)
    return [*found, look()]


def find_share(block: int, blocks: int, progress: float) -> float:
    """The share of the queries that are masked in a block, from 1 to 0.

    It fades in the first block first, each over an equal part of the training, and is 0 in all of
    them some time before its end.
    """
    done = progress * (blocks + 2) - (block + 1)
    return float((1 - min(max(done, 0.0), 1.0)) ** POWER)


def _mask_queries(found: Masks, prefix: int, grid: tuple[int, int], share: float) -> Tensor | None:
    """What each token may look at, (B, 1, L, L) bool; None: at all. Only queries are masked."""
    if share == 0:
        return None
    times = found.pixels.shape[-1] // grid[1]
    seen = find_seen(found.draw(times))  # (B, Q, h w)
    batch, count, pixels = seen.shape
    if share < 1:
        seen |= torch.rand(batch, count, 1, device=seen.device) >= share
    size = prefix + count + pixels
    mask = torch.ones(batch, 1, size, size, dtype=torch.bool, device=seen.device)
    mask[:, 0, prefix : prefix + count, prefix + count :] = seen
    return mask


def _keep_queries(rope: Tensor, count: int) -> Tensor:
    """Rotations (..., L, 2 D) of the pixels, sines before cosines, with none for the queries."""
    sines, cosines = rope[..., :1, :].chunk(2, -1)
    none = torch.cat([torch.zeros_like(sines), torch.ones_like(cosines)], -1)
    return torch.cat([none.expand(*rope.shape[:-2], count, -1), rope], -2)


def _version() -> str:
    import timm

    return str(timm.__version__)
