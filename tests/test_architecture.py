from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "segkit"


def order() -> list[str]:
    """The rooms of docs/architecture.md from top to bottom; those of a line in the line's order."""
    lines = (ROOT / "docs/architecture.md").read_text().splitlines()
    rows = [line.split("|")[1] for line in lines if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


LAZY_UP = {
    # Importing these with the module would make --help and --cfg job wait for torch.
    ("config/fitting.py", "data/"): "names of the mixes",
    ("config/fitting.py", "losses/"): "whether a loss fits the head",
    ("config/fitting.py", "metrics/"): "names of the metrics, and what they fit",
    ("config/fitting.py", "models/"): "what a head and a neck are for",
    ("config/fitting.py", "targets/"): "what a target is for",
    ("config/validation.py", "data/"): "names and options of the data sources and augmentations",
    ("config/validation.py", "losses/"): "names and options of the losses",
    ("config/validation.py", "models/"): "names and options of encoders, necks and heads",
    ("config/validation.py", "optim/"): "names and options of optimizers and schedules",
    ("config/validation.py", "targets/"): "names and options of the targets",
}
"""Imports of a room further down that a function makes when it runs, and why."""


def room(module: str) -> str:
    first = module.split(".")[1]
    return f"{first}/" if (PACKAGE / first).is_dir() else f"{first}.py"


def imports(path: Path) -> set[tuple[str, bool]]:
    """The modules of segkit that a file imports, and whether it does so inside a function."""
    tree = ast.parse(path.read_text())
    for_types_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    at_top = {id(node) for node in tree.body}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types_only and node.module:
            lazy = id(node) not in at_top
            if node.module.startswith("segkit."):
                found.add((node.module, lazy))
            elif node.module == "segkit":
                found |= {(f"segkit.{a.name}", lazy) for a in node.names if a.name[0] != "_"}
    return found


def test_every_room_is_in_the_plan_and_only_those():
    here = {p.name for p in PACKAGE.glob("*.py")} - {"__init__.py"}
    here |= {f"{p.name}/" for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    assert here == set(order())


def test_rooms_import_only_rooms_above_them_and_lazily_what_the_list_allows():
    rooms, lazy_ones = order(), set()
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "__init__.py":
            continue
        inside = path.relative_to(PACKAGE)
        own = f"{inside.parts[0]}/" if len(inside.parts) > 1 else inside.name
        for module, lazy in imports(path):
            other = room(module)
            if rooms.index(other) > rooms.index(own):
                key = (inside.as_posix(), other)
                assert lazy, f"{inside} imports {module}"
                assert key in LAZY_UP, f"{inside} imports {module} in a function"
                lazy_ones.add(key)
    assert lazy_ones == set(LAZY_UP)


def test_only_the_data_room_knows_albumentations():
    users = {
        p.relative_to(PACKAGE).parts[0]
        for p in PACKAGE.rglob("*.py")
        if "import albumentations" in p.read_text()
    }
    assert users == {"data"}
