"""Ours against a peer, case by case: what the scripts share."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.process import Measured, Spec, measure
from harness.roofline import Rates, Work, prepare_rates, read_rates
from harness.timing import compute_ratio
from segkit.benchmark.results import Section, format_cell, write_results
from segkit.core.errors import SegkitError

OURS = "segkit"
FOLDER = Path("benchmarks/results")
Rows = list[dict[str, object]]


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


@dataclass(frozen=True)
class Comparison:
    """Cases, what was measured of their candidates, and the machine with its best rates."""

    cases: Sequence[Case]
    found: Mapping[str, Mapping[str, Measured]]
    machine: Mapping[str, Any]
    rates: Rates

    def make_sections(self, *time_notes: str) -> list[Section]:
        """The tables of times, of peak memory, and of the wanted ratios if there are any."""
        sections = [
            Section("Time", self.list_times(), [*time_notes, *self._describe_failures()]),
            Section("Peak memory", self.list_memory()),
        ]
        targets = self.list_targets()
        return [*sections, Section("Targets", targets)] if targets else sections

    def list_times(self) -> Rows:
        """A row for each case: milliseconds of all, the floor of ours, its ratios to the others."""
        rows: Rows = []
        for case in self.cases:
            measured = self.found[case.name]
            ours = measured[OURS]
            row: dict[str, object] = {"case": case.name}
            for name, one in measured.items():
                row[f"{name}, ms"] = 1e3 * statistics.median(one.seconds) if one.seconds else None
            row["floor, ms"] = self._compute_floor(ours)
            for name, one in measured.items():
                if not name.startswith(OURS):
                    paired = ours.seconds and len(ours.seconds) == len(one.seconds)
                    text = str(compute_ratio(ours.seconds, one.seconds)) if paired else "-"
                    row[f"{OURS} / {name}"] = text
            rows.append(row)
        return rows

    def list_memory(self) -> Rows:
        """A row for each case: the peaks of all, and the ratios of ours to the others."""
        rows: Rows = []
        for case in self.cases:
            measured = self.found[case.name]
            row: dict[str, object] = {"case": case.name}
            row |= {f"{name}, MB": one.peak_mb for name, one in measured.items()}
            for name, one in measured.items():
                if not name.startswith(OURS):
                    row[f"{OURS} / {name}"] = _divide_peaks(measured[OURS], one)
            rows.append(row)
        return rows

    def list_targets(self) -> Rows:
        """The wanted ratios and the measured ones."""
        rows: Rows = []
        for case in self.cases:
            for key, most in case.most.items():
                name = key.removesuffix(" MB")
                ours, theirs = self.found[case.name][OURS], self.found[case.name][name]
                value: float | None = None
                if key != name:
                    value = _divide_peaks(ours, theirs)
                elif ours.seconds and len(ours.seconds) == len(theirs.seconds):
                    value = compute_ratio(ours.seconds, theirs.seconds).median
                reached = "not measured"
                if value is not None:
                    reached = "yes" if value <= most else "no"
                rows.append(
                    {
                        "case": case.name,
                        "against": name,
                        "of": "time" if key == name else "memory",
                        "at most": most,
                        "measured": None if value is None else round(value, 3),
                        "reached": reached,
                    }
                )
        return rows

    def as_data(self) -> dict[str, Any]:
        """All that was measured, as plain data."""
        return {
            case: {name: vars(one) for name, one in measured.items()}
            for case, measured in self.found.items()
        }

    def _describe_failures(self) -> list[str]:
        sentences = []
        for case, measured in self.found.items():
            for name, one in measured.items():
                alone = "measured alone, as it failed beside the others." if one.alone else ""
                if one.failure or alone:
                    sentences.append(f"{case}, {name}: {one.failure or alone}")
        return sentences

    def _compute_floor(self, measured: Measured) -> float | None:
        """The least milliseconds for the work of a candidate; None where it was not counted."""
        if "flops" not in measured.facts:
            return None
        return 1e3 * Work(measured.facts["flops"], measured.facts["bytes"]).floor(self.rates)


def compare_cases(
    cases: Sequence[Case],
    options: argparse.Namespace,
    device: str = "cpu",
    dtype: str = "float32",
) -> Comparison:
    """Measure the machine, then the cases that are asked for, one after the other.

    Args:
        cases: All there are.
        options: Of :func:`make_network_parser`.
        device: Whose rates are measured.
        dtype: In which type of numbers.

    Raises:
        SegkitError: No case matches, or the machine cannot be measured.
    """
    names = choose_names([case.name for case in cases], options.only)
    wanted = [case for case in cases if case.name in names]
    facts, rates = measure_machine(device, dtype, options.threads)
    found = {}
    for number, case in enumerate(wanted, start=1):
        print(f"[{number}/{len(wanted)}] {case.name}: {', '.join(case.specs)}", flush=True)
        rounds = case.rounds or options.rounds
        found[case.name] = measure(case.specs, rounds, options.warm_up, options.timeout)
    return Comparison(wanted, found, facts, rates)


def make_parser(doc: str, rounds: int, warm_up: int) -> argparse.ArgumentParser:
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


def make_network_parser(doc: str, rounds: int, warm_up: int) -> argparse.ArgumentParser:
    """The options of scripts that run networks in processes of their own."""
    parser = make_parser(doc, rounds, warm_up)
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
    """Measure the facts and the rates of the machine in a separate process.

    Raises:
        SegkitError: They cannot be measured.
    """
    spec = Spec(prepare_rates, {"device": device, "dtype": dtype}, threads=threads)
    found = measure({"machine": spec}, 1, 0)["machine"]
    if found.failure:
        raise SegkitError(f"device {device} cannot be measured: {found.failure}")
    return found.facts, read_rates(found.facts)


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
    for section in sections:
        print(section.title)
        for row in section.rows:  # tables of many columns do not fit a terminal
            print(f"  {'; '.join(f'{key} {format_cell(value)}' for key, value in row.items())}")
        for note in section.notes:
            print(f"  {note}")
    tables = {section.title or title: section.rows for section in sections}
    paragraphs = [*notes, *(note for section in sections for note in section.notes)]
    write_results(
        options.output,
        name,
        title=title,
        command=command or _repeat_command(f"benchmarks/{name}.py"),
        machine=machine_facts,
        settings={key: str(value) for key, value in vars(options).items() if key != "output"},
        notes=notes,
        sections=sections,
        data={"tables": tables, "notes": paragraphs, "raw": raw},
    )
    print(f"saved: {options.output}/{name}.md and {name}.json")


def _repeat_command(script: str) -> str:
    """The command line of a script, without the folder of its results."""
    words, typed = [], iter(sys.argv[1:])
    for word in typed:
        if word == "--output":
            next(typed, None)
        elif not word.startswith("--output="):
            words.append(shlex.quote(word))
    return " ".join(["python", script, *words])


def _divide_peaks(ours: Measured, theirs: Measured) -> float | None:
    if ours.peak_mb is None or not theirs.peak_mb:
        return None
    return ours.peak_mb / theirs.peak_mb
