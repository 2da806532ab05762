"""What python -m segkit.benchmark does: one table of what encoders and necks cost."""

from __future__ import annotations

import inspect
import io
import json
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from segkit.benchmark.measuring import machine_facts, measure_in_process, median_ms
from segkit.config.settings import BenchmarkSettings, parse_settings
from segkit.core import plugins
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.files import make_folder, write_whole
from segkit.inference.runtimes.torch_network import choose_device
from segkit.models.encoders import Encoder
from segkit.models.necks import Neck
from segkit.training.record import list_overrides

NAME = "benchmark"
TITLE = "What encoders and necks cost"
MEASURES = ("M param.", "GFLOPs", "predict ms", "train ms", "predict MB", "train MB")

Row = dict[str, Any]
"""Column to value; None where there is none."""


class Combination(NamedTuple):
    """An encoder and a neck, each with name and options, and the side of the images."""

    encoder: dict[str, Any]
    neck: dict[str, Any]
    side: int


def benchmark(config: DictConfig) -> Path:
    """Measure encoders x necks x sizes and write a table, a picture and the figures.

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
    ways = {one.neck.get("upsample") for one in combinations}
    hidden = "upsample" if len(ways) == 1 else ""  # the same in all rows
    rows = []
    for number, one in enumerate(combinations, start=1):
        console.print(f"[{number}/{len(combinations)}] {name_combination(one, hidden)}")
        found = measure_in_process({**one._asdict(), **common}, settings.timeout)
        rows.append(make_row(one, found["predict"], found["train"], hidden))
    comparison = compare_necks(combinations, rows)
    write_results(settings, rows, comparison, machine_facts(device, settings.threads))
    console.print(make_terminal_table(rows, TITLE))
    for text in [*list_failures(rows), *map(describe_comparison, comparison)]:
        console.print(text)
    for ending in ("md", "json", "png"):
        console.print(f"saved: {settings.output / NAME}.{ending}")
    if all(row["predict ms"] is row["train ms"] is None for row in rows):
        raise SegkitError(f"no combination could be measured: {rows[0]['failure']}")
    return settings.output


def require_known_names(settings: BenchmarkSettings) -> None:
    """Report misspelt names at once; what cannot be built gets a row that says why.

    Raises:
        SegkitError: Encoders or necks are unknown; all of them are named.
    """
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

    A neck that states its own ``upsample``, or has no such option, is there once.
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


def make_row(
    one: Combination, predict: Mapping[str, Any], train: Mapping[str, Any], hidden: str = ""
) -> Row:
    """A line of the table, from the results of :func:`measure_in_process`.

    Args:
        one: What was measured.
        predict: The result of predicting.
        train: The result of training steps.
        hidden: An option of necks that is not named.
    """
    parameters = predict.get("parameters", train.get("parameters"))
    reasons = {key: f.get("failure") for key, f in (("predict", predict), ("train", train))}
    if reasons["predict"] == reasons["train"]:
        failure = reasons["predict"] or ""
    else:
        failure = "; ".join(f"{key}: {reason}" for key, reason in reasons.items() if reason)
    return {
        "encoder": name_part(one.encoder),
        "neck": name_part(one.neck, hidden),
        "size": one.side,
        "M param.": None if parameters is None else parameters / 1e6,
        "GFLOPs": predict.get("gflops"),
        "predict ms": median_ms(predict.get("seconds", [])),
        "train ms": median_ms(train.get("seconds", [])),
        "predict MB": predict.get("peak_mb"),
        "train MB": train.get("peak_mb"),
        "failure": failure,
    }


def compare_necks(combinations: Sequence[Combination], rows: Sequence[Row]) -> list[Row]:
    """What the first neck costs against each other one, as ratios.

    Each ratio is the median over the encoders, sizes and ways of upsampling that both have.
    """
    first = name_part(combinations[0].neck, without="upsample")
    measured: dict[tuple[str, str], Row] = {}
    for one, row in zip(combinations, rows, strict=True):
        work = f"{one.encoder} {one.side} {one.neck.get('upsample')}"
        measured[work, name_part(one.neck, without="upsample")] = row
    ratios: dict[str, dict[str, list[float]]] = {}
    for (work, name), theirs in measured.items():
        ours = measured.get((work, first), theirs)
        for key in MEASURES if ours is not theirs else ():
            if ours[key] is not None and theirs[key]:
                own = ratios.setdefault(f"{first} / {name}", {})
                own.setdefault(key, []).append(ours[key] / theirs[key])
    return [
        {
            "necks": names,
            **{key: statistics.median(own[key]) if key in own else None for key in MEASURES},
        }
        for names, own in ratios.items()
    ]


def describe_comparison(row: Row) -> str:
    """A row of :func:`compare_necks` as a sentence."""
    ours, _, theirs = row["necks"].partition(" / ")
    factors = {key: row[key] for key in MEASURES if row[key] is not None}
    more = [f"{key} x {value:.2f}" for key, value in factors.items() if value > 1.02]
    less = [f"{key} x {value:.2f}" for key, value in factors.items() if value < 0.98]
    parts = [
        f"{word}: {', '.join(some)}" for word, some in (("more", more), ("less", less)) if some
    ]
    return f"{ours} costs, compared with {theirs}, {'; '.join(parts) or 'the same'}."


def name_part(part: Mapping[str, Any], without: str = "") -> str:
    """A part in a few words: ``fpn width=64 upsample=nearest``."""
    options = [f"{key}={value}" for key, value in part.items() if key not in ("name", without)]
    return " ".join([str(part["name"]), *options])


def name_combination(one: Combination, hidden: str = "") -> str:
    """A combination in a line."""
    return f"{name_part(one.encoder)} + {name_part(one.neck, hidden)}, {one.side} x {one.side}"


def list_failures(rows: Sequence[Row]) -> list[str]:
    """A sentence for each combination that could not be measured in full."""
    return [
        f"{row['encoder']} + {row['neck']}, {row['size']} x {row['size']}: {row['failure']}"
        for row in rows
        if row["failure"]
    ]


def write_results(
    settings: BenchmarkSettings,
    rows: Sequence[Row],
    comparison: Sequence[Row],
    machine: Mapping[str, Any],
) -> None:
    """Write benchmark.md, benchmark.json and benchmark.png.

    Raises:
        SegkitError: They cannot be written.
    """
    typed = [text for text in list_overrides() if not text.startswith("output=")]
    command = " ".join(["python -m segkit.benchmark", *map(shlex.quote, typed)])
    facts = [f"{key}: {value}" for key, value in machine.items() if key != "versions"]
    facts += [f"{name} {version}" for name, version in machine.get("versions", {}).items()]
    how = (
        f"Milliseconds are for {settings.batch} images of {settings.channels} channels, medians of"
        f" {settings.rounds} runs; each network has a process of its own. Megabytes are its peak"
        " memory above that after the imports. GFLOPs are for predicting one image, a multiply-add"
        " counts as two. A training step is forward, Dice + cross-entropy, backward and AdamW."
    )
    shown = [{key: row[key] for key in row if key != "failure"} for row in rows]
    parts = [f"# {TITLE}", f"    {command}", f"{'; '.join(facts)}.", how]
    parts += [f"![{TITLE}]({NAME}.png)", make_markdown_table(shown), *list_failures(rows)]
    if comparison:
        parts += ["## The first neck against the others", make_markdown_table(comparison)]
        parts += map(describe_comparison, comparison)
    stored = {
        "title": TITLE,
        "command": command,
        "machine": dict(machine),
        "settings": settings.model_dump(mode="json", exclude={"output"}),
        "rows": list(rows),
        "comparison": list(comparison),
    }
    write_whole(settings.output / f"{NAME}.md", "\n\n".join(parts) + "\n")
    write_whole(settings.output / f"{NAME}.json", json.dumps(stored, indent=2) + "\n")
    write_whole(settings.output / f"{NAME}.png", draw_bars(rows))


def make_markdown_table(rows: Sequence[Row]) -> str:
    """The rows as a table of Markdown, numbers to the right."""
    columns = list(rows[0])
    right = [not isinstance(rows[0][column], str) for column in columns]
    lines = [columns, ["---:" if numbers else "---" for numbers in right]]
    lines += [[format_cell(row[column]).replace("|", "\\|") for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def make_terminal_table(rows: Sequence[Row], title: str) -> Table:
    """The rows as a table of rich."""
    table = Table("network", title=title, title_justify="left")
    for key in MEASURES:
        table.add_column(key.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        name = f"{row['encoder']}, {row['size']}\n  {row['neck']}"
        table.add_row(name, *(format_cell(row[key]) for key in MEASURES))
    return table


def format_cell(value: object) -> str:
    """A value to read: three digits, thousands set apart."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def draw_bars(rows: Sequence[Row]) -> bytes:
    """A PNG with a panel of bars for each measure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 1.6 + 0.28 * len(rows)), layout="constrained")
    names = [f"{row['encoder']}, {row['size']}: {row['neck']}" for row in rows]
    necks = list(dict.fromkeys(row["neck"] for row in rows))
    panels = figure.subplots(1, len(MEASURES), sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, MEASURES, strict=True):
        values = [row[key] or 0.0 for row in rows]
        colors = [f"C{necks.index(row['neck'])}" for row in rows]
        bars = axes.barh(range(len(rows)), values, color=colors)
        axes.bar_label(bars, [format_cell(row[key]) for row in rows], padding=3, fontsize=8)
        axes.set(title=key, xlim=(0, 1.35 * max(values) or 1), xticks=[])
    panels[0].set_yticks(range(len(rows)), names, fontsize=8)
    panels[0].invert_yaxis()
    figure.suptitle(TITLE)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
