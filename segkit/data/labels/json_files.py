"""Read JSON files that may hold anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segkit.core.errors import SegkitError

Hook = Callable[[dict[str, Any]], Any]


def read_json(path: Path, hook: Hook | None = None) -> Any:
    """The content of a JSON file in UTF-8.

    Args:
        path: The file.
        hook: Replaces each object as soon as it is complete, so that a large file is not held in
            memory as single numbers.

    Raises:
        SegkitError: It cannot be read, as the end of a sentence.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_hook=hook)
    except OSError as error:
        raise SegkitError(f"it cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SegkitError(f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise SegkitError(
            f"it is no JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of 5000 digits; 1000 brackets
        raise SegkitError(f"it is no JSON that can be read: {error}") from error


def as_list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_dict(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}
