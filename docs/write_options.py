"""Write docs/options.md, the reference of all options, from the code that declares them.

python docs/write_options.py
"""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from segkit.config import schema, settings
from segkit.config.declarations import (
    COMMANDS,
    FAMILIES,
    SECTIONS,
    Options,
    list_member_names,
    read_command_options,
    read_member_options,
    read_section_options,
    spell_command,
)
from segkit.config.validation import families

FILE = Path(__file__).parent / "options.md"
INTRODUCTION = """# Options

Written by `python docs/write_options.py` from the signatures, types and descriptions in the code.
Every option is given as `KEY=VALUE`; `--help` shows those of the chosen parts with their values.
`null` stands for no value, `???` for a value that must be given.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for command, (_, name) in COMMANDS.items():
        model = getattr(schema, name, None) or getattr(settings, name)
        parts.append(f"## {spell_command(command)}\n")
        parts.append(table(read_command_options(command), kinds_of(model)))
    parts.append("## Groups of a training\n")
    for section, name in SECTIONS.items():
        model = getattr(schema, name)
        title = f"### {section}\n" if section != "data" else "### data, for every data set\n"
        parts += [title, table(read_section_options(section), kinds_of(model))]
    for family, base in families().items():
        for name in sorted(list_member_names(family)):
            options = read_member_options(family, name)
            member = base.members()[name]
            parts.append(f"### {family}: {name}\n")
            parts.append(f"{summary_of(member)}\n")
            if options:
                hints = typing.get_type_hints(member.__init__, include_extras=True)
                hints |= typing.get_type_hints(base.build, include_extras=True)
                parts.append(table(options, {k: kind(h) for k, h in hints.items()}))
    assert set(families()) == set(FAMILIES)
    return "\n".join(parts)


def summary_of(member: type[Any]) -> str:
    """The first paragraph of a docstring."""
    return " ".join((member.__doc__ or "").partition("\n\n")[0].split()).removesuffix("::")


def table(options: Options, kinds: dict[str, str]) -> str:
    """The options as rows."""
    rows = ["| option | values | default | meaning |", "|---|---|---|---|"]
    for name, option in options.items():
        default = "???" if option.required else dump(option.default)
        cells = (f"`{name}`", kinds.get(name, ""), f"`{default}`", option.meaning)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*rows, ""])


def dump(value: Any) -> str:
    """A value as YAML on one line."""
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def kinds_of(model: Any) -> dict[str, str]:
    """The values that the fields of a model take."""
    return {
        name: kind(
            Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        )
        for name, field in model.model_fields.items()
    }


def kind(hint: Any) -> str:
    """The values of a type, as a user writes them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds: list[Any] = []
        for extra in arguments[1:]:
            bounds += extra.metadata if isinstance(extra, FieldInfo) else [extra]
        plain = kind(arguments[0]).removesuffix(" or null")
        limits = " ".join(filter(None, map(limit, bounds)))
        null = " or null" if kind(arguments[0]).endswith(" or null") else ""
        return f"{plain} {limits}".strip() + null
    if origin in (typing.Union, types.UnionType):
        parts: list[str] = []
        for part in arguments:
            is_list = part is bool or typing.get_origin(part) is Literal
            parts += kind(part).split(", ") if is_list else [kind(part)]
        *others, last = dict.fromkeys(parts)
        return f"{', '.join(others)} or {last}"
    if origin is Literal:
        return ", ".join(str(value) for value in arguments)
    if origin in (list, tuple):
        inner = dict.fromkeys(kind(part) for part in arguments if part is not ...)
        return f"[{' or '.join(inner)}, ...]"
    if origin is dict or hint is dict:
        return "a mapping"
    names = {"NoneType": "null", "str": "text", "bool": "true, false", "Path": "a path"}
    name = getattr(hint, "__name__", str(hint))
    return names.get(
        name, {"int": "integer", "float": "number", "Any": "any"}.get(name, "a mapping")
    )


def limit(bound: Any) -> str:
    """A bound as a sign and a number."""
    for bound_type, sign, attribute in (
        (Ge, "≥", "ge"),
        (Gt, ">", "gt"),
        (Le, "≤", "le"),
        (Lt, "<", "lt"),
    ):
        if isinstance(bound, bound_type):
            return f"{sign} {getattr(bound, attribute)}"
    return "" if not isinstance(bound, MinLen) else "(not empty)"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
