"""Maps of objects: (H, W) ids, where 0 is the background and any other value one object.

Files contain ids of any size. Inside the program they are uint16, which every transform can warp,
and no object has the id 255: it stays 'not labelled', as in label maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX

MOST_OBJECTS = 2**16 - 3
"""The number of ids in uint16 besides the background, IGNORE_INDEX and GUESS."""

_TABLE = 2**20  # up to this value a table is faster than sorting


def number_objects(
    mask: NDArray[Any], label_map: Mapping[int, int] | None = None
) -> NDArray[np.uint16]:
    """Number the objects of a file 1, 2, ... without 255, in the order of their values.

    Args:
        mask: (H, W) integers or bool. Every value but 0 is one object, including 255, unless the
            map says otherwise; an object may be in several pieces.
        label_map: IGNORE_INDEX for values of unlabelled pixels, which become 255; 0 for values
            besides 0 that belong to no object.

    Example:
        >>> number_objects(np.array([[0, 7, 70000], [-1, 255, 7]]), {-1: 255})
        array([[  0,   1,   3],
               [255,   2,   1]], dtype=uint16)
    """
    if mask.ndim != 2 or mask.dtype.kind not in "biu":
        raise SegkitError(
            f"object ids are a map (H, W) of integers, not {mask.dtype} of the shape {mask.shape}:"
            " save one channel with an integer for each object."
        )
    if mask.size == 0:
        return np.zeros(mask.shape, np.uint16)
    mask = mask.astype(np.uint8) if mask.dtype == np.bool_ else mask
    small = mask.min() >= 0 and mask.max() < _TABLE
    values = np.flatnonzero(np.bincount(mask.ravel())) if small else np.unique(mask)
    known = [int(value) for value in values]
    labels = [(label_map or {}).get(value) for value in known]
    objects = values != 0
    objects[[label in (0, IGNORE_INDEX) for label in labels]] = False
    negative = min(values[objects], default=0)
    if negative < 0:
        raise SegkitError(
            f"the mask has the negative value {negative}, but object ids are above 0: say what it"
            f" means in the label_map of the data, {{{negative}: 255}} (not labelled) or"
            f" {{{negative}: 0}} (background)."
        )
    count = int(objects.sum())
    if count > MOST_OBJECTS:
        raise SegkitError(
            f"the mask has {count} objects, more than the {MOST_OBJECTS} that an image may have:"
            " cut it into smaller images, or check whether it really contains ids."
        )
    new = np.zeros(len(known), np.uint16)
    new[objects] = make_ids(count)
    new[[label == IGNORE_INDEX for label in labels]] = IGNORE_INDEX
    if small:
        table = np.zeros(known[-1] + 1, np.uint16)
        table[values] = new
        return table[mask]
    return new[np.searchsorted(values, mask)]


def make_ids(count: int) -> NDArray[np.uint16]:
    """That many ids: 1, 2, ... without 255."""
    ids = np.arange(1, count + 1)
    return (ids + (ids >= IGNORE_INDEX)).astype(np.uint16)


def label_regions(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Number the connected regions of every class but 0 from 1, class after class.

    From labels (H, W), 0 ... 255, to ids 1, 2, ... without gaps (255 is among them). Pixels that
    share an edge are connected, those that share a corner are not. IGNORE_INDEX is no region.
    """
    found = np.zeros(labels.shape, np.int32)
    total = 0
    for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=1)):
        if label in (0, IGNORE_INDEX):
            continue
        # int32 also for large numbers of regions
        count, regions = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)
        here = regions > 0
        found[here] = regions[here] + total
        total += count - 1
    return found


def number_regions(labels: NDArray[Any]) -> NDArray[np.uint16]:
    """Ids for labels (H, W): each connected region of a class but 0 is an object, 255 stays."""
    ids = number_objects(label_regions(labels))
    return np.where(labels == IGNORE_INDEX, IGNORE_INDEX, ids).astype(np.uint16)
