"""What python -m segkit.benchmark does, from top to bottom."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from segkit.benchmarking.combinations import (
    MEASURES,
    Result,
    combine,
    compare_joins,
    label,
    measure_group,
    shared,
)
from segkit.benchmarking.plot import Bar, Color, draw_bars
from segkit.benchmarking.results import Results, Row, Section, terminal_table
from segkit.benchmarking.side_by_side import machine_of
from segkit.config.settings import BenchmarkSettings, parse_settings
from segkit.core import plugins
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.files import make_folder, write_whole
from segkit.inference.runtimes.torch_network import choose_device
from segkit.models.encoders import Encoder
from segkit.models.necks import Neck
from segkit.training.record import overrides

NAME = "benchmark"
COLORS: dict[str, Color] = {
    "concatenation": (224, 112, 26),
    "addition": (47, 126, 216),
    "another way": (111, 127, 149),
}
FLOOR = (
    "Floor: the operations of convolutions and matrix products, as the architecture says them, over"
    " the rate of a large matrix product or convolution, or the bytes that they read and write over"
    " the rate of a copy, whichever is longer; the rates were measured here. Ways of computing that"
    " save operations can be below it."
)


def benchmark(config: DictConfig) -> Path:
    """Measure encoders x necks and write a table, a picture and all figures.

    Returns:
        The folder.

    Raises:
        SegkitError: The config cannot be used, or no combination could be measured.
    """
    settings = parse_settings(BenchmarkSettings, config)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    _require_names(settings)
    device = str(choose_device(settings.device))
    make_folder(settings.output)
    named = plugins.listed(settings.plugins)
    groups = list(
        combine(
            [part.as_dict() for part in settings.encoders],
            [part.as_dict() for part in settings.necks],
            settings.upsample,
            settings.sizes,
        )
    )
    machine, rates = machine_of(device, settings.precision, settings.threads)
    common = {
        "batch": settings.batch,
        "channels": settings.channels,
        "classes": settings.classes,
        "device": device,
        "dtype": settings.precision,
    }
    results: list[Result] = []
    for number, group in enumerate(groups, start=1):
        results += measure_group(
            group,
            common,
            rates,
            rounds=settings.rounds,
            warm_up=settings.warm_up,
            timeout=settings.timeout,
            plugins=named,
            threads=settings.threads,
            said=lambda text, at=number: console.print(f"[{at}/{len(groups)}] {text}"),  # type: ignore[misc]
        )
    written = write(results, settings, machine)
    for section in written.sections:
        console.print(terminal_table([_narrow(row) for row in section.rows], section.title))
        for note in section.notes:
            console.print(f"  {note}")
    for ending in ("md", "json", "png"):
        console.print(f"saved: {settings.output / NAME}.{ending}")
    if all(result.failure and not result.inference.seconds for result in results):
        raise SegkitError(f"no combination could be measured: {results[0].failure}")
    return settings.output


def write(
    results: Sequence[Result], settings: BenchmarkSettings, machine: dict[str, Any]
) -> Results:
    """Write what was found.

    Args:
        results: One for each combination.
        settings: What was asked for.
        machine: Its facts.

    Raises:
        SegkitError: The files cannot be written.
    """
    but = shared(results)
    failures = [
        f"{label(r.combination.encoder)} + {label(r.combination.neck, but)},"
        f" {r.combination.side} x {r.combination.side}: {r.failure}"
        for r in results
        if r.failure
    ]
    joins = compare_joins(results)
    sections = [Section("Encoders and necks", [r.row(but) for r in results], failures)]
    if joins:
        sections.append(Section("Concatenation against addition", joins, verdicts(joins)))
    asked = [text for text in overrides() if not text.startswith("output=")]
    images = f"{settings.batch} images of {settings.channels} channels"
    found = Results(
        "What encoders and necks cost",
        " ".join(["python -m segkit.benchmark", *map(shlex.quote, asked)]),
        machine,
        settings.model_dump(mode="json", exclude={"output"}),
        sections,
        [
            f"Milliseconds are of {images}, medians of {settings.rounds} runs in turns,"
            " each network in a process of its own; megabytes are the peak of its memory above that"
            " of the imports. GFLOPs are of predicting one image, a multiply-add counting as two."
            f" A training step is forward, Dice + cross-entropy, backward and AdamW. {FLOOR}"
        ],
        f"{NAME}.png",
        {"results": [result.raw() for result in results]},
    )
    found.write(settings.output, NAME)
    write_whole(settings.output / f"{NAME}.png", _picture(results, joins))
    return found


def verdicts(joins: Sequence[dict[str, object]]) -> list[str]:
    """A sentence for each pair of :func:`compare_joins`."""
    said = []
    for row in joins:
        name = str(row["concatenation / addition"])
        parts = {key: value for key in MEASURES if isinstance(value := row[key], float)}
        more = [f"{key} x {value:.2f}" for key, value in parts.items() if value > 1.02]
        less = [f"{key} x {value:.2f}" for key, value in parts.items() if value < 0.98]
        ours, _, theirs = name.partition(" / ")
        text = f"Concatenation ({ours}) against addition ({theirs}) costs"
        text += f" more in {', '.join(more)}" if more else ""
        text += "; and" if more and less else ""
        text += f" less in {', '.join(less)}" if less else ""
        said.append(f"{text if more or less else text + ' the same'}.")
    return said


def _narrow(row: Row) -> Row:
    """What a terminal has room for: the floors are in the files."""
    if "encoder" not in row:
        return row
    name = f"{row['encoder']}, {row['size']}\n  {row['neck']}"
    return {"network": name} | {key: row[key] for key in MEASURES}


def _picture(results: Sequence[Result], joins: Sequence[dict[str, object]]) -> bytes:
    bars = []
    for result in results:
        at = result.combination
        bars.append(
            Bar(
                f"{label(at.encoder)}, {at.side} x {at.side}",
                label(at.neck, shared(results)),
                COLORS[at.joins or "another way"],
                result.values(),
                result.floors(),
                result.failure,
            )
        )
    used = {result.combination.joins or "another way" for result in results}
    return draw_bars(
        bars,
        MEASURES,
        {name: color for name, color in COLORS.items() if name in used},
        "What encoders and necks cost: does concatenation cost more than addition?",
        verdicts(joins),
        "floor of this machine",
    )


def _require_names(settings: BenchmarkSettings) -> None:
    """Typing errors are said at once; what cannot be built is said in its row.

    Raises:
        SegkitError: There is no such encoder or neck; all of them are named.
    """
    problems = []
    for key, family, parts in (
        ("encoders", Encoder, settings.encoders),
        ("necks", Neck, settings.necks),
    ):
        for part in parts:
            try:
                family.resolve(part.name, {})
            except SegkitError as error:
                problems.append(f"{key}: {error}")
    if problems:
        raise all_at_once("the config cannot be used:", problems)
