"""Classes that a training adds to those of the checkpoint that it starts with."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf, open_dict

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.reading import KEY, read_raw
from segkit.core.errors import SegkitError
from segkit.core.published import fetch

ADDED = "+"
"""The value of ``head.num_classes`` that asks for the classes of ``init`` and more."""


def add_classes(config: DictConfig) -> DictConfig:
    """Name all classes where ``head.num_classes=+``: those of the checkpoint, then the new ones.

    The numbers in masks are those of this order; ``data.label_map`` translates others.

    Raises:
        SegkitError: There is no checkpoint, or no name of a new class.
    """
    if OmegaConf.select(config, "head.num_classes") != ADDED:
        return config
    if config.get("init") is None:
        raise SegkitError(
            "head.num_classes=+ adds classes to those of a checkpoint: give init=CKPT, or a number."
        )
    if "class_names" not in config.data:
        raise SegkitError(
            f"head.num_classes=+ needs data.class_names, and data={config.data.name} names its"
            " classes itself: leave head.num_classes out, then those of the same name are kept."
        )
    old = list(ModelCard.from_dict(read_raw(fetch(config.init))[KEY]).class_names)
    given = list(config.data.class_names or ())
    new = given[len(old) :] if given[: len(old)] == old else given
    if not new or set(new) & set(old):
        raise SegkitError(
            f"head.num_classes=+ with data.class_names={given or None}: give only the names of new"
            f" classes. The checkpoint has {', '.join(old)}; they keep their numbers from 0 to"
            f" {len(old) - 1}, the new ones have those from {len(old)} on. data.label_map"
            f" translates other values of masks, as in data.label_map={{1: {len(old)}}}."
        )
    config = config.copy()
    with open_dict(config):
        config.data.class_names, config.head.num_classes = [*old, *new], len(old) + len(new)
    return config
