"""Intensities as input of the network, on its device: there they travel in their own type."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from segkit.checkpoint.values import Normalization


def standardize(unit: Tensor, normalization: Normalization) -> Tensor:
    """The network's input, (B, C, H, W) float32, from what :meth:`Normalization.to_unit` returns.

    The result equals that of :meth:`Normalization.standardize` bit for bit.
    """
    mean, std = _mean_and_std(normalization, unit.device)
    image = unit.to(torch.float32, copy=True)
    if unit.dtype == torch.uint8:
        image *= float(np.float32(1 / 255))
    return image.sub_(mean).div_(std)


# cached, because a copy to a GPU would wait for all its pending work
@lru_cache(maxsize=8)
def _mean_and_std(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Each (C, 1, 1)."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
        for values in (normalization.mean, normalization.std)
    )
    return mean, std
