"""Ours against a peer's, case by case: what the scripts in benchmarks/ share."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segkit.benchmarking.process import Measured, Spec, measure
from segkit.benchmarking.results import Results, cell
from segkit.benchmarking.roofline import Rates, Work, rates_of
from segkit.benchmarking.timing import ratio
from segkit.core.errors import SegkitError

OURS = "segkit"
FOLDER = Path("benchmarks/results")


@dataclass(frozen=True)
class Case:
    """Candidates that do the same work.

    Attributes:
        name: What they do.
        specs: The candidates by name, ours first.
        most: What the ratio of ours to another is to be at most, by its name; with `` MB`` behind
            it that of the memory.
        rounds: Runs of each; None: as asked for.
    """

    name: str
    specs: Mapping[str, Spec]
    most: Mapping[str, float] = field(default_factory=dict)
    rounds: int | None = None


def arguments(doc: str, rounds: int, warm_up: int) -> argparse.ArgumentParser:
    """The options that all scripts have."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="runs of each that count")
    parser.add_argument("--warm-up", type=int, default=warm_up, help="runs before these")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="cases whose name has all of these"
    )
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the results")
    return parser


def network_arguments(doc: str, rounds: int, warm_up: int) -> argparse.ArgumentParser:
    """These, and those of scripts that run networks in processes of their own."""
    parser = arguments(doc, rounds, warm_up)
    parser.add_argument("--threads", type=int, help="threads that compute; all cores if left out")
    parser.add_argument("--timeout", type=float, default=600, help="seconds that a run may take")
    return parser


def require_peers(*modules: str) -> None:
    """End with one line where a peer is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(
            f"error: {' and '.join(missing)} to compare with: pip install 'segkit-torch[peers]'."
        )


def machine_of(
    device: str = "cpu", dtype: str = "float32", threads: int | None = None
) -> tuple[dict[str, Any], Rates]:
    """The facts of the machine and its rates, from a process of its own.

    Raises:
        SegkitError: They cannot be measured.
    """
    target = "segkit.benchmarking.roofline:machine"
    spec = Spec(target, {"device": device, "dtype": dtype}, threads=threads)
    found = measure({"machine": spec}, 1, 0)["machine"]
    if found.failure:
        raise SegkitError(f"device {device} cannot be measured: {found.failure}")
    return found.facts, rates_of(found.facts)


def chosen(cases: Sequence[Case], only: Sequence[str]) -> list[Case]:
    """The cases whose names have all of the texts.

    Raises:
        SegkitError: None has.
    """
    names = chosen_names([case.name for case in cases], only)
    return [case for case in cases if case.name in names]


def chosen_names(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """The names that have all of the texts.

    Raises:
        SegkitError: None has.
    """
    found = [name for name in names if all(text in name for text in only)]
    if not found:
        known = "\n".join(f"  - {name}" for name in names)
        raise SegkitError(f"--only {' '.join(only)} leaves nothing of\n{known}")
    return found


def run_cases(
    cases: Sequence[Case], rounds: int, warm_up: int, timeout: float
) -> dict[str, dict[str, Measured]]:
    """Measure the cases, one after the other, and say which is under way."""
    found = {}
    for number, case in enumerate(cases, start=1):
        print(f"[{number}/{len(cases)}] {case.name}: {', '.join(case.specs)}", flush=True)
        found[case.name] = measure(case.specs, case.rounds or rounds, warm_up, timeout)
    return found


def time_rows(
    cases: Sequence[Case], found: Mapping[str, Mapping[str, Measured]], rates: Rates
) -> list[dict[str, object]]:
    """A line for each case: milliseconds of all, the floor of ours, its ratios to the others."""
    rows = []
    for case in cases:
        measured = found[case.name]
        ours = measured[OURS]
        row: dict[str, object] = {"case": case.name}
        for name, one in measured.items():
            row[f"{name}, ms"] = 1e3 * statistics.median(one.seconds) if one.seconds else None
        row["floor, ms"] = floor(ours, rates)
        for name, one in measured.items():
            if name != OURS and not name.startswith(OURS):
                paired = ours.seconds and len(ours.seconds) == len(one.seconds)
                row[f"{OURS} / {name}"] = str(ratio(ours.seconds, one.seconds)) if paired else "-"
        rows.append(row)
    return rows


def memory_rows(
    cases: Sequence[Case], found: Mapping[str, Mapping[str, Measured]]
) -> list[dict[str, object]]:
    """A line for each case: the peaks of all, and the ratios of ours to the others."""
    rows = []
    for case in cases:
        measured = found[case.name]
        row: dict[str, object] = {"case": case.name}
        row |= {f"{name}, MB": one.peak_mb for name, one in measured.items()}
        for name, one in measured.items():
            if name != OURS and not name.startswith(OURS):
                row[f"{OURS} / {name}"] = _of_peaks(measured[OURS], one)
        rows.append(row)
    return rows


def target_rows(
    cases: Sequence[Case], found: Mapping[str, Mapping[str, Measured]]
) -> list[dict[str, object]]:
    """What was to be reached, and what was."""
    rows: list[dict[str, object]] = []
    for case in cases:
        for key, most in case.most.items():
            name = key.removesuffix(" MB")
            ours, theirs = found[case.name][OURS], found[case.name][name]
            value: float | None = None
            if key != name:
                value = _of_peaks(ours, theirs)
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


def failures(found: Mapping[str, Mapping[str, Measured]]) -> list[str]:
    """A sentence for each candidate that failed, or that was measured apart from the others."""
    said = []
    for case, measured in found.items():
        for name, one in measured.items():
            if one.failure:
                said.append(f"{case}, {name}: {one.failure}")
            elif one.alone:
                said.append(f"{case}, {name}: measured alone, because beside the others it failed.")
    return said


def floor(measured: Measured, rates: Rates) -> float | None:
    """Milliseconds that the work of a candidate takes at least; None where it was not counted."""
    if "flops" not in measured.facts:
        return None
    return 1e3 * Work(measured.facts["flops"], measured.facts["bytes"]).floor(rates)


def raw(found: Mapping[str, Mapping[str, Measured]]) -> dict[str, Any]:
    """All that was measured, as plain data."""
    return {
        case: {name: vars(one) for name, one in measured.items()}
        for case, measured in found.items()
    }


def settings_of(options: argparse.Namespace) -> dict[str, str]:
    """What was asked for, but for where the results go."""
    return {key: str(value) for key, value in vars(options).items() if key != "output"}


def finish(results: Results, folder: Path, name: str) -> None:
    """Print the tables and write the files.

    Raises:
        SegkitError: They cannot be written.
    """
    from rich.console import Console

    console = Console(soft_wrap=True, markup=False, highlight=False)
    for section in results.sections:
        if section.rows:
            console.print(section.title)
        for row in section.rows:  # tables of many columns do not fit a terminal
            console.print("  " + "; ".join(f"{key} {cell(value)}" for key, value in row.items()))
        for note in section.notes:
            console.print(f"  {note}")
    for path in results.write(folder, name):
        console.print(f"saved: {path}")


def _of_peaks(ours: Measured, theirs: Measured) -> float | None:
    if ours.peak_mb is None or not theirs.peak_mb:
        return None
    return ours.peak_mb / theirs.peak_mb
