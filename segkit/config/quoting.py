"""Options as they are typed into a shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from segkit.core.published import spell_path

WORD = r"[A-Za-z_./][\w./@+-]*"
"""What Hydra reads as text without quotes."""
WITH_A_MEANING = ("null", "true", "false", "nan", "inf")
"""Words that Hydra does not read as text."""


def quote_option(key: str, value: Any) -> str:
    """An option with its value, quoted for Hydra and for a shell.

    Example:
        >>> print(quote_option("data.images", "my scans"))
        'data.images="my scans"'
    """
    return shlex.quote(f"{key}={quote_value(value)}")


def quote_value(value: Any) -> str:
    """A value as Hydra reads it.

    Example:
        >>> quote_value([1, "my scans (2)", {255: 1}, None])
        '[1,"my scans (2)",{255:1},null]'
    """
    value = to_plain(value)
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


def to_plain(value: Any) -> Any:
    """Tuples as lists, and paths as text."""
    if isinstance(value, dict):
        return {key: to_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(each) for each in value]
    return spell_path(value) if isinstance(value, Path) else value
