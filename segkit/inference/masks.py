"""Predicted labels and object ids as files hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard


def make_mask(labels: NDArray[Any], card: ModelCard) -> NDArray[Any]:
    """Convert labels to the values of the training's masks, so that predictions can replace them.

    Returns:
        The shape of the labels, uint8, uint16 or int32 as the values need; overlapping classes
        (N, H, W) are 0 and 255. For values of colours see `segkit.core.labels.color_to_value`.
    """
    if card.mode == "multilabel":
        return labels * np.uint8(255)
    values = np.full(256, card.unlabelled_value, np.int32)
    values[: len(card.mask_values)] = card.mask_values
    return values.astype(np.min_scalar_type(values.max()))[labels]


def choose_suffix(values: NDArray[Any], colored: bool = False) -> str:
    """Choose PNG for colours and for values (H, W) of at most 16 bits, and TIFF for others."""
    fits = values.ndim == 2 and (colored or values.max() < 2**16)
    return ".png" if fits else ".tif"
