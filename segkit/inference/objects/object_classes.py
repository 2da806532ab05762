"""The classes of predicted objects."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.config.schema import Data
from segkit.data.sources.base import DataSource


class ObjectClass(NamedTuple):
    """A class of objects and its RGB colour."""

    name: str
    color: tuple[int, int, int]


def list_object_classes(card: ModelCard) -> list[ObjectClass]:
    """List the classes that objects can have, in the order of their labels.

    A model trained on object ids has a single class, which the data name: its labels (core and
    border, or the levels of a distance) are not classes of objects.
    """
    first = 0 if card.mode == "multilabel" else 1  # background has no objects
    if card.build_target().from_ids:
        return [ObjectClass(_find_object_name(card), card.class_colors[first])]
    named = zip(card.class_names, card.class_colors, strict=True)
    return [ObjectClass(name, color) for name, color in named][first:]


def classify_objects(
    instances: NDArray[np.int32], labels: NDArray[Any], card: ModelCard
) -> NDArray[np.intp]:
    """Give each object the class of most of its pixels.

    Args:
        instances: Object ids (H, W), 0 the background.
        labels: (H, W), for overlapping classes (N, H, W) of 0 and 1.
        card: The model's card.

    Returns:
        For each id from 0 to the largest, an index into :func:`list_object_classes`.
    """
    count = int(instances.max(initial=0)) + 1
    if card.build_target().from_ids:
        return np.zeros(count, np.intp)
    if labels.ndim == 3:
        layers = [layer > 0 for layer in labels]
    else:
        layers = [labels == label for label in range(1, card.num_classes)]
    votes = [np.bincount(instances[layer], minlength=count) for layer in layers]
    return np.argmax(votes, axis=0)


def _find_object_name(card: ModelCard) -> str:
    """The name that the data give to the objects in their id maps."""
    if card.build_target().class_names is None:  # the labels are those of the data
        return card.class_names[1]
    data = card.config.get("data")
    if not isinstance(data, dict):
        return "object"
    names = data.get("class_names") or _find_source_names(json.dumps(data, default=str))
    return str(names[1]) if names and len(names) == 2 else "object"


@lru_cache
def _find_source_names(data: str) -> tuple[str, ...] | None:
    """The class names of a data source, from its config in JSON, if the source knows them.

    It may read its files for that.
    """
    try:
        given = Data.model_validate(json.loads(data))
        return DataSource.build(given.name, mode="binary", **given.options).class_names
    except Exception:  # an old config, a missing plugin or file: this is only a name
        return None
