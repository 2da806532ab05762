"""Resuming a run: its config with the changes of the command line."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from segkit.checkpoint import reading as checkpoint
from segkit.config.openings import take_choices
from segkit.config.schema import TrainConfig, Trainer
from segkit.config.validation import validate
from segkit.core import plugins
from segkit.core.errors import SegkitError, all_at_once

FIXED = (
    *("encoder", "neck", "head", "auxiliary", "data", "target"),
    *("seed", "optimizer", "experiment", "plan"),
)
"""Keys that decide the weights, the draws and the state of the optimizer."""


def read_resumed_config(config: DictConfig, is_same_command: bool = False) -> TrainConfig:
    """Read the config of the run in ``config.resume`` and apply the command line's overrides.

    If it is the command that has begun the run, they are applied already.

    Outside a command there are no overrides: the given config is used, if it equals that of the run
    in all keys that cannot change.

    Raises:
        SegkitError: The folder has no config or last checkpoint, a fixed key would change, or the
            config cannot be used.
    """
    folder = Path(config.resume)
    if not (folder / "config.yaml").is_file() or not last_checkpoint(folder).is_file():
        raise SegkitError(
            f"resume: {folder.resolve()} cannot be resumed:"
            " it needs config.yaml and checkpoints/last.ckpt."
        )
    stored = OmegaConf.load(folder / "config.yaml")
    assert isinstance(stored, DictConfig)
    wanted, problems = stored.get("plugins"), []
    if HydraConfig.initialized():
        parser = OverridesParser.create()
        given = [] if is_same_command else list(HydraConfig.get().overrides.task)
        for override in parser.parse_overrides(given):
            key = override.key_or_group
            if key in ("resume", "plugins"):
                continue
            if key.partition(".")[0] in FIXED or OmegaConf.is_dict(stored.get(key)):
                problems.append(f"{override.input_line}: it cannot change in a resumed run")
            else:
                OmegaConf.update(stored, key, override.value())
        stored.resume = str(folder)
        stored.plugins = config.plugins  # a stored config imports nothing
    try:
        settings = validate(stored)
        if not HydraConfig.initialized():
            old, settings = settings.to_plain(), validate(take_choices(config, stored))
            new = settings.to_plain()
            problems = [
                f"{key} is {new[key]}, the run has {old[key]}"
                for key in FIXED
                if new.get(key) != old.get(key)
            ]
    except SegkitError as error:
        raise plugins.name_missing(wanted, str(error)) from error
    if problems:
        raise all_at_once(f"resume={folder} goes on with the run's own model and data:", problems)
    return settings


def last_checkpoint(folder: Path) -> Path:
    """Return the path of the last checkpoint of a run."""
    return folder / "checkpoints" / "last.ckpt"


def require_unfinished(folder: Path, trainer: Trainer) -> None:
    """Check that a run to resume has something left to train.

    Raises:
        SegkitError: The run has finished, or its checkpoint cannot be resumed.
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
            raise SegkitError(
                f"resume={folder}: the run has finished, {done:.0f} of {limit:.0f} {unit} are done."
                f" To train on, give a larger trainer.{key}."
            )


def require_new(folder: Path) -> None:
    """Check that a folder holds no other run."""
    if last_checkpoint(folder).is_file():
        raise SegkitError(
            f"{folder} holds a run already. Resume it with resume={folder}, or choose another"
            " folder."
        )
