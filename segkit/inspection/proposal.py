"""The command that trains on a data set, as it can be pasted into a shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from segkit.config.declarations import read_member_options
from segkit.config.schema import Data, Part
from segkit.core.registry import read_defaults
from segkit.data.sources.base import DataSource

WORD = r"[A-Za-z_./][\w./@+-]*"
"""What Hydra reads as text without quotes."""
WITH_A_MEANING = ("null", "true", "false", "nan", "inf")
"""Words that Hydra does not read as text."""


def propose_training(data: Data, head: Part) -> str:
    """The command with all options of the data that differ from their defaults."""
    return " ".join(["python -m segkit.train", *map(shlex.quote, list_overrides(data, head))])


def list_overrides(data: Data, head: Part) -> list[str]:
    """The overrides of that command, not quoted for a shell."""
    defaults = read_defaults(DataSource.members()[data.name])
    found = [f"data={data.name}"]
    for key, value in data.options.items():
        if key not in defaults or _to_plain(value) != _to_plain(defaults[key]):
            found.append(f"data.{key}={quote_value(value)}")
    for key, field in Data.model_fields.items():
        value = getattr(data, key)
        default = field.get_default()
        if key == "crop_size" and isinstance(default, int):
            default = (default, default)
        if key != "name" and value != default:
            found.append(f"data.{key}={quote_value(value)}")
    found.append(f"head={head.name}")
    known = read_member_options("head", head.name)
    found += [
        f"head.{key}={quote_value(value)}"
        for key, value in head.options.items()
        if value != (known[key].default if key in known else None)
    ]
    return found


def quote_value(value: Any) -> str:
    """A value as Hydra reads it.

    Example:
        >>> quote_value([1, "my scans (2)", {255: 1}, None])
        '[1,"my scans (2)",{255:1},null]'
    """
    value = _to_plain(value)
    if isinstance(value, list):
        return f"[{','.join(map(quote_value, value))}]"
    if isinstance(value, dict):
        pairs = (f"{quote_value(key)}:{quote_value(each)}" for key, each in value.items())
        return "{" + ",".join(pairs) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, str):
        return str(value)
    if re.fullmatch(WORD, value, re.ASCII) and value.lower() not in WITH_A_MEANING:
        return value
    # In quotes a backslash counts only before a quote, and ${ still begins an interpolation.
    text = re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + ('\\"' if m[2] else ""), value)
    return '"' + text.replace("${", "\\${") + '"'


def _to_plain(value: Any) -> Any:
    """Tuples as lists, and paths as text."""
    if isinstance(value, dict):
        return {key: _to_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
