"""Predicted labels and object ids as files hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.core.labels import IGNORE_INDEX


def make_mask(labels: NDArray[Any], card: ModelCard) -> NDArray[Any]:
    """Convert labels to the values of the training's masks, so that predictions can replace them.

    Returns:
        The shape of the labels, uint8, or uint16 if a value needs it; overlapping classes
        (N, H, W) are 0 and 255.
    """
    if card.mode == "multilabel":
        return labels * np.uint8(255)
    values = np.full(256, IGNORE_INDEX)
    values[: len(card.mask_values)] = card.mask_values
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)[labels]


def choose_suffix(values: NDArray[Any]) -> str:
    """Choose PNG for values (H, W) of at most 16 bits, and TIFF for others."""
    return ".png" if values.ndim == 2 and values.max() < 2**16 else ".tif"
