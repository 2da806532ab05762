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


def room(module: str) -> str:
    first = module.split(".")[1]
    return f"{first}/" if (PACKAGE / first).is_dir() else f"{first}.py"


def imports(path: Path) -> set[str]:
    """The modules of segkit that a file imports when it is itself imported."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("segkit."):
            found.add(node.module)
        elif isinstance(node, ast.ImportFrom) and node.module == "segkit":
            found |= {f"segkit.{alias.name}" for alias in node.names if alias.name[0] != "_"}
    return found


def test_every_room_is_in_the_plan_and_only_those():
    here = {p.name for p in PACKAGE.glob("*.py")} - {"__init__.py"}
    here |= {f"{p.name}/" for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    assert here == set(order())


def test_rooms_import_only_rooms_above_them():
    rooms = order()
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "__init__.py":
            continue
        inside = path.relative_to(PACKAGE)
        own = f"{inside.parts[0]}/" if len(inside.parts) > 1 else inside.name
        for module in imports(path):
            assert rooms.index(room(module)) <= rooms.index(own), f"{inside} imports {module}"


def test_files_have_one_subject_and_are_short():
    long = {p.name: n for p in PACKAGE.rglob("*.py") if (n := p.read_text().count("\n")) > 340}
    assert not long


def test_only_the_data_room_knows_albumentations():
    users = {
        p.parent.name for p in PACKAGE.rglob("*.py") if "import albumentations" in p.read_text()
    }
    assert users == {"data"}
