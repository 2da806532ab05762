"""Check targets and split them into the truth and the pixels that count, for losses and metrics."""

from __future__ import annotations

import torch
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode


def check_target(target: Tensor, mode: Mode, shape: torch.Size) -> None:
    """Raise SegkitError unless a target has an integer dtype and fits logits (B, C, H, W).

    Its shape is (B, H, W), or for multilabel also (B, C, H, W). Values are not checked.
    """
    if target.is_floating_point() or target.is_complex():
        raise SegkitError(
            f"the target is {target.dtype}, but class labels are integers: convert it with"
            " target.long()."
        )
    B, C, H, W = shape
    if tuple(target.shape) == (B, H, W) or (mode == "multilabel" and target.shape == shape):
        return
    wanted = f"{(B, H, W)}" + (f" or {(B, C, H, W)}" if mode == "multilabel" else "")
    remedy = (
        " Remove its channel with target.squeeze(1)."
        if tuple(target.shape) == (B, 1, H, W)
        else " Give one integer label per pixel, at the size of the image."
    )
    raise SegkitError(
        f"the target has the shape {tuple(target.shape)}; mode '{mode}' with {C} channel(s) needs"
        f" {wanted}.{remedy}"
    )


def split_target(
    target: Tensor, mode: Mode, channels: int, ignore_index: int, check_values: bool
) -> tuple[Tensor, Tensor]:
    """Split a target that :func:`check_target` accepted into the truth and the pixels that count.

    Returns:
        The truth and the mask of what counts, same shape. Multiclass: int64 labels and bool,
        (B, H, W). Binary and multilabel: both bool, (B, C, H, W). Where the mask is False, the
        truth is a valid label (class 0 or False) without meaning.

    Raises:
        SegkitError: A label is invalid; only with ``check_values``, which waits for the device.
    """
    per_channel = target.ndim == 4
    classes = 2 if mode == "binary" or per_channel else channels
    target = target.long()  # first of all: torch cannot compare every unsigned dtype
    valid = target != ignore_index
    if check_values:
        require_classes(
            "the target", target, valid, classes, f" or the ignore_index {ignore_index}"
        )
    if mode == "binary" or per_channel:
        truth = (target == 1) & valid
        return (truth, valid) if per_channel else (truth.unsqueeze(1), valid.unsqueeze(1))
    target = torch.where(valid, target, 0)
    if mode == "multiclass":
        return target, valid  # (B, H, W)
    truth = encode_one_hot(target, channels)  # (B, C, H, W)
    return truth, valid.unsqueeze(1).expand_as(truth)  # (B, C, H, W)


def encode_one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (B, H, W) as one bool channel per class (B, C, H, W)."""
    # by comparison: torch's one_hot takes 8 bytes per entry, and scatters
    numbers = torch.arange(classes, device=labels.device).view(1, -1, 1, 1)
    return labels.unsqueeze(1) == numbers


def require_classes(
    what: str, labels: Tensor, valid: Tensor, classes: int, besides: str = ""
) -> None:
    """Raise SegkitError if a label that counts is not one of 0 ... classes - 1."""
    if not labels.numel():
        return
    low, high = torch.stack(torch.where(valid, labels, 0).aminmax()).tolist()  # waits once
    if low < 0 or high >= classes:
        wrong = valid & ((labels < 0) | (labels >= classes))
        values = torch.unique(labels[wrong]).tolist()
        shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        raise SegkitError(
            f"{what} contains the label(s) {shown}, but the {classes} classes are 0 to"
            f" {classes - 1}{besides}. Map the labels to the classes, or raise the number of"
            " classes."
        )
