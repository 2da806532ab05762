"""Weights of classes, which are an option of a loss, and of pixels, which come with the target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode


def weight_tensor(option: str, values: list[float]) -> Tensor:
    """Weights as a float32 tensor (N,).

    Args:
        option: The option that holds them, for the message.
        values: One weight per class.

    Raises:
        SegkitError: A weight is negative or not finite, or none is above zero.
    """
    if not all(math.isfinite(v) and v >= 0 for v in values) or not any(values):
        raise SegkitError(
            f"{option} is {values}: give weights of zero or more, at least one of them above zero."
        )
    return torch.tensor(values, dtype=torch.float32)


def require_count(option: str, weights: Tensor, expected: int, whose: str) -> None:
    """Raise SegkitError unless there are as many weights as expected.

    Args:
        option: The option that holds them, for the message.
        weights: (N,).
        expected: The N that is needed.
        whose: What each weight belongs to, for the message.
    """
    if weights.numel() != expected:
        raise SegkitError(
            f"{option} has {weights.numel()} weight(s), but {expected} are needed: one per {whose}."
        )


def region_weights(mode: Mode, class_weights: list[float] | None) -> Tensor | None:
    """The class weights of a loss that is a mean over the regions of the classes, (C,) or None.

    Args:
        mode: What the C channels mean.
        class_weights: The option as the user gave it.

    Raises:
        SegkitError: A weight is out of range, or the mode is binary, which has one region.
    """
    if class_weights is None:
        return None
    if mode == "binary":
        raise SegkitError(
            f"class_weights is {class_weights}, but mode 'binary' has one class, the foreground,"
            " and nothing to weigh it against. Remove the option."
        )
    return weight_tensor("class_weights", class_weights)


def check_pixel_weights(weight: Tensor, shape: torch.Size) -> None:
    """Check the shape and the dtype of a weight map, not its values.

    Args:
        weight: The map as the caller gave it.
        shape: The (B, C, H, W) of the logits that it is to go with.

    Raises:
        SegkitError: The shape is not (B, H, W), or the dtype is no float.
    """
    B, _, H, W = shape
    if tuple(weight.shape) != (B, H, W):
        raise SegkitError(
            f"the weight map has the shape {tuple(weight.shape)}, but {(B, H, W)} is needed: one"
            " weight per pixel, for all channels."
        )
    if not weight.is_floating_point():
        raise SegkitError(
            f"the weight map holds {weight.dtype} values, but weights are float: convert it with"
            " weight.float()."
        )


def require_pixel_weights(weight: Tensor, counted: Tensor) -> None:
    """Raise SegkitError unless the weights that count are finite and 0 or more.

    Args:
        weight: Weights of any shape.
        counted: Which of them count, bool, of the same shape.
    """
    wrong = counted & ~(weight.isfinite() & (weight >= 0))
    if wrong.any():
        raise SegkitError(
            f"the weight map holds {weight[wrong][0].item()}: weights are finite, and 0 or more."
            " Look at how the map is made."
        )
