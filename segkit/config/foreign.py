"""What the configs of a stranger may not decide.

Hydra imports and calls whatever its callbacks, launcher, sweeper and loggings name, and variables
of the environment reach compilers and worker processes. The command line may decide all of that, a
folder named with --config-dir not.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from segkit.core.errors import all_at_once

HYDRA = "hydra"
HARMLESS = ("mode", "verbose")
"""Keys below ``hydra`` that may have any value."""
FOLDERS = ("run", "sweep")
"""Keys below ``hydra`` that name folders to write to."""


def require_harmless(file: Path, config_path: str, package: str | None, content: Any) -> None:
    """Check a config before Hydra uses it, wherever it would be placed.

    Args:
        file: The file, for messages.
        config_path: Group and name of the config.
        package: The package in its header, the place of its content.
        content: What it holds.

    Raises:
        SegkitError: It decides what code runs, or that files are written outside the current
            folder; all such keys are named.
    """
    found = content if isinstance(content, dict) else {}
    given = found.get(HYDRA) or {}
    settings = given if isinstance(given, dict) else {"": given}
    folders = {
        f"{HYDRA}.{key}.{name}": place
        for key in FOLDERS
        if isinstance(settings.get(key), dict)
        for name, place in settings[key].items()
    }
    problems = [f"{key}={place}" for key, place in folders.items() if not _is_below(place)]
    problems += [
        f"{HYDRA}.{key}"
        for key, value in settings.items()
        if key not in HARMLESS and not (key in FOLDERS and isinstance(value, dict))
    ]
    problems += [f"defaults: {target}" for target in _list_targets(found) if _is_hydra(target)]
    name = Path(config_path).name.removesuffix(".yaml")
    place = (package or "").replace("_name_", name)
    if _is_hydra(place) or _is_hydra(config_path.removesuffix(name)):
        problems.append(f"all of it: it is a config of Hydra itself ({place or config_path})")
    if found.get("resume") is not None:
        problems.append(f"resume={found['resume']}")
    if problems:
        raise all_at_once(
            f"{file} decides what only the command line may, as it could run code or write"
            " anywhere. If you trust it, type these as KEY=VALUE and take them out of the file:",
            problems,
        )
    for key, folder in folders.items():
        print(f"note: {file} sets {key} to {folder}", file=sys.stderr)


def _list_targets(content: dict[str, Any]) -> list[str]:
    """The groups and packages of a defaults list, without choices among what is installed."""
    listed = content.get("defaults")
    targets = [
        str(target)
        for entry in (listed if isinstance(listed, list) else [])
        for target in (entry if isinstance(entry, dict) else [entry])
    ]
    return [target for target in targets if not target.startswith("override ")]


def _is_hydra(place: str) -> bool:
    return HYDRA in re.split(r"[\s./@]", place)


def _is_below(place: Any) -> bool:
    """Whether a path leads nowhere but below the current folder, whatever the config says."""
    text = re.sub(r"\$\{(now:[%\w-]*|hydra\.job\.num)\}", "x", str(place))
    path = Path(text)
    return not ("$" in text or text.startswith("~") or path.is_absolute() or ".." in path.parts)
