"""The per-class weights that some losses take as an option."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segkit.errors import SegkitError


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
