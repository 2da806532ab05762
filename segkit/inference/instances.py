"""Objects out of a label map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Decoder = Literal["components"]


def components(labels: NDArray[Any], min_size: int = 0) -> NDArray[np.int32]:
    """Connected regions of one class, each with an id of its own; the background (0) has none.

    Args:
        labels: (H, W) class of each pixel.
        min_size: Regions of fewer pixels are dropped.

    Returns:
        (H, W) ids 1, 2, ... without gaps.
    """
    found = np.zeros(labels.shape, np.int32)
    count = 0
    for label in np.unique(labels[labels > 0]):
        regions, number = ndimage.label(labels == label)  # touching by an edge, not by a corner
        found[regions > 0] = regions[regions > 0] + count
        count += number
    sizes = np.bincount(found.ravel(), minlength=count + 1)
    keep = sizes >= max(1, min_size)
    keep[0] = False
    new_ids = np.cumsum(keep) * keep
    return new_ids[found].astype(np.int32)


DECODERS: dict[str, Callable[[NDArray[Any], int], NDArray[np.int32]]] = {"components": components}
