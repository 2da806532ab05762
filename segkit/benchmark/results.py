"""The figures of a benchmark as Markdown and JSON, with the context that they need."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segkit.core.files import make_folder, write_whole

Row = Mapping[str, Any]
"""Column to value; None if there is none."""


class Section(NamedTuple):
    """A table, with paragraphs below it; the title may be empty."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        title = f"## {self.title}" if self.title else ""
        parts = [title, make_table(self.rows), *self.notes]
        return "\n\n".join(part for part in parts if part)


def write_results(
    folder: Path,
    name: str,
    *,
    title: str,
    command: str,
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
    notes: Sequence[str],
    sections: Sequence[Section],
    data: Mapping[str, Any],
) -> None:
    """Write NAME.md and NAME.json, each whole or not at all.

    Args:
        folder: Where to write them.
        name: Their name.
        title: The heading.
        command: The command that repeats the figures.
        machine: Facts of :func:`segkit.benchmark.measuring.describe_machine`.
        settings: The options.
        notes: Paragraphs above the tables.
        sections: The tables.
        data: What else the JSON file holds.

    Raises:
        SegkitError: They cannot be written.
    """
    make_folder(folder)
    facts = [f"{key}: {format_cell(value)}" for key, value in machine.items() if key != "versions"]
    facts += [f"{package} {version}" for package, version in machine["versions"].items()]
    page = [f"# {title}", f"    {command}", f"{'; '.join(facts)}.", *notes, *map(str, sections)]
    write_whole(folder / f"{name}.md", "\n\n".join(page) + "\n")
    stored = {"title": title, "command": command, "machine": machine, "settings": settings, **data}
    write_whole(folder / f"{name}.json", json.dumps(stored, indent=2, default=str) + "\n")


def make_table(rows: Sequence[Row]) -> str:
    """A Markdown table with the columns in the order of first appearance, numbers on the right."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not columns:
        return ""
    is_text = [any(isinstance(row.get(column), str) for row in rows) for column in columns]
    lines = [columns, ["---" if text else "---:" for text in is_text]]
    lines += [
        [format_cell(row.get(column)).replace("|", "\\|") for column in columns] for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_cell(value: object) -> str:
    """A number with three digits and separated thousands; "-" if there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
