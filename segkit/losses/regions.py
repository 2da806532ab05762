"""Sums over the regions of the classes: what Dice, Jaccard, Tversky and their kin are made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.losses.base import masked_mean
from segkit.losses.targets import one_hot
from segkit.losses.weights import require_count


def regions(
    logits: Tensor, truth: Tensor, valid: Tensor, mode: Mode
) -> tuple[Tensor, Tensor, Tensor]:
    """The predicted and the true region of each class.

    Args:
        logits: (B, C, H, W).
        truth: As :meth:`Loss.compute` takes it.
        valid: Likewise.
        mode: What the C channels mean.

    Returns:
        The probabilities p, the truth (bool) and what counts (bool), each (B, C, H, W); p is 0 and
        the truth False where nothing counts.
    """
    if mode == "multiclass":
        p = logits.softmax(1)  # (B, C, H, W)
        truth, valid = one_hot(truth, logits.shape[1]), valid.unsqueeze(1)
    else:
        p = logits.sigmoid()  # (B, C, H, W)
    valid = valid.expand_as(p)  # (B, C, H, W)
    return torch.where(valid, p, 0), truth & valid, valid


def region_dims(per_image: bool) -> tuple[int, ...]:
    """The dimensions of (B, C, H, W) that the sums of a region run over."""
    return (2, 3) if per_image else (0, 2, 3)


class Counts(NamedTuple):
    """Pixels of each class, each (C,) or (B, C).

    Attributes:
        tp: Found and there.
        fp: Found where it is not.
        fn: There and not found.
    """

    tp: Tensor
    fp: Tensor
    fn: Tensor


def soft_counts(
    logits: Tensor, truth: Tensor, valid: Tensor, mode: Mode, per_image: bool
) -> tuple[Counts, Tensor]:
    """How much of each class is found, found where it is not, and missed.

    With the probabilities p and the truth t of the pixels that count::

        TP = sum p t,  FP = sum p (1 - t),  FN = sum (1 - p) t

    Args:
        logits: (B, C, H, W).
        truth: As :meth:`Loss.compute` takes it.
        valid: Likewise.
        mode: What the C channels mean.
        per_image: Whether each image has its own sums.

    Returns:
        The counts, and whether any pixel counts (bool); each (C,), or (B, C) with ``per_image``.
    """
    # A compiler joins the plain form into as few passes itself.
    if mode == "multiclass" and logits.device.type == "cpu" and not torch.compiler.is_compiling():
        tp, fp, fn = _CountsOfLabels.apply(logits.softmax(1), truth, valid)  # (B, C)
        counted = valid.flatten(1).any(1, keepdim=True).expand_as(tp)  # (B, C)
    else:
        p, t, valid = regions(logits, truth, valid, mode)
        tp, fp = torch.where(t, p, 0).sum((2, 3)), torch.where(t, 0, p).sum((2, 3))
        fn, counted = torch.where(t, 1 - p, 0).sum((2, 3)), valid.any(-1).any(-1)
    if per_image:
        return Counts(tp, fp, fn), counted
    return Counts(tp.sum(0), fp.sum(0), fn.sum(0)), counted.any(0)


class _CountsOfLabels(torch.autograd.Function):
    """The counts of a label map, without a map of the truth of each class.

    They are linear in p: the gradient is one number where the class is the pixel's own, and another
    elsewhere.
    """

    @staticmethod
    def forward(p: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) and labels and what counts, (B, H, W), to three times (B, C)."""
        B, C = p.shape[:2]
        own = p.gather(1, labels.unsqueeze(1)).squeeze(1)  # (B, H, W)
        cells = _cells(labels, C)
        fp = p.new_zeros(B, C)
        for image, at, counts, total in zip(p, labels, valid, fp, strict=True):
            others = image.scatter(0, at.unsqueeze(0), 0)  # (C, H, W)
            total.copy_(others.masked_fill_(~counts, 0).sum((1, 2)))

        def of_classes(values: Tensor) -> Tensor:
            # One pixel after the other: float32 would lose the last of many.
            values = torch.where(valid, values, 0).double().flatten()
            return cells.flatten().bincount(values, B * C).view(B, C).to(p.dtype)

        return of_classes(own), fp, of_classes(1 - own)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the labels; the probabilities are not needed."""
        p, labels, valid = inputs
        ctx.save_for_backward(labels, valid)
        ctx.shape = p.shape

    @staticmethod
    def backward(ctx: Any, tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of p, (B, C, H, W)."""
        labels, valid = ctx.saved_tensors
        own = (tp - fn).flatten()[_cells(labels, tp.shape[1])]  # (B, H, W)
        gradient = fp[..., None, None].expand(ctx.shape).contiguous()
        gradient.scatter_(1, labels.unsqueeze(1), own.unsqueeze(1))
        return gradient.masked_fill_(~valid.unsqueeze(1), 0), None, None


def _cells(labels: Tensor, classes: int) -> Tensor:
    """The place of each pixel's image and class in a flattened (B, C) table, (B, H, W)."""
    return labels + classes * torch.arange(len(labels), device=labels.device).view(-1, 1, 1)


def tversky_distance(counts: Counts, alpha: float, beta: float, smooth: float) -> Tensor:
    """One minus the Tversky index of each region, (C,) or (B, C).

    With s the ``smooth``::

        1 - (TP + s) / (TP + alpha FP + beta FN + s)
            = (alpha FP + beta FN) / (TP + alpha FP + beta FN + s)

    Args:
        counts: Those of :func:`soft_counts`.
        alpha: The weight of false positives.
        beta: The weight of false negatives.
        smooth: In pixels, above 0.
    """
    # The right-hand side: a difference of two numbers near 1 would lose the small losses.
    wrong = alpha * counts.fp + beta * counts.fn
    return wrong / (counts.tp + wrong + smooth)


def region_mean(losses: Tensor, counted: Tensor, class_weights: Tensor | None) -> Tensor:
    """The weighted mean over the classes (and images) that count, 0 where none does.

    Args:
        losses: (C,) or (B, C).
        counted: Which of them count, bool, of the same shape.
        class_weights: (C,), or None for equal ones.

    Raises:
        SegkitError: There are fewer or more weights than classes.
    """
    if class_weights is None:
        return masked_mean(losses, counted)
    require_count("class_weights", class_weights, losses.shape[-1], "class")
    weights = class_weights.to(losses).expand_as(losses)  # the module may be in half precision
    return masked_mean(losses * weights, counted, weights)


def require_positive(option: str, value: float, example: str) -> None:
    """Raise SegkitError unless an option is a finite number above 0."""
    if not 0 < value < float("inf"):
        raise SegkitError(f"{option} is {value}: give {example}.")
