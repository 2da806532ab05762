"""Sums over the regions of the classes, for the losses that measure overlap."""

from __future__ import annotations

import torch
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.losses.base import average_valid, make_weights, require_count
from segkit.losses.labels import encode_one_hot


def split_regions(
    logits: Tensor, truth: Tensor, valid: Tensor, mode: Mode
) -> tuple[Tensor, Tensor, Tensor]:
    """Split the inputs of :meth:`Loss.compute` into one region per class.

    Returns:
        The probabilities p, the truth (bool) and what counts (bool), each (B, C, H, W); p is 0 and
        the truth False where nothing counts.
    """
    if mode == "multiclass":
        p = logits.softmax(1)  # (B, C, H, W)
        truth, valid = encode_one_hot(truth, logits.shape[1]), valid.unsqueeze(1)
    else:
        p = logits.sigmoid()  # (B, C, H, W)
    valid = valid.expand_as(p)  # (B, C, H, W)
    return torch.where(valid, p, 0), truth & valid, valid


def choose_dims(per_image: bool) -> tuple[int, ...]:
    """The dimensions of (B, C, H, W) that the sums of a region run over."""
    return (2, 3) if per_image else (0, 2, 3)


def average_regions(losses: Tensor, counted: Tensor, class_weights: Tensor | None) -> Tensor:
    """The weighted mean of losses (C,) or (B, C) over those that count, 0 if none does."""
    if class_weights is None:
        return average_valid(losses, counted)
    require_count("class_weights", class_weights, losses.shape[-1], "class")
    weights = class_weights.to(losses).expand_as(losses)  # the module may be in half precision
    return average_valid(losses * weights, counted, weights)


def weigh_regions(mode: Mode, class_weights: list[float] | None) -> Tensor | None:
    """The class weights for :func:`average_regions`, (C,) or None, checked."""
    if class_weights is None:
        return None
    if mode == "binary":
        raise SegkitError(
            f"class_weights is {class_weights}, but mode 'binary' has one class, the foreground,"
            " and nothing to weigh it against. Remove the option."
        )
    return make_weights("class_weights", class_weights)
