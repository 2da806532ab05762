"""Ours against a peer, case by case: what the scripts share."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.process import Measured, Spec, measure
from harness.results import Results, Section, command_line, format_cell
from harness.roofline import Rates, Work, machine, rates_of
from harness.timing import ratio
from segkit.core.errors import SegkitError

OURS = "segkit"
FOLDER = Path("benchmarks/results")


@dataclass(frozen=True)
class Case:
    """Candidates that do the same work.

    Attributes:
        name: What they do.
        specs: The candidates by name, ours first.
        most: The highest wanted ratio of ours to another, by its name; with `` MB`` appended that
            of the memory.
        rounds: Runs of each; None: as the options say.
    """

    name: str
    specs: Mapping[str, Spec]
    most: Mapping[str, float] = field(default_factory=dict)
    rounds: int | None = None


def arguments(doc: str, rounds: int, warm_up: int) -> argparse.ArgumentParser:
    """The options of all scripts."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="timed runs of each")
    parser.add_argument("--warm-up", type=int, default=warm_up, help="runs before those")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="cases whose name contains all of these",
    )
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the results")
    return parser


def network_arguments(doc: str, rounds: int, warm_up: int) -> argparse.ArgumentParser:
    """The options of scripts that run networks in processes of their own."""
    parser = arguments(doc, rounds, warm_up)
    parser.add_argument("--threads", type=int, help="threads that compute; default: all cores")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a run may take")
    return parser


def require_peers(*modules: str) -> None:
    """End with one line if a peer is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(
            f"error: {' and '.join(missing)} is needed for the comparison: pip install"
            " 'segkit-torch[peers]'."
        )


def measure_machine(
    device: str = "cpu", dtype: str = "float32", threads: int | None = None
) -> tuple[dict[str, Any], Rates]:
    """Measure the facts and the rates of the machine in a process of its own.

    Raises:
        SegkitError: They cannot be measured.
    """
    spec = Spec(machine, {"device": device, "dtype": dtype}, threads=threads)
    found = measure({"machine": spec}, 1, 0)["machine"]
    if found.failure:
        raise SegkitError(f"device {device} cannot be measured: {found.failure}")
    return found.facts, rates_of(found.facts)


def choose_cases(cases: Sequence[Case], only: Sequence[str]) -> list[Case]:
    """The cases whose names contain all of the texts.

    Raises:
        SegkitError: No name does.
    """
    names = choose_names([case.name for case in cases], only)
    return [case for case in cases if case.name in names]


def choose_names(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """The names that contain all of the texts.

    Raises:
        SegkitError: No name does.
    """
    found = [name for name in names if all(text in name for text in only)]
    if not found:
        known = "\n".join(f"  - {name}" for name in names)
        raise SegkitError(f"--only {' '.join(only)} matches none of\n{known}")
    return found


def run_cases(
    cases: Sequence[Case], rounds: int, warm_up: int, timeout: float
) -> dict[str, dict[str, Measured]]:
    """Measure the cases one after the other and print which one is running."""
    found = {}
    for number, case in enumerate(cases, start=1):
        print(f"[{number}/{len(cases)}] {case.name}: {', '.join(case.specs)}", flush=True)
        found[case.name] = measure(case.specs, case.rounds or rounds, warm_up, timeout)
    return found


def list_times(
    cases: Sequence[Case], found: Mapping[str, Mapping[str, Measured]], rates: Rates
) -> list[dict[str, object]]:
    """A row for each case: milliseconds of all, the floor of ours, its ratios to the others."""
    rows = []
    for case in cases:
        measured = found[case.name]
        ours = measured[OURS]
        row: dict[str, object] = {"case": case.name}
        for name, one in measured.items():
            row[f"{name}, ms"] = 1e3 * statistics.median(one.seconds) if one.seconds else None
        row["floor, ms"] = compute_floor(ours, rates)
        for name, one in measured.items():
            if name != OURS and not name.startswith(OURS):
                paired = ours.seconds and len(ours.seconds) == len(one.seconds)
                row[f"{OURS} / {name}"] = str(ratio(ours.seconds, one.seconds)) if paired else "-"
        rows.append(row)
    return rows


def list_memory(
    cases: Sequence[Case], found: Mapping[str, Mapping[str, Measured]]
) -> list[dict[str, object]]:
    """A row for each case: the peaks of all, and the ratios of ours to the others."""
    rows = []
    for case in cases:
        measured = found[case.name]
        row: dict[str, object] = {"case": case.name}
        row |= {f"{name}, MB": one.peak_mb for name, one in measured.items()}
        for name, one in measured.items():
            if name != OURS and not name.startswith(OURS):
                row[f"{OURS} / {name}"] = _divide_peaks(measured[OURS], one)
        rows.append(row)
    return rows


def list_targets(
    cases: Sequence[Case], found: Mapping[str, Mapping[str, Measured]]
) -> list[dict[str, object]]:
    """The wanted ratios and the measured ones."""
    rows: list[dict[str, object]] = []
    for case in cases:
        for key, most in case.most.items():
            name = key.removesuffix(" MB")
            ours, theirs = found[case.name][OURS], found[case.name][name]
            value: float | None = None
            if key != name:
                value = _divide_peaks(ours, theirs)
            elif ours.seconds and len(ours.seconds) == len(theirs.seconds):
                value = ratio(ours.seconds, theirs.seconds).median
            rows.append(
                {
                    "case": case.name,
                    "against": name,
                    "of": "time" if key == name else "memory",
                    "at most": most,
                    "measured": None if value is None else round(value, 3),
                    "reached": "not measured"
                    if value is None
                    else "yes"
                    if value <= most
                    else "no",
                }
            )
    return rows


def list_failures(found: Mapping[str, Mapping[str, Measured]]) -> list[str]:
    """A sentence for each candidate that failed or was measured apart from the others."""
    sentences = []
    for case, measured in found.items():
        for name, one in measured.items():
            if one.failure:
                sentences.append(f"{case}, {name}: {one.failure}")
            elif one.alone:
                sentences.append(f"{case}, {name}: measured alone, as it failed beside the others.")
    return sentences


def compute_floor(measured: Measured, rates: Rates) -> float | None:
    """The least milliseconds for the work of a candidate; None where it was not counted."""
    if "flops" not in measured.facts:
        return None
    return 1e3 * Work(measured.facts["flops"], measured.facts["bytes"]).floor(rates)


def as_data(found: Mapping[str, Mapping[str, Measured]]) -> dict[str, Any]:
    """All that was measured, as plain data."""
    return {
        case: {name: vars(one) for name, one in measured.items()}
        for case, measured in found.items()
    }


def publish(
    name: str,
    title: str,
    options: argparse.Namespace,
    machine_facts: Mapping[str, Any],
    sections: Sequence[Section],
    notes: Sequence[str],
    raw: Mapping[str, Any],
    command: str = "",
) -> None:
    """Print the tables and write NAME.md and NAME.json into the folder of the results.

    Args:
        name: Of the script and the files.
        title: The heading.
        options: What the script was asked for.
        machine_facts: Of :func:`measure_machine`.
        sections: The tables.
        notes: Paragraphs above them.
        raw: What the tables were made of.
        command: The command line to show; as it was typed if left out.

    Raises:
        SegkitError: They cannot be written.
    """
    from rich.console import Console

    console = Console(soft_wrap=True, markup=False, highlight=False)
    for section in sections:
        if section.rows:
            console.print(section.title)
        for row in section.rows:  # tables of many columns do not fit a terminal
            cells = (f"{key} {format_cell(value)}" for key, value in row.items())
            console.print(f"  {'; '.join(cells)}")
        for note in section.notes:
            console.print(f"  {note}")
    settings = {key: str(value) for key, value in vars(options).items() if key != "output"}
    command = command or command_line(f"benchmarks/{name}.py")
    results = Results(title, command, machine_facts, settings, sections, notes, raw)
    for path in results.write(options.output, name):
        console.print(f"saved: {path}")


def _divide_peaks(ours: Measured, theirs: Measured) -> float | None:
    if ours.peak_mb is None or not theirs.peak_mb:
        return None
    return ours.peak_mb / theirs.peak_mb
