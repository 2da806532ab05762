"""The command line of a training that goes on: ``resume=`` with the folder of a run or a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segkit.core.errors import SegkitError, all_at_once
from segkit.core.yaml_files import read_yaml_text

SWEEP = "multirun.yaml"
"""The file in which Hydra keeps the command line of a sweep, in its folder."""
CODE = ("plugins", "hydra")
"""Keys that name code: only what is typed counts."""


def find_resumed(overrides: Sequence[str]) -> Path | None:
    """The folder that a command line resumes."""
    named = [
        text.partition("=")[2].strip("'\"") for text in overrides if _name_key(text) == "resume"
    ]
    return Path(named[-1]) if named and named[-1] not in ("", "null") else None


def read_sweep(folder: Path) -> list[str] | None:
    """The overrides of the sweep in a folder; None if it holds none.

    Raises:
        SegkitError: Its file is damaged, or it names code.
    """
    from omegaconf import OmegaConf

    file = folder / SWEEP
    if not file.is_file():
        return None
    stored = OmegaConf.create(read_yaml_text(file))
    found: Any = OmegaConf.is_dict(stored) and OmegaConf.select(stored, "hydra.overrides.task")
    if not OmegaConf.is_list(found):
        raise SegkitError(f"{file} holds no command line of a sweep.")
    return [str(text) for text in found]


def admit_resumed(overrides: Sequence[str], folder: Path, sweep: Sequence[str] | None) -> list[str]:
    """The command line for Hydra.

    That of a sweep is the one it was started with. Keys of the data that the run has, and the
    default data set has not, such as ``data.root``, are admitted.

    Raises:
        SegkitError: A sweep is to go on with other options, or it names code that is not typed.
    """
    if sweep is None:
        return [f"++{text}" if text.startswith("data.") else text for text in overrides]
    typed = [text for text in overrides if _name_key(text) != "resume"]
    problems = find_changes(typed, sweep, "sweep")
    if problems:
        raise all_at_once(f"resume={folder} goes on with a sweep as it was started:", problems)
    kept = [text for text in sweep if _name_key(text) not in CODE]
    return [*kept, *typed, f"hydra.sweep.dir='{folder}'"]


def find_changes(typed: Sequence[str], stored: Sequence[str], what: str) -> list[str]:
    """What keeps a command line from going on with a sweep or a search, of which some is stored."""
    own = {_name_key(text) for text in typed}
    problems = [
        f"{text}: it cannot change in a resumed {what}"
        for text in typed
        if _name_key(text) not in CODE
    ]
    problems += [
        f"{text}: the {what} names code; type it too if you trust it"
        for text in stored
        if _name_key(text) in CODE and _name_key(text) not in own
    ]
    return problems


def _name_key(override: str) -> str:
    """The first part of the key of an override."""
    return override.lstrip("+~").partition("=")[0].replace("/", ".").partition(".")[0]
