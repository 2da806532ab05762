"""The command line of a search: its own options, and those that its trainings get. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from segkit.config.declarations import read_command_options
from segkit.config.quoting import quote_value


def name_key(override: str) -> str:
    """The key of an override."""
    return override.lstrip("+~").partition("=")[0]


def gather_options(arguments: Sequence[str]) -> list[str]:
    """Put all options that are not the search's own into its option ``training``, as they are.

    ``-m`` means nothing: several values are candidates anyway.
    """
    from hydra._internal.utils import get_args_parser

    overrides = get_args_parser().parse_intermixed_args(list(arguments)).overrides
    dropped = {*overrides, "-m", "--multirun"}
    flags = [text for text in arguments if text not in dropped]
    own = read_command_options("search")
    is_own = [name_key(text) in own or name_key(text).startswith("hydra.") for text in overrides]
    kept = [text for text, mine in zip(overrides, is_own, strict=True) if mine]
    passed = [text for text, mine in zip(overrides, is_own, strict=True) if not mine]
    return [*flags, *kept, *([f"training={quote_value(passed)}"] if passed else [])]


def split_axes(options: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    """Divide options into those of one value, and all combinations of those with several.

    Options that cannot be parsed have one value: they are reported when they are composed.

    Example:
        >>> split_axes(["head=binary", "encoder=resnet18,resnet34"])
        (['head=binary'], [['encoder=resnet18'], ['encoder=resnet34']])
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    fixed, axes = [], []
    for text in options:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            override = None
        if override is not None and override.is_sweep_override():
            axes.append(override)
            continue
        value = None if override is None else override.value()
        if isinstance(value, str) and "'" in text and "$" not in text:  # as it is typed best
            text = f"{text.partition('=')[0]}={quote_value(value)}"
        fixed.append(text)
    if not axes:
        return fixed, []
    (combinations,) = BasicSweeper.split_arguments(axes, None)
    return fixed, [list(each) for each in combinations]


def put_over(options: Iterable[str], own: Sequence[str]) -> list[str]:
    """The options with those of a candidate, which replace the ones of the same key."""
    keys = {name_key(text) for text in own}
    return [*(text for text in options if name_key(text) not in keys), *own]


def spell(command: str, options: Iterable[str]) -> str:
    """A command that can be pasted into a shell."""
    return " ".join([f"python -m segkit.{command}", *map(shlex.quote, options)])


def list_typed() -> list[str]:
    """The options that were typed; none outside a command."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def find_config_dir() -> Path | None:
    """The folder of the user's own groups, if one was typed."""
    from hydra.core.hydra_config import HydraConfig

    from segkit.config.presets import FOREIGN

    if not HydraConfig.initialized():
        return None
    sources = HydraConfig.get().runtime.config_sources
    return next((Path(each.path).resolve() for each in sources if each.provider == FOREIGN), None)


def spell_config_dir() -> list[str]:
    """The flag that names this folder."""
    folder = find_config_dir()
    return [] if folder is None else ["--config-dir", str(folder)]
