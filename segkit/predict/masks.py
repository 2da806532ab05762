"""Predicted labels as the values of masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.core.labels import Mode


def mask_values(labels: NDArray[Any], mode: Mode, card: ModelCard) -> NDArray[Any]:
    """Convert labels to the values of the training's masks, so that predictions can replace them.

    Returns:
        The shape of the labels, uint8, or uint16 if a value needs it; overlapping classes
        (N, H, W) are 0 and 255.
    """
    if mode == "multilabel":
        return labels * np.uint8(255)
    values = np.array(card.mask_values)
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)[labels]
