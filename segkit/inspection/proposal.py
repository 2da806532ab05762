"""The command that trains on a data set, as it can be pasted into a shell."""

from __future__ import annotations

import shlex

from segkit.config.declarations import read_member_options
from segkit.config.quoting import quote_value, to_plain
from segkit.config.schema import Data, Part
from segkit.core.registry import read_defaults
from segkit.data.sources.base import DataSource


def propose_training(data: Data, head: Part) -> str:
    """The command with all options of the data that differ from their defaults."""
    return " ".join(["python -m segkit.train", *map(shlex.quote, list_overrides(data, head))])


def list_overrides(data: Data, head: Part) -> list[str]:
    """The overrides of that command, not quoted for a shell."""
    defaults = read_defaults(DataSource.members()[data.name])
    found = [f"data={data.name}"]
    for key, value in data.options.items():
        if key not in defaults or to_plain(value) != to_plain(defaults[key]):
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
