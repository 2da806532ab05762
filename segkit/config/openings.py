"""The keys of a training's config that may be ``auto``, for the planner to choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segkit.config.compose import find_conf_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig

AUTO = "auto"

GROUPS = {"augment": "transforms", "loss": "name", "scheduler": "name"}
"""Groups where the planner chooses a whole preset, and the key that is then ``auto``."""

OPENINGS: dict[str, Any] = {
    "augment": "none",
    "data.crop_size": 256,
    "data.batch_size": 8,
    "data.val_batch_size": 1,
    "data.foreground_share": 0.0,
    "data.samples_per_epoch": None,
    "loss": "dice_ce",
    "trainer.max_epochs": None,
    "trainer.ema": None,
    "optimizer.lr": 0.001,
    "scheduler": "constant",
}
"""The keys that the planner fills in, and the values that stand in until it has chosen, so that
all other problems of a config are reported before the data are read."""


def find_open_keys(config: Mapping[Any, Any]) -> list[str]:
    """The keys of a config that are left to the planner."""
    return [key for key in OPENINGS if _get(config, key) == AUTO]


def fill_in(values: dict[str, Any], choices: Mapping[str, Any]) -> None:
    """Put the value of each chosen key into a config; for a group, the preset of that name."""
    for key, choice in choices.items():
        section, _, name = key.partition(".")
        if name:
            values[section][name] = choice
        elif GROUPS[section] == "name":
            values[section] = read_preset(section, choice)
        else:  # the rest of the group is not the planner's
            values[section] |= {GROUPS[section]: read_preset(section, choice)[GROUPS[section]]}


def fill_class_weights(
    loss: Mapping[str, Any], weights: list[float]
) -> tuple[dict[str, Any], list[str]]:
    """Put class weights where the options of a loss, or of the terms of a sum, leave them ``auto``.

    Returns:
        A copy of the options, and the keys that were filled in, such as
        ``terms.dice.class_weights``.
    """
    filled, keys = dict(loss), []
    for key, value in loss.items():
        if isinstance(value, Mapping):
            filled[key], inner = fill_class_weights(value, weights)
            keys += [f"{key}.{each}" for each in inner]
        elif key == "class_weights" and value == AUTO:
            filled[key] = list(weights)
            keys.append(key)
    return filled, keys


def take_choices(config: DictConfig, stored: DictConfig) -> DictConfig:
    """A copy of a config in which a run's stored config supplies what it has chosen itself."""
    from omegaconf import OmegaConf

    copy = config.copy()
    OmegaConf.set_struct(copy, False)
    for key in (*OPENINGS, "data.normalize"):
        if _get(config, key) == AUTO:
            OmegaConf.update(copy, key, OmegaConf.select(stored, key), merge=False)
    for key in ("data.val_names", "data.channel_files"):
        chosen = OmegaConf.select(stored, key)
        if chosen is not None and _get(config, key) is None:
            OmegaConf.update(copy, key, chosen, merge=False)
    for key in fill_class_weights(copy.loss, [])[1]:
        weights = OmegaConf.select(stored, f"loss.{key}")
        if weights is not None:  # else the run had another loss
            OmegaConf.update(copy, f"loss.{key}", weights, merge=False)
    return copy


def read_preset(group: str, name: str) -> dict[str, Any]:
    """The content of a preset of segkit."""
    from segkit.config.presets import load_preset

    return load_preset(find_conf_dir(), group, name)


def _get(config: Mapping[Any, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    found = config.get(section)
    return found.get(name or GROUPS[section]) if isinstance(found, Mapping) else None
