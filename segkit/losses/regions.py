"""Sums over the regions of the classes, for the losses that measure overlap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.losses.base import ClassWeights, average_valid, make_weights, require_count
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


def sum_regions(
    logits: Tensor, truth: Tensor, valid: Tensor, mode: Mode, per_image: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the errors |p - t|, the predictions p and the truth t over each region.

    Args:
        logits, truth, valid: Inputs of :meth:`Loss.compute`.
        mode: Their mode.
        per_image: Whether each image has its own sums.

    Returns:
        Each (C,), or (B, C) with ``per_image``, float32.
    """
    p, t, _ = split_regions(logits, truth, valid, mode)
    sums: tuple[Tensor, Tensor, Tensor] = _SumRegions.apply(p, t, choose_dims(per_image))
    return sums


class _SumRegions(torch.autograd.Function):
    """The three sums with one pass over the maps for their gradient; autograd takes six."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, t: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, ...]:
        real = torch.empty_like(p).copy_(t)  # mixed types are slow on a CPU, mixed layouts on a GPU
        ctx.save_for_backward(real)
        ctx.is_per_image = 0 not in dims
        # errors of pixels, not differences of sums, in which small ones would be lost
        return (p - real).abs_().sum(dims), p.sum(dims), real.sum(dims)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (t,) = ctx.saved_tensors
        of_errors, of_predicted, _ = gradients
        shape = (len(t) if ctx.is_per_image else 1, -1, 1, 1)
        wrong = (of_predicted + of_errors).view(shape)  # where t is 0; else predicted - errors
        return torch.addcmul(wrong, t, of_errors.view(shape), value=-2), None, None


def choose_dims(per_image: bool) -> tuple[int, ...]:
    """The dimensions of (B, C, H, W) that the sums of a region run over."""
    return (2, 3) if per_image else (0, 2, 3)


def average_regions(losses: Tensor, counted: Tensor | None, class_weights: Tensor | None) -> Tensor:
    """The weighted mean of losses (C,) or (B, C) over those that count, 0 if none does.

    ``counted`` is None if all of them count.
    """
    if class_weights is None:
        return losses.mean() if counted is None else average_valid(losses, counted)
    require_count("class_weights", class_weights, losses.shape[-1], "class")
    weights = class_weights.to(losses).expand_as(losses)  # the module may be in half precision
    if counted is None:
        return (losses * weights).sum() / weights.sum()
    return average_valid(losses * weights, counted, weights)


def weigh_regions(mode: Mode, class_weights: ClassWeights) -> Tensor | None:
    """The class weights for :func:`average_regions`, (C,) or None, checked."""
    if class_weights is None:
        return None
    if mode == "binary":
        raise SegkitError(
            "class_weights is given, but mode 'binary' has one class, the foreground, and nothing"
            " to weigh it against. Remove the option."
        )
    return make_weights("class_weights", class_weights)
