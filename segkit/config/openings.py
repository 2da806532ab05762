"""What of a config is left to the planner: the keys that may be ``auto``, and which of them are."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from segkit.config.compose import conf_dir
from segkit.config.presets import load_preset

AUTO = "auto"

GROUPS = {"augment": "transforms", "loss": "name", "scheduler": "name"}
"""Groups of which the planner takes a whole preset, and the key in them that is ``auto`` then."""

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
"""The keys that the planner fills in, and what stands there while nothing is chosen, so that all
other problems of a config can be named before the data are read."""


def is_open(config: DictConfig, key: str) -> bool:
    """Whether the planner is to choose the value of a key."""
    found = OmegaConf.select(config, f"{key}.{GROUPS[key]}" if key in GROUPS else key)
    return bool(found == AUTO)


def open_keys(config: DictConfig) -> list[str]:
    """All that the planner is to choose."""
    return [key for key in OPENINGS if is_open(config, key)]


def with_stand_ins(config: DictConfig) -> DictConfig:
    """A copy in which nothing is ``auto`` any more, to be checked."""
    return filled(config, {key: valued(key, OPENINGS[key]) for key in open_keys(config)})


def with_values_of(config: DictConfig, stored: DictConfig) -> DictConfig:
    """A copy in which a run's own config says what is ``auto``."""
    keys = [key for key in (*OPENINGS, "data.normalize") if is_open(config, key)]
    return filled(config, {key: OmegaConf.select(stored, key) for key in keys})


def filled(config: DictConfig, values: dict[str, Any]) -> DictConfig:
    """A copy with these values."""
    copy = config.copy()
    OmegaConf.set_struct(copy, False)
    for key, value in values.items():
        OmegaConf.update(copy, key, value, merge=False)
    return copy


def valued(key: str, choice: Any) -> Any:
    """The value of a choice: of a group it is what the preset of that name holds."""
    if key not in GROUPS:
        return choice
    return load_preset(conf_dir(), key, choice)
