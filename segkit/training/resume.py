"""Resuming a run: its config with the changes of the command line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segkit.checkpoint import reading as checkpoint
from segkit.config.openings import take_choices
from segkit.config.schema import TrainConfig, Trainer
from segkit.config.validation import validate
from segkit.core import plugins
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.yaml_files import read_yaml_text
from segkit.data.sources.base import DataSource
from segkit.report.table import read_csv

ENVIRONMENT = "environment.json"
METRICS, RESULT = "metrics.csv", "result.json"
FIXED = (
    *("encoder", "neck", "head", "auxiliary", "data", "target"),
    *("seed", "optimizer", "experiment", "plan", "init", "folds", "fold"),
)
"""Keys that decide the weights, the draws and the state of the optimizer."""
LOADING = ("num_workers", "cache", "val_batch_size")
"""Options of the data that decide only how fast they are read."""


def read_resumed_config(
    config: DictConfig, is_same_command: bool = False
) -> tuple[TrainConfig, list[str]]:
    """Read the config of the run in ``config.resume`` and apply the command line's overrides.

    If it is the command that has begun the run, they are applied already.

    Outside a command there are no overrides: the given config is used, if it equals that of the run
    in all keys that cannot change. Data whose relative path leads nowhere from here are looked for
    where the run was started, and in the folders around the run.

    Returns:
        The config, and what it changes in the course of the training, for the user.

    Raises:
        SegkitError: The folder has no config or last checkpoint, a fixed key would change, or the
            config cannot be used.
    """
    folder = Path(config.resume)
    path = folder / "config.yaml"
    if not path.is_file() or not last_checkpoint(folder).is_file():
        raise SegkitError(
            f"resume: {folder.resolve()} cannot be resumed:"
            " it needs config.yaml and checkpoints/last.ckpt."
        )
    stored = _read_config(path)
    before = stored.copy()
    stored.resume = str(folder)
    wanted, problems = stored.get("plugins"), []
    if HydraConfig.initialized():
        movable = _list_movable(stored)
        parser = OverridesParser.create()
        given = [] if is_same_command else list(HydraConfig.get().overrides.task)
        for override in parser.parse_overrides(given):
            key = override.key_or_group
            if key in ("resume", "plugins"):
                continue
            fixed = key.partition(".")[0] in FIXED and key not in movable
            if fixed or OmegaConf.is_dict(OmegaConf.select(stored, key)):
                named = f"{key}={override.get_value_element_as_str()}"
                problems.append(f"{named}: it cannot change in a resumed run")
            else:
                OmegaConf.update(stored, key, override.value())
        _find_data(stored, folder, movable)
        stored.plugins = config.plugins  # a stored config imports nothing
    try:
        settings = validate(stored)
        if not HydraConfig.initialized():
            old, settings = settings.to_plain(), validate(take_choices(config, stored))
            new = settings.to_plain()
            for key in _list_movable(stored):
                section, _, name = key.partition(".")
                old[section].pop(name, None), new[section].pop(name, None)
            problems = [
                f"{key} is {new[key]}, the run has {old[key]}"
                for key in FIXED
                if new.get(key) != old.get(key)
            ]
    except SegkitError as error:
        raise plugins.name_missing(wanted, str(error)) from error
    if problems:
        raise all_at_once(f"resume={folder} goes on with the run's own model and data:", problems)
    return settings, _describe_changes(before, settings)


def is_sweep_job() -> bool:
    """Whether this training is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _read_config(path: Path) -> DictConfig:
    text = read_yaml_text(path)
    try:
        stored = OmegaConf.load(io.StringIO(text))
        OmegaConf.resolve(stored)  # those that a run writes refer to nothing
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise SegkitError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(stored, DictConfig) or not isinstance(stored.get("data"), DictConfig):
        raise SegkitError(
            f"{path} is not the config of a training. Put back the one that the run wrote."
        )
    return stored


def _list_movable(stored: DictConfig) -> list[str]:
    """The keys of the data that may change: places of files, and how they are read."""
    member = DataSource.resolve(str(stored.data.get("name")), {})[0]
    hints = get_type_hints(member.__init__, include_extras=True)
    return [f"data.{key}" for key in (*LOADING, *(k for k in hints if "Path" in repr(hints[k])))]


def _find_data(stored: DictConfig, folder: Path, movable: Iterable[str]) -> None:
    """Correct relative paths of data that lead nowhere from the current folder."""
    started = read_environment(folder).get("folder")
    bases = [Path(str(started))] if started else []
    bases += folder.resolve().parents
    for key in movable:
        value = OmegaConf.select(stored, key)
        if not isinstance(value, str) or Path(value).exists():  # an absolute one stays below
            continue
        found = next((base / value for base in bases if (base / value).exists()), None)
        if found is not None:
            OmegaConf.update(stored, key, str(found))


def read_environment(folder: Path) -> dict[str, Any]:
    """What environment.json of a run holds; empty if there is none.

    Raises:
        SegkitError: It is damaged.
    """
    path = folder / ENVIRONMENT
    if not path.is_file():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SegkitError(
            f"{path} cannot be read ({' '.join(str(error).split())}). Put back the one that the run"
            " wrote, or remove it."
        ) from error
    return held if isinstance(held, dict) else {}


def _describe_changes(before: DictConfig, settings: TrainConfig) -> list[str]:
    """Say what a longer or shorter training does to the learning rate."""
    new = settings.to_plain()["trainer"]
    changed = [
        f"{key} {old} -> {new[key]}"
        for key in ("max_epochs", "max_steps", "max_time")
        if (old := OmegaConf.select(before, f"trainer.{key}")) != new[key]
    ]
    if not changed or settings.scheduler.name == "constant":
        return []
    return [
        f"{', '.join(changed)}: scheduler={settings.scheduler.name} is stretched over the whole"
        " training; a learning rate that is higher there is reached within 5 % of what is left."
    ]


def last_checkpoint(folder: Path) -> Path:
    """Return the path of the last checkpoint of a run."""
    return folder / "checkpoints" / "last.ckpt"


def find_end(folder: Path, trainer: Trainer) -> str:
    """Say why a run to resume has nothing left to train; empty if it has.

    Raises:
        SegkitError: Its checkpoint cannot be resumed.
    """
    last = last_checkpoint(folder)
    stored = checkpoint.read_raw(last)
    if not stored.keys() >= {"loops", "optimizer_states", "callbacks"}:
        raise SegkitError(
            f"resume={folder}: {last} has no state of the optimizer; a best.ckpt has none either."
            " Put back the one that the run wrote."
        )
    epochs = stored["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    budget = stored["callbacks"].get("Budget", {})
    # too little time for a last validation counts as used
    seconds = sum(budget.get(key, 0.0) for key in ("elapsed", "last"))
    for done, limit, key, unit in (
        (epochs, trainer.epochs, "max_epochs", "epochs"),
        (stored["global_step"], trainer.max_steps, "max_steps", "steps"),
        (seconds, trainer.seconds, "max_time", "seconds"),
    ):
        if limit not in (None, -1) and done >= limit:
            return (
                f"{done:.0f} of {limit:.0f} {unit} are done. To train on, give a larger"
                f" trainer.{key}."
            )
    waited = [s["wait_count"] for s in stored["callbacks"].values() if "wait_count" in s]
    if trainer.early_stopping is not None and waited and waited[0] >= trainer.early_stopping:
        return (
            f"{waited[0]} validations brought nothing better. To train on, give a larger"
            " trainer.early_stopping, or null."
        )
    return ""


def is_concluded(folder: Path) -> bool:
    """Whether the scores of all epochs that a run has trained are written."""
    rows = folder / METRICS
    if not rows.is_file():
        return False
    held = read_result(folder)
    return "error" not in held and held.get("epochs") == len(read_csv(rows))


def read_result(folder: Path) -> dict[str, Any]:
    """What result.json of a run holds; empty if there is none, or it is damaged."""
    try:
        held = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}


def require_new(folder: Path) -> None:
    """Check that a folder holds no other run."""
    if last_checkpoint(folder).is_file():
        raise SegkitError(
            f"{folder} holds a run already. Resume it with resume={folder}, or choose another"
            " folder."
        )
