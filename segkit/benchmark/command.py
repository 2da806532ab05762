"""The benchmark command: one table of what encoders and necks cost on this machine."""

from __future__ import annotations

import inspect
import json
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from rich.console import Console

from segkit.benchmark.measuring import machine_facts, measure_in_process
from segkit.config.settings import BenchmarkSettings, parse_settings
from segkit.core import plugins
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.files import make_folder, write_whole
from segkit.inference.runtimes.torch_network import choose_device
from segkit.models.encoders import Encoder
from segkit.models.necks import Neck
from segkit.training.record import list_overrides

TITLE = "What encoders and necks cost"
MEASURES = ("M param.", "GFLOPs", "predict ms", "train ms", "predict MB", "train MB")

Row = dict[str, Any]
"""Column to value; None where nothing was measured."""


class Combination(NamedTuple):
    """An encoder and a neck, each with name and options, and the side of the images."""

    encoder: dict[str, Any]
    neck: dict[str, Any]
    side: int

    def __str__(self) -> str:
        return f"{name_part(self.encoder)} + {name_part(self.neck)}, {self.side} x {self.side}"


def benchmark(config: DictConfig) -> Path:
    """Measure encoders x necks x sizes; write and print the table.

    Returns:
        The folder of the results.

    Raises:
        SegkitError: The config cannot be used, or no combination could be measured.
    """
    settings = parse_settings(BenchmarkSettings, config)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    require_known_names(settings)
    device = str(choose_device(settings.device))
    make_folder(settings.output)
    common = settings.model_dump(
        include={"batch", "channels", "classes", "precision", "rounds", "warm_up", "threads"}
    )
    common |= {"device": device, "plugins": plugins.as_list(settings.plugins)}
    combinations = list(combine(settings))
    rows = []
    for number, one in enumerate(combinations, start=1):
        console.print(f"[{number}/{len(combinations)}] {one}")
        found = measure_in_process({**one._asdict(), **common}, settings.timeout)
        rows.append(make_row(one, found["predict"], found["train"]))
    comparison = compare_necks(combinations, rows)
    tables = describe_results(combinations, rows, comparison)
    stored = {"rows": rows, "comparison": comparison}
    write_results(settings, stored, tables, machine_facts(device, settings.threads))
    console.print(f"{tables}\nsaved: {settings.output}/benchmark.md and benchmark.json")
    if all(row["predict ms"] is row["train ms"] is None for row in rows):
        raise SegkitError(f"no combination could be measured: {rows[0]['failure']}")
    return settings.output


def require_known_names(settings: BenchmarkSettings) -> None:
    """Report all misspelt names at once; what cannot be built gets a row that says why."""
    problems = []
    families = (("encoders", Encoder, settings.encoders), ("necks", Neck, settings.necks))
    for key, family, parts in families:
        for part in parts:
            try:
                family.resolve(part.name, {})
            except SegkitError as error:
                problems.append(f"{key}: {error}")
    if problems:
        raise all_at_once("the config cannot be used:", problems)


def combine(settings: BenchmarkSettings) -> Iterator[Combination]:
    """Every size x encoder x neck x way of upsampling.

    A neck that sets its own ``upsample``, or has no such option, occurs once.
    """
    necks: list[dict[str, Any]] = []
    for neck in settings.necks:
        options = neck.as_dict()
        takes = inspect.signature(Neck.resolve(neck.name, {})[0]).parameters
        if "upsample" in options or "upsample" not in takes:
            necks.append(options)
        else:
            necks += [{**options, "upsample": way} for way in settings.upsample]
    for side in settings.sizes:
        for encoder in settings.encoders:
            for options in necks:
                yield Combination(encoder.as_dict(), options, side)


def make_row(one: Combination, predict: Mapping[str, Any], train: Mapping[str, Any]) -> Row:
    """Make a row of the table from the results of :func:`measure_in_process`."""
    parameters = predict.get("parameters", train.get("parameters"))
    reasons = {"predict": predict.get("failure"), "train": train.get("failure")}
    if reasons["predict"] == reasons["train"]:
        failure = reasons["predict"] or ""
    else:
        failure = "; ".join(f"{kind}: {reason}" for kind, reason in reasons.items() if reason)
    return {
        "encoder": name_part(one.encoder),
        "neck": name_part(one.neck),
        "size": one.side,
        "M param.": None if parameters is None else parameters / 1e6,
        "GFLOPs": predict.get("gflops"),
        "predict ms": _median_ms(predict),
        "train ms": _median_ms(train),
        "predict MB": predict.get("peak_mb"),
        "train MB": train.get("peak_mb"),
        "failure": failure,
    }


def describe_results(
    combinations: Sequence[Combination], rows: Sequence[Row], comparison: Sequence[Row]
) -> str:
    """The table, the failures, and the first neck compared with the others."""
    shown = [{key: row[key] for key in row if key != "failure"} for row in rows]
    parts = [_make_table(shown)]
    parts += [
        f"{one}: {row['failure']}"
        for one, row in zip(combinations, rows, strict=True)
        if row["failure"]
    ]
    if comparison:
        what = "The first neck over each other one: medians of the ratios."
        parts += [what, _make_table(comparison)]
    return "\n\n".join(parts)


def compare_necks(combinations: Sequence[Combination], rows: Sequence[Row]) -> list[Row]:
    """What the first neck costs relative to each other one.

    Each ratio is the median over the encoders, sizes and ways of upsampling that both have.
    """
    first = name_part(combinations[0].neck, without="upsample")
    measured: dict[str, dict[str, Row]] = {}  # neck to work to row
    for one, row in zip(combinations, rows, strict=True):
        work = f"{one.encoder} {one.side} {one.neck.get('upsample')}"
        measured.setdefault(name_part(one.neck, without="upsample"), {})[work] = row
    ours = measured.pop(first)
    found = []
    for name, theirs in measured.items():
        pairs = [(ours[work], theirs[work]) for work in theirs if work in ours]
        row = {"necks": f"{first} / {name}"}
        for key in MEASURES:
            ratios = [a[key] / b[key] for a, b in pairs if a[key] is not None and b[key]]
            row[key] = statistics.median(ratios) if ratios else None
        if pairs:
            found.append(row)
    return found


def name_part(part: Mapping[str, Any], without: str = "") -> str:
    """A part in a few words: ``fpn width=64 upsample=nearest``."""
    options = [f"{key}={value}" for key, value in part.items() if key not in ("name", without)]
    return " ".join([str(part["name"]), *options])


def write_results(
    settings: BenchmarkSettings,
    found: Mapping[str, Any],
    tables: str,
    machine: Mapping[str, Any],
) -> None:
    """Write benchmark.md and benchmark.json."""
    typed = [text for text in list_overrides() if not text.startswith("output=")]
    command = " ".join(["python -m segkit.benchmark", *map(shlex.quote, typed)])
    facts = [f"{key}: {value}" for key, value in machine.items() if key != "versions"]
    facts += [f"{name} {version}" for name, version in machine["versions"].items()]
    how = (
        f"Milliseconds are for {settings.batch} images of {settings.channels} channels, medians of"
        f" {settings.rounds} runs; each network has a process of its own. Megabytes are its peak"
        " memory above that after the imports. GFLOPs are for predicting one image, a multiply-add"
        " counts as two. A training step is forward, Dice + cross-entropy, backward and AdamW."
    )
    stored = {
        "title": TITLE,
        "command": command,
        "machine": dict(machine),
        "settings": settings.model_dump(mode="json", exclude={"output"}),
        **found,
    }
    page = [f"# {TITLE}", f"    {command}", f"{'; '.join(facts)}.", how, tables]
    write_whole(settings.output / "benchmark.md", "\n\n".join(page) + "\n")
    write_whole(settings.output / "benchmark.json", json.dumps(stored, indent=2) + "\n")


def _median_ms(found: Mapping[str, Any]) -> float | None:
    return 1e3 * statistics.median(found["seconds"]) if found.get("seconds") else None


def _make_table(rows: Sequence[Row]) -> str:
    """A Markdown table, numbers on the right."""
    columns = list(rows[0])
    lines = [columns, ["---" if isinstance(rows[0][c], str) else "---:" for c in columns]]
    lines += [[_format_cell(row[column]).replace("|", "\\|") for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _format_cell(value: object) -> str:
    """Three digits, or whole numbers with separated thousands."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
