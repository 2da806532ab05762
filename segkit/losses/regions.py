"""Sums over the regions of the classes: what Dice, Jaccard, Tversky and their kin are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from segkit.errors import SegkitError
from segkit.losses.base import masked_mean
from segkit.losses.targets import one_hot
from segkit.losses.weights import require_count
from segkit.targets import Mode


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


def tversky_distance(
    p: Tensor, truth: Tensor, alpha: float, beta: float, smooth: float, dims: tuple[int, ...]
) -> Tensor:
    """One minus the Tversky index of each region, (C,) or (B, C).

    With the soft counts TP = sum p t, FP = sum p (1 - t) and FN = sum (1 - p) t, and s the
    ``smooth``::

        1 - (TP + s) / (TP + alpha FP + beta FN + s)
            = (alpha FP + beta FN) / (TP + alpha FP + beta FN + s)

    Args:
        p: Probabilities (B, C, H, W), 0 where nothing counts.
        truth: Bool, likewise.
        alpha: The weight of false positives.
        beta: The weight of false negatives.
        smooth: In pixels, above 0.
        dims: The dimensions to sum over.
    """
    tp = torch.where(truth, p, 0).sum(dims)
    fp = torch.where(truth, 0, p).sum(dims)
    fn = torch.where(truth, 1 - p, 0).sum(dims)
    # The right-hand side: a difference of two numbers near 1 would lose the small losses.
    wrong = alpha * fp + beta * fn
    return wrong / (tp + wrong + smooth)


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
