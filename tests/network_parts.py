"""What tests of all encoders and necks share."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import yaml

from segkit.models.necks import Neck

PRESETS: dict[str, str] = {
    path.stem: yaml.safe_load(path.read_text())["name"]
    for path in sorted((Path(__file__).parents[1] / "conf/encoder").glob("*.yaml"))
    if path.stem != "timm"
}
"""The name of the encoder of each preset."""


def choose_options(neck: str, **options: Any) -> dict[str, Any]:
    """Those of the options that the neck takes."""
    taken = inspect.signature(Neck.resolve(neck, {})[0]).parameters
    return {key: value for key, value in options.items() if key in taken}
