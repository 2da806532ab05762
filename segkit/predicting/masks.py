"""Predicted labels as the files and the pictures of the user know them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.card import ModelCard
from segkit.data.target import Target
from segkit.targets import Mode


def mask_values(labels: NDArray[Any], mode: Mode, card: ModelCard) -> NDArray[Any]:
    """Labels in the values of the training's masks, so that the one can stand for the other.

    Args:
        labels: (H, W), of overlapping classes (N, H, W) of 0 and 1.
        mode: That of the model.
        card: Its card.

    Returns:
        The same shape, uint8, or uint16 where a value needs it; overlapping classes are 0 and 255.
    """
    if mode == "multilabel":
        return labels * np.uint8(255)
    values = np.array(card.mask_values)
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)[labels]


def object_class(card: ModelCard) -> tuple[str, tuple[int, int, int]] | None:
    """Name and colour of what a model that was trained on ids of objects tells apart.

    Such a model has one kind of objects, whatever its classes: core and border are no classes of
    objects. None for models that were trained on classes.
    """
    options = {key: value for key, value in card.target.items() if key != "name"}
    target = Target.build(card.target["name"], **options)
    if not target.from_ids:
        return None
    first = 0 if card.mode == "multilabel" else 1
    own = target.class_names is None  # else they are of what is drawn of objects
    return (card.class_names[first] if own else "object"), card.class_colors[first]
