"""Files that name several checkpoints, whose probabilities are averaged."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.core.published import fetch, is_on_hub
from segkit.core.yaml_files import read_yaml_text

ENSEMBLE = "ensemble.yaml"
"""How the file of a cross-validation is called."""
KEY = "checkpoints"


def write_ensemble(path: Path, checkpoints: Iterable[Path]) -> None:
    """Write a file that stands for these checkpoints; they may move together with it."""
    lines = [f"  - {os.path.relpath(each, path.parent)}\n" for each in checkpoints]
    about = "# Predictions average what these networks give: checkpoint=ensemble.yaml\n"
    write_whole(path, f"{about}{KEY}:\n{''.join(lines)}")


def list_checkpoints(paths: Iterable[Path]) -> list[Path]:
    """The given files, with those that an ensemble names in the place of its file.

    Models of the hub are downloaded, unless they are on this machine.

    Raises:
        SegkitError: The file of an ensemble cannot be read, or names no files, or a model of the
            hub cannot be had.
    """
    found: list[Path] = []
    for path in paths:
        found += read_ensemble(path) if is_ensemble(path) else [path]
    return [fetch(path) for path in found]


def is_ensemble(path: Path) -> bool:
    """Whether a file stands for several checkpoints, by its name."""
    return path.suffix.lower() in (".yaml", ".yml") and not is_on_hub(path)


def read_ensemble(path: Path) -> list[Path]:
    """The files that an ensemble names, relative to its own folder, and its models of the hub."""
    import yaml

    if not path.is_file():
        raise SegkitError(f"checkpoint: there is no file {path.resolve()}.")
    stored: Any = yaml.safe_load(read_yaml_text(path))
    names = stored.get(KEY) if isinstance(stored, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise SegkitError(
            f"checkpoint: {path} is no ensemble: it needs a list of files under '{KEY}:', as"
            " trainings of all folds write it."
        )
    return [Path(name) if is_on_hub(name) else path.parent / name for name in names]
