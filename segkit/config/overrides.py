"""What is wrong with a command line that Hydra cannot compose, said for every override at once."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from segkit.config.declarations import FAMILIES, list_member_names
from segkit.core.errors import SegkitError, all_at_once, did_you_mean


def explain_composition(error: Exception, command: str, overrides: list[str]) -> SegkitError:
    """The error that names all overrides that cannot be composed, with the nearest names.

    Called inside a :func:`segkit.config.compose.session`.

    Args:
        error: What Hydra or OmegaConf raised.
        command: The command whose config it is.
        overrides: The command line.
    """
    import hydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep
    from hydra.errors import HydraException

    if "submitit" in str(error) and find_spec("submitit") is None:
        return SegkitError(
            "hydra/launcher=slurm needs the package hydra-submitit-launcher: pip install '.[slurm]'"
            " in the checkout of segkit."
        )
    problems = []
    groups, of_sweep, values, swept = [], [], [], {}
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as wrong:
            problems.append(
                f"'{text}' cannot be parsed: {_take_first_line(wrong)}. Use KEY=VALUE; a value with"
                " brackets or signs needs its own quotes, as in 'input=\"my scans (2)\"'."
            )
            continue
        key = override.key_or_group.partition("@")[0]
        if not key:
            problems.append(f"'{text}' has no key before the sign =.")
            continue
        options = _list_choices(key)
        if options:
            chosen = override.value()
            if isinstance(chosen, ChoiceSweep):
                chosen, swept[key] = chosen.list, text
            wrong_choices = [
                choice
                for choice in (chosen if isinstance(chosen, list) else [chosen])
                if choice not in options and not (override.is_delete() and choice is None)
            ]
            problems += [_describe_unknown_choice(key, choice, options) for choice in wrong_choices]
            if not wrong_choices and not override.is_sweep_override():
                groups.append(text)
            elif not wrong_choices and isinstance(chosen, list) and len(chosen):
                of_sweep.append(f"{key}={chosen[0]}")
        elif not (override.is_add() or override.is_force_add()):
            values.append((key, text))
    try:
        config = hydra.compose(command, overrides=groups)
    except SegkitError:
        raise
    except Exception as why:  # Hydra has all kinds about odd values
        return all_at_once("the config cannot be composed:", [*problems, str(why)])
    known = _list_keys(config)
    in_jobs = _list_keys(hydra.compose(command, overrides=[*groups, *of_sweep])) if swept else []
    for key, text in values:
        if key in known or key.partition(".")[0] == "hydra":
            continue
        if key in in_jobs:
            problems.append(
                f"'{text}': the key '{key}' comes with {' or '.join(swept.values())}, which Hydra"
                f" takes only in the jobs of a sweep: write +{text}, or run a sweep for each"
            )
        else:
            problems.append(f"'{text}': there is no key '{key}'.{_suggest_key(key, known)}")
    if not problems:
        return SegkitError(f"the config cannot be composed: {error}")
    problems.append(
        "--help lists the groups and the keys; parts of your own need plugins=[FILE.py] as well"
    )
    return all_at_once("the command line cannot be composed:", problems)


def list_composition_errors() -> tuple[type[Exception], ...]:
    """What Hydra raises when configs or overrides are wrong."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    return HydraException, OmegaConfBaseException, YAMLError


def _list_choices(group: str) -> list[str]:
    """The choices of a group; none if it is no group."""
    from hydra.core.global_hydra import GlobalHydra

    state = GlobalHydra.instance().hydra
    assert state is not None
    return state.config_loader.get_group_options(group)


def _describe_unknown_choice(group: str, choice: Any, options: list[str]) -> str:
    choice = "null" if choice is None else str(choice)
    text = f"'{group}={choice}': there is no {group} '{choice}'."
    if group == "encoder":
        import timm

        if timm.is_model(choice):
            return f"{text} It is a timm model: use encoder=timm encoder.name={choice}."
    if group in FAMILIES and choice in list_member_names(group):
        return (
            f"{text} There is a member of that name without a preset: write"
            f" conf/{group}/{choice}.yaml"
            f" with the line 'name: {choice}'."
        )
    return f"{text}{did_you_mean(choice, options)} Known: {', '.join(options)}."


def _list_keys(node: Any, prefix: str = "") -> list[str]:
    """All keys of a config, with dots."""
    from omegaconf import DictConfig

    found = []
    for key in node:
        found.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            found += _list_keys(child, f"{prefix}{key}.")
    return found


def _suggest_key(key: str, known: list[str]) -> str:
    """The nearest key in the same group, or the same key in another group (`max_epochs`)."""
    group, _, last = key.rpartition(".")
    elsewhere = _find_choices_with(group, last)
    if elsewhere:
        return f" It is a key of {' and of '.join(f'{group}={c}' for c in elsewhere[:3])}."
    same = [k for k in known if k.rpartition(".")[2] == last]
    if same:
        return " Did you mean " + " or ".join(f"'{k}'" for k in same[:3]) + "?"
    return did_you_mean(key, known)


def _find_choices_with(group: str, key: str) -> list[str]:
    """The choices of a group whose configs have a key."""
    from segkit.config.compose import find_conf_dir
    from segkit.config.presets import load_preset

    files = sorted((find_conf_dir() / group).glob("*.yaml")) if group.isidentifier() else []
    return [file.stem for file in files if key in load_preset(find_conf_dir(), group, file.stem)]


def _take_first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
