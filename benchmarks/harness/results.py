"""The figures of a benchmark as Markdown and JSON, with the context that they need."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segkit.core.files import make_folder, write_whole

Row = Mapping[str, object]
"""Column to value; None where there is none."""


@dataclass(frozen=True)
class Section:
    """A table of the results.

    Attributes:
        title: Its heading; empty for none.
        rows: Its rows.
        notes: Paragraphs below it.
    """

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Results:
    """The results of a benchmark.

    Attributes:
        title: The heading.
        command: The command that repeats the figures.
        machine: Facts of :func:`harness.machine.machine_facts`.
        settings: The options.
        sections: The tables.
        notes: Paragraphs above the tables.
        raw: What the tables were made of, for the JSON file alone.
    """

    title: str
    command: str
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write NAME.md and NAME.json, each whole or not at all.

        Raises:
            SegkitError: They cannot be written.
        """
        make_folder(folder)
        files = {
            folder / f"{name}.md": self.markdown(),
            folder / f"{name}.json": json.dumps(make_plain(self.as_dict()), indent=2) + "\n",
        }
        for path, text in files.items():
            write_whole(path, text)
        return list(files)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "title": self.title,
            "command": self.command,
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "tables": {
                section.title or self.title: [dict(row) for row in section.rows]
                for section in self.sections
            },
            "notes": [*self.notes, *(note for s in self.sections for note in s.notes)],
            "raw": dict(self.raw),
        }

    def markdown(self) -> str:
        """As a page."""
        parts = [
            f"# {self.title}",
            f"    {self.command}",
            _describe_machine(self.machine),
            *self.notes,
        ]
        for section in self.sections:
            if section.title:
                parts.append(f"## {section.title}")
            parts += [markdown_table(section.rows), *section.notes]
        return "\n\n".join(part for part in parts if part) + "\n"


def command_line(module: str) -> str:
    """The command line of a script, without the folder of its results."""
    words, typed = [], iter(sys.argv[1:])
    for word in typed:
        if word == "--output":
            next(typed, None)
        elif not word.startswith("--output="):
            words.append(shlex.quote(word))
    return " ".join(["python", module, *words])


def markdown_table(rows: Sequence[Row]) -> str:
    """A table with the columns in the order of first appearance; empty without rows."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not columns:
        return ""
    right = [all(not isinstance(row.get(c), str) for row in rows) for c in columns]
    lines = [columns, ["---:" if numbers else "---" for numbers in right]]
    lines += [
        [format_cell(row.get(column)).replace("|", "\\|") for column in columns] for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_cell(value: object) -> str:
    """A value to read: three digits, thousands set apart."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def make_plain(value: Any) -> Any:
    """A value for JSON: tuples become lists, NaN and infinity null."""
    if isinstance(value, Mapping):
        return {str(key): make_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [make_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _describe_machine(facts: Mapping[str, Any]) -> str:
    parts = [f"{key}: {format_cell(value)}" for key, value in facts.items() if key != "versions"]
    parts += [f"{name} {version}" for name, version in facts.get("versions", {}).items()]
    return "; ".join(parts) + "." if parts else ""
