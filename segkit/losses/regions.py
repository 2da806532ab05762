"""Sums over the regions of the classes, for the losses that measure overlap."""

from __future__ import annotations

from typing import Any

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


def count_softly(
    logits: Tensor, truth: Tensor, valid: Tensor, mode: Mode, per_image: bool
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Count true positives, false positives and false negatives of each class.

    With the probabilities p and the truth t of the pixels that count::

        TP = sum p t,  FP = sum p (1 - t),  FN = sum (1 - p) t

    Returns:
        TP, FP and FN, and whether any pixel counts (bool); each (C,), or (B, C) with ``per_image``.
    """
    # compilers fuse the plain form into as few passes themselves
    if mode == "multiclass" and logits.device.type == "cpu" and not torch.compiler.is_compiling():
        tp, fp, fn = _CountsOfLabels.apply(logits.softmax(1), truth, valid)  # (B, C)
        counted = valid.flatten(1).any(1, keepdim=True).expand_as(tp)  # (B, C)
    else:
        p, t, valid = split_regions(logits, truth, valid, mode)
        tp, fp = torch.where(t, p, 0).sum((2, 3)), torch.where(t, 0, p).sum((2, 3))
        fn, counted = torch.where(t, 1 - p, 0).sum((2, 3)), valid.any(-1).any(-1)
    if per_image:
        return (tp, fp, fn), counted
    return (tp.sum(0), fp.sum(0), fn.sum(0)), counted.any(0)


class _CountsOfLabels(torch.autograd.Function):
    """The counts of a label map, without a map of the truth for each class.

    They are linear in p: its gradient is one number where the class is the true one of a pixel, and
    another elsewhere. Three times as fast as the plain sums, see benchmarks/results/speed.md.
    """

    @staticmethod
    def forward(p: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities (B, C, H, W), labels and mask (B, H, W) to TP, FP and FN (B, C)."""
        B, C = p.shape[:2]
        own = p.gather(1, labels.unsqueeze(1)).squeeze(1)  # (B, H, W)
        cells = _index_cells(labels, C)
        fp = p.new_zeros(B, C)
        for image, at, counts, total in zip(p, labels, valid, fp, strict=True):
            others = image.scatter(0, at.unsqueeze(0), 0)  # (C, H, W)
            total.copy_(others.masked_fill_(~counts, 0).sum((1, 2)))

        def sum_by_class(values: Tensor) -> Tensor:
            # added pixel by pixel: float32 would lose the last of many
            values = torch.where(valid, values, 0).double().flatten()
            return cells.flatten().bincount(values, B * C).view(B, C).to(p.dtype)

        return sum_by_class(own), fp, sum_by_class(1 - own)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the labels; the probabilities are not needed."""
        p, labels, valid = inputs
        ctx.save_for_backward(labels, valid)
        ctx.shape = p.shape

    @staticmethod
    def backward(ctx: Any, tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, None, None]:
        """The gradient with respect to p, (B, C, H, W)."""
        labels, valid = ctx.saved_tensors
        own = (tp - fn).flatten()[_index_cells(labels, tp.shape[1])]  # (B, H, W)
        gradient = fp[..., None, None].expand(ctx.shape).contiguous()
        gradient.scatter_(1, labels.unsqueeze(1), own.unsqueeze(1))
        return gradient.masked_fill_(~valid.unsqueeze(1), 0), None, None


def _index_cells(labels: Tensor, classes: int) -> Tensor:
    """The index of each pixel's image and class in a flattened (B, C) table, (B, H, W)."""
    return labels + classes * torch.arange(len(labels), device=labels.device).view(-1, 1, 1)


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
