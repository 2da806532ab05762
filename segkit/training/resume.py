"""Going on with a run that was stopped: its config, with what the command line changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segkit.checkpoint import reading as checkpoint
from segkit.config.openings import take_choices
from segkit.config.schema import Trainer
from segkit.config.validation import validate
from segkit.core.errors import SegkitError, all_at_once

FIXED = (
    *("encoder", "neck", "head", "auxiliary", "data", "target"),
    *("seed", "optimizer", "experiment", "plan"),
)
"""What the weights, the draws and the optimizer's state hang on."""
UNITS = {"max_epochs": "epochs", "max_steps": "steps", "max_time": "seconds"}
"""What the limits of a training are counted in."""


def resumed(config: DictConfig) -> DictConfig:
    """The config of the run that ``config.resume`` names, with the overrides of the command line.

    Outside a command there are no overrides: the config is then taken as it is, if it is that of
    the run in all that must not change.

    Raises:
        SegkitError: It is no run folder, it has no last checkpoint, or the model would change.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser

    folder = Path(config.resume)
    if not (folder / "config.yaml").is_file() or not last_checkpoint(folder).is_file():
        raise SegkitError(
            f"resume: {folder.resolve()} is no run folder that can be resumed:"
            " it needs config.yaml and checkpoints/last.ckpt."
        )
    stored = OmegaConf.load(folder / "config.yaml")
    assert isinstance(stored, DictConfig)
    problems = []
    if not HydraConfig.initialized():
        config = take_choices(config, stored)
        new, old = validate(config).to_plain(), validate(stored).to_plain()
        problems = [
            f"{key} is {new[key]}, the run has {old[key]}"
            for key in FIXED
            if new.get(key) != old.get(key)
        ]
        stored = config
    else:
        for override in OverridesParser.create().parse_overrides(
            list(HydraConfig.get().overrides.task)
        ):
            key = override.key_or_group
            if key in ("resume", "plugins"):
                continue
            if key.partition(".")[0] in FIXED or OmegaConf.is_dict(stored.get(key)):
                problems.append(f"{override.input_line}: it cannot change in a resumed run")
            else:
                OmegaConf.update(stored, key, override.value())
        stored.resume = str(folder)
        stored.plugins = config.plugins  # named anew: a stored config imports nothing
    if problems:
        raise all_at_once(f"resume={folder} goes on with the run's own model and data:", problems)
    return stored


def last_checkpoint(folder: Path) -> Path:
    """Where the last checkpoint of a run is, if it has one."""
    return folder / "checkpoints" / "last.ckpt"


def require_rest(folder: Path, trainer: Trainer) -> None:
    """Make sure that something is left to train of a run that is to go on.

    Raises:
        SegkitError: It has all the epochs or steps that it is to have, or its checkpoint cannot be
            gone on with.
    """
    last = last_checkpoint(folder)
    stored = checkpoint.read_raw(last)
    if not stored.keys() >= {"loops", "optimizer_states", "callbacks"}:
        raise SegkitError(
            f"resume={folder}: {last} has no state of the optimizer, as a best.ckpt has none. Put"
            " back the one that the run wrote."
        )
    epochs = stored["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    for done, limit, key in (
        (epochs, trainer.epochs, "max_epochs"),
        (stored["global_step"], trainer.max_steps, "max_steps"),
        (_seconds(stored), trainer.seconds, "max_time"),
    ):
        if limit not in (None, -1) and done >= limit:
            raise SegkitError(
                f"resume={folder}: the run has finished, {done:.0f} of {limit:.0f}"
                f" {UNITS[key]} are done."
                f" To train on, give a larger trainer.{key}."
            )


def _seconds(stored: dict[str, Any]) -> float:
    """How much of its time a run has had: what a last validation would not fit in is over."""
    budget = stored["callbacks"].get("Budget", {})
    return float(sum(budget.get(key, 0.0) for key in ("elapsed", "last")))


def require_new(folder: Path) -> None:
    """Make sure that no other run is in a folder.

    Raises:
        SegkitError: There is one.
    """
    if last_checkpoint(folder).is_file():
        raise SegkitError(
            f"{folder} holds a run already. Go on with it by resume={folder}, or name another"
            " folder."
        )
