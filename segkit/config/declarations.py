"""Options with their defaults and meanings, read from the source without importing it.

The signature and docstring of a member's constructor, or the fields of a pydantic model, are the
only places that state them. ``--help`` and ``--cfg job`` need them before torch can be imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
FAMILIES = {
    "encoder": ("models/encoders", "Encoder"),
    "neck": ("models/necks", "Neck"),
    "head": ("models/heads", "Head"),
    "loss": ("losses", "Loss"),
    "data": ("data/sources", "DataSource"),
    "optimizer": ("optim", "Optimizer"),
    "scheduler": ("optim", "Schedule"),
    "target": ("targets", "Target"),
}
"""By the key in a config: the folder of a family's modules, and its base class."""
WIRED = {
    "encoder": {"in_channels"},
    "neck": {"channels", "strides", "padding"},
    "head": {
        "in_channels",
        "num_classes",
        "level_channels",
        "level_strides",
        "multiple",
        "query_channels",
    },
    "loss": {"mode", "ignore_index"},
    "data": {"mode"},
}
"""Options that follow from the data and the other parts, and are written in no config."""
SECTIONS = {"data": "Data", "trainer": "Trainer", "augment": "Augment", "logger": "Logger"}
"""The pydantic models of the groups of a training, in schema.py."""
COMMANDS = {
    "train": ("schema.py", "TrainConfig"),
    "evaluate": ("settings.py", "EvaluateSettings"),
    "predict": ("settings.py", "PredictSettings"),
    "export": ("settings.py", "ExportSettings"),
    "serve": ("settings.py", "ServeSettings"),
    "hub": ("settings.py", "HubSettings"),
    "search": ("settings.py", "SearchSettings"),
    "benchmark": ("settings.py", "BenchmarkSettings"),
    "report": ("settings.py", "ReportSettings"),
    "data_check": ("settings.py", "DataCheckSettings"),
    "data_convert": ("settings.py", "DataConvertSettings"),
}
"""The pydantic models of the commands; ``data_check`` is the sub-command check of data."""
plugin_files: list[Path] = []
"""The Python files of the plugins, set by :func:`segkit.config.compose.prepare`."""


@dataclass(frozen=True)
class Option:
    """An option as its constructor or its model declares it.

    Attributes:
        meaning: What it does, as one line; may be empty.
        default: Its default.
        required: Whether it has no default.
    """

    meaning: str
    default: Any = None
    required: bool = False


Options = dict[str, Option]


def spell_command(command: str) -> str:
    """How a command is typed: ``python -m segkit.data check``."""
    return f"python -m segkit.{command.replace('_', ' ')}"


def read_member_options(family: str, name: str) -> Options:
    """The options of a member that a config may set; none if no source declares the member."""
    base = FAMILIES[family][1]
    for path in _list_sources(family):
        for class_name, class_base, member in _find_members(path):
            if (class_base, member) == (base, name):
                module = _read(path)
                node = module.classes[class_name]
                found = _read_parameters(module, node, "__init__", ast.get_docstring(node) or "")
                found |= _read_family_options(family)
                return {k: v for k, v in found.items() if k not in WIRED.get(family, ())}
    return {}


def list_member_names(family: str) -> list[str]:
    """The names of all members whose source is found."""
    base = FAMILIES[family][1]
    return [
        name
        for path in _list_sources(family)
        for _, other, name in _find_members(path)
        if other == base
    ]


def list_plugin_members() -> list[tuple[str, str]]:
    """Family and name of each member that a plugin's source defines."""
    families = {base: family for family, (_, base) in FAMILIES.items()}
    found = [member for path in plugin_files for member in _find_members(path)]
    return [(families[base], name) for _, base, name in found if base in families]


def read_section_options(section: str) -> Options:
    """The options of a group of a training that are the same for all its choices."""
    return _read_fields(_read(PACKAGE / "config/schema.py"), SECTIONS[section])


def read_command_options(command: str) -> Options:
    """The options of a command that belong to no group."""
    file, name = COMMANDS[command]
    found = _read_fields(_read(PACKAGE / "config" / file), name)
    return {k: v for k, v in found.items() if k not in FAMILIES and k not in SECTIONS}


class _Module:
    """A parsed file: its classes, and the literals that it assigns or imports."""

    def __init__(self, path: Path) -> None:
        self.classes: dict[str, ast.ClassDef] = {}
        self._assigned: dict[str, ast.expr] = {}
        self._imported: dict[str, str] = {}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                self.classes[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._assigned[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                if node.value is not None:
                    self._assigned[node.target.id] = node.value
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self._imported[alias.asname or alias.name] = node.module or ""

    def evaluate(self, node: ast.expr) -> Any:
        """The value of a literal, of a constant, or of ``Path("...")``."""
        if isinstance(node, ast.Name):
            if node.id in self._assigned:
                return self.evaluate(self._assigned[node.id])
            home = PACKAGE.parent / f"{self._imported[node.id].replace('.', '/')}.py"
            return _read(home).evaluate(node)
        if isinstance(node, ast.Call):
            return self.evaluate(node.args[0])
        return ast.literal_eval(node)


@cache
def _read(path: Path) -> _Module:
    return _Module(path)


def _list_sources(family: str) -> Iterator[Path]:
    yield from _list_built_in(FAMILIES[family][0])
    yield from plugin_files


@cache
def _list_built_in(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).glob("*.py"))


@cache
def _find_members(path: Path) -> list[tuple[str, str, str]]:
    """Class, last base and name of the members that a file defines."""
    pattern = r'^class (\w+)\(\s*(?:[\w.]+,\s*)*(?:\w+\.)*(\w+),\s*name="([^"]+)"'
    return re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)


def _is_defined(path: Path, base: str) -> bool:
    """Whether a file defines a base class that has its own build()."""
    text = path.read_text(encoding="utf-8")
    return f"class {base}(" in text and "def build(" in text


@cache
def _read_family_options(family: str) -> Options:
    """The keyword-only parameters of the family's build(), which all members take."""
    folder, base = FAMILIES[family]
    for path in _list_built_in(folder):
        if _is_defined(path, base):
            module = _read(path)
            return _read_parameters(module, module.classes[base], "build")
    return {}


def _read_parameters(module: _Module, owner: ast.ClassDef, method: str, docs: str = "") -> Options:
    for node in owner.body:
        if isinstance(node, ast.FunctionDef) and node.name == method:
            break
    else:
        return {}
    meanings = _read_meanings(docs or ast.get_docstring(node) or "")
    arguments = [] if method == "build" else node.args.args[1:]
    defaults: list[ast.expr | None] = [None] * (len(arguments) - len(node.args.defaults))
    defaults += node.args.defaults
    pairs = [*zip(arguments, defaults, strict=False)]
    pairs += [*zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    return {
        argument.arg: Option(meanings.get(argument.arg, ""), required=True)
        if default is None
        else Option(meanings.get(argument.arg, ""), module.evaluate(default))
        for argument, default in pairs
    }


def _read_fields(module: _Module, name: str) -> Options:
    found: Options = {}
    owner = module.classes[name]
    for base in owner.bases:
        if isinstance(base, ast.Name) and base.id in module.classes:
            found |= _read_fields(module, base.id)
    for node in owner.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if node.target.id.startswith("_"):  # no option
            continue
        default, meaning = node.value, ""
        if isinstance(default, ast.Call):
            keywords = {keyword.arg: keyword.value for keyword in default.keywords}
            if "description" in keywords:
                meaning = module.evaluate(keywords["description"])
            default = default.args[0] if default.args else None
        found[node.target.id] = (
            Option(meaning, required=True)
            if default is None
            else Option(meaning, module.evaluate(default))
        )
    return found


def _read_meanings(docstring: str) -> dict[str, str]:
    """The ``Args`` of a Google-style docstring, in the words of YAML."""
    _, _, rest = docstring.partition("Args:\n")
    section = re.split(r"\n\S", f"{rest}\n")[0]
    parts = re.split(r"^    (\w+): ", section, flags=re.MULTILINE)[1:]
    return {
        name: _write_as_yaml(" ".join(text.split()))
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


def _write_as_yaml(text: str) -> str:
    for python, value in (("None", "null"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{python}\b", value, text)
    return re.sub(r":\w+:`~?([^`]+)`|``([^`]+)``", r"\1\2", text)
