"""Options for tests that take every neck."""

from __future__ import annotations

import inspect
from typing import Any

from segkit.models.necks import Neck


def choose_options(neck: str, **options: Any) -> dict[str, Any]:
    """Those of the options that the neck takes."""
    taken = inspect.signature(Neck.resolve(neck, {})[0]).parameters
    return {key: value for key, value in options.items() if key in taken}
