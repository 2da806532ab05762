"""One page that compares runs: what differs, scores, curves, and the same images side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.report.charts import MOST_LINES, Points, choose_line, draw_chart
from segkit.report.overlay import list_error_colors, split_comparison
from segkit.report.page import embed, encode_png, make_file_stem, make_templates
from segkit.report.runs import PAGE, RunRecord, is_less_better
from segkit.report.table import format_cell, format_heading, is_missing, list_columns

MARK = "segkit report"
"""What pages of this kind say of themselves, so that no other file is overwritten."""
SHOWN = 4
"""Images of each kind."""
_UNSHOWN = ("name", "resume", "plugins", "data.val_names", "trainer.progress_bar", "metrics")
_UNSHOWN_SECTIONS = ("logger",)
_OF_MACHINE = ("segkit", "torch", "timm", "device", "gpu", "precision", "pretrained")
"""Entries of environment.json that may explain a difference."""
_LONGEST_HINT, _LONGEST_VALUE = 48, 60  # characters
_WIDEST, _ENLARGED = 512, 256  # pixels of a picture in a row of several


@dataclass(frozen=True)
class Cell:
    """A cell of a table; ``whole`` is a text that was cut."""

    text: str
    small: str = ""
    whole: str = ""
    is_best: bool = False
    is_number: bool = False


@dataclass(frozen=True)
class Grid:
    """A table: headings, and rows of a run's number, or a text, and cells."""

    corner: str
    heads: Sequence[int | str]
    rows: Sequence[tuple[int | str, Sequence[Cell]]]


@dataclass(frozen=True)
class SideBySide:
    """An image with the predictions of several runs.

    Attributes:
        pictures: The image and the truth, as sources of ``<img>``.
        found: Number of a run, its score, and its prediction and errors.
        others: Number and score of runs that have kept no picture.
    """

    name: str
    pictures: tuple[str, str]
    found: Sequence[tuple[int, str, tuple[str, str]]]
    others: Sequence[tuple[int, str]]


def write_comparison(path: Path, runs: Sequence[RunRecord]) -> None:
    """Write the page.

    Raises:
        SegkitError: The file is not one that this has written, or cannot be written.
    """
    if path.is_dir() or (path.exists() and not _is_ours(path)):
        raise SegkitError(
            f"output={path}: there is something else of that name, which stays. Name another file."
        )
    runs = sort_runs(runs)
    settings, rest = compare_options(runs)
    chosen = choose_images(runs)
    page = make_templates().get_template("comparison.html.jinja")
    text = page.render(
        mark=MARK,
        runs=runs,
        hints=make_hints(runs, settings),
        links=[_find_link(run, path.parent) for run in runs],
        lines=[choose_line(number) for number in range(len(runs))],
        most_lines=MOST_LINES,
        notes=list_notes(runs),
        scores=tabulate_scores(runs),
        settings=_make_grid(runs, settings),
        rest=_make_grid(runs, rest),
        classes=tabulate_classes(runs),
        charts=draw_curves(runs),
        images=chosen,
        error_colors=list_error_colors(max((len(r.class_names) for r in runs), default=0) + 1),
        score_name=format_heading(_first_score(runs)),
        shares_images=len(_find_shared(runs)) > 0,
    )
    write_whole(path, text)


def sort_runs(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The best first, by the metric that most monitor; those without scores come last."""
    name = _first_monitor(runs).removeprefix("val/")

    def order(run: RunRecord) -> tuple[bool, float]:
        value = _number(run.scores.get(name, {}).get("value"))
        best = run.find_best_epoch() if value is None else None
        if best is not None and run.monitor == f"val/{name}":
            value = best[1]
        if value is None:
            return True, 0.0
        return False, value if is_less_better(name) else -value

    return sorted(runs, key=order)


def compare_options(
    runs: Sequence[RunRecord],
) -> tuple[dict[str, list[str | None]], dict[str, list[str | None]]]:
    """The options that differ: those that all runs have, and those that only some have."""
    told = [run for run in runs if run.options]
    trained = [run for run in told if "encoder.name" in run.options] or told
    keys = dict.fromkeys(key for run in told for key in run.options)
    shown, rest = dict[str, list[str | None]](), dict[str, list[str | None]]()
    for key in keys:
        if key in _UNSHOWN or key.partition(".")[0] in _UNSHOWN_SECTIONS:
            continue
        values = [_write(run.options[key]) if key in run.options else None for run in runs]
        if len({value for run, value in zip(runs, values, strict=True) if run in told}) > 1:
            in_all = all(key in run.options for run in trained)
            (shown if in_all else rest)[key] = values
    for key in _OF_MACHINE:
        values = [_write(r.environment[key]) if key in r.environment else None for r in runs]
        if len({value for value in values if value is not None}) > 1 and key not in shown:
            shown[f"{key} (environment)"] = values
    return shown, rest


def make_hints(runs: Sequence[RunRecord], settings: Mapping[str, list[str | None]]) -> list[str]:
    """For each run the few options that tell it from the others; empty if that is long."""
    named = {key: values for key, values in settings.items() if "(" not in key}
    hints = [
        ", ".join(
            f"{key.removesuffix('.name').rpartition('.')[2]}={values[number]}"
            for key, values in named.items()
            if values[number] is not None
        )
        for number in range(len(runs))
    ]
    return hints if max(map(len, hints), default=0) <= _LONGEST_HINT else [""] * len(runs)


def list_notes(runs: Sequence[RunRecord]) -> list[str]:
    """What is wrong with single runs, and which do not compare."""
    notes = [f"{run.label}: {problem}" for run in runs for problem in run.problems]
    groups = _group(runs)
    if len(groups) > 1:
        described = [
            f"{', '.join(runs[n].label for n in group)}"
            f" ({len(runs[group[0]].images)} images; {', '.join(runs[group[0]].class_names)})"
            for group in groups
        ]
        several = any(len(group) > 1 for group in groups)
        end = "The best of each group is bold." if several else "So nothing is bold."
        notes.append(
            "Scores compare only among runs that were scored on the same images and classes. Here"
            f" are {len(groups)} groups: {' | '.join(described)}. {end}"
        )
    if len({run.monitor for run in runs if run.history}) > 1:
        notes.append("The runs monitor different metrics; there is a chart of each.")
    return notes


def tabulate_scores(runs: Sequence[RunRecord]) -> Grid:
    """A row per run: what it took, and its scores with intervals."""
    names = list(dict.fromkeys(name for run in runs for name in run.scores))
    first = _first_monitor(runs).removeprefix("val/")
    names.sort(key=lambda name: name != first)  # stable: the monitored one comes first
    best = {name: _find_best(runs, name) for name in names}
    trained = any(run.history for run in runs)
    heads = [*(["Parameters", "Training", "Epochs", "Best epoch"] if trained else []), *names]
    rows: list[tuple[int | str, list[Cell]]] = []
    for number, run in enumerate(runs):
        cells = []
        if trained:
            epoch = run.find_best_epoch()
            cells = [
                _count(run.result.get("parameters")),
                Cell(_write_time(run), is_number=True),
                _count(len(run.history) or None),
                _count(None if epoch is None else epoch[0]),
            ]
        for name in names:
            row = run.scores.get(name, {})
            low, high = row.get("low"), row.get("high")
            interval = "" if is_missing(low) else f"{format_cell(low)} – {format_cell(high)}"
            text = format_cell(row.get("value"), "–")
            cells.append(Cell(text, interval, is_best=number in best[name], is_number=True))
        rows.append((number, cells))
    return Grid("Run", [h if h[0].isupper() else format_heading(h) for h in heads], rows)


def tabulate_classes(runs: Sequence[RunRecord]) -> list[tuple[str, Grid]]:
    """For each score that classes have, a row per class and a column per run."""
    scored = [n for n, run in enumerate(runs) if run.classes]
    columns = list_columns([row for n in scored for row in runs[n].classes])
    names = list(dict.fromkeys(name for n in scored for name in runs[n].class_names))
    groups = _group(runs)
    found = []
    for column in columns:
        if column in ("class", "support"):
            continue
        rows = []
        for name in names:
            values = [_find_class(runs[n], name, column) for n in scored]
            best = {
                index
                for group in groups
                for index in _choose_best(
                    {i: values[i] for i, n in enumerate(scored) if n in group}, column
                )
            }
            cells = [
                Cell(format_cell(v, "–"), is_best=i in best, is_number=True)
                for i, v in enumerate(values)
            ]
            rows.append((name, cells))
        found.append((format_heading(column), Grid("Class", scored, rows)))
    return found


def draw_curves(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Charts of the monitored metrics and of the losses over epochs and over time."""
    keys = dict.fromkeys(run.monitor for run in runs if run.history)
    keys |= dict.fromkeys(["val/loss", "train/loss"])
    longest = max((_seconds(run.history[-1]) for run in runs if run.history), default=0.0)
    unit, size = next((u, s) for u, s in _UNITS if longest >= 2 * s or s == 1)
    drawn = []
    for key in keys:
        for label, column, scale in (
            ("epoch", "epoch", 1.0),
            (f"{unit} of training", "seconds", size),
        ):
            series: dict[str, Points] = {
                run.label: [
                    (x / scale, _number(row.get(key)))
                    for row in run.history
                    if (x := _number(row.get(column))) is not None
                    and not is_missing(row.get(key))  # not every epoch is validated
                ]
                for run in runs[:MOST_LINES]
            }
            if any(series.values()):
                title = f"{key} over {'epochs' if column == 'epoch' else 'time'}"
                svg = draw_chart(series, title=title, x_label=label)
                drawn.append((title, embed(svg.encode(), "image/svg+xml")))
    return drawn


_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def choose_images(runs: Sequence[RunRecord]) -> list[tuple[str, str, list[SideBySide]]]:
    """Images for which runs differ most, and those where all are worst: heading, hint, images."""
    score = _first_score(runs)
    sign = -1.0 if is_less_better(score) else 1.0
    spread, level, pictured = dict[str, float](), dict[str, float](), dict[str, int]()
    for name in _find_shared(runs):
        values = [_number(run.images.get(name, {}).get(score)) for run in runs]
        known = [sign * value for value in values if value is not None]
        pictured[name] = sum(make_file_stem(name) in run.pictures for run in runs)
        if known and pictured[name]:
            spread[name], level[name] = max(known) - min(known), float(np.mean(known))
    # those that several runs have pictures of tell more
    several = [name for name in spread if pictured[name] > 1] or list(spread)
    differing = sorted((n for n in several if spread[n] > 0), key=lambda n: -spread[n])[:SHOWN]
    worst = sorted((n for n in several if n not in differing), key=lambda n: level[n])[:SHOWN]
    found = []
    for heading, hint, names in (
        ("Where the runs differ most", f"By the range of {format_heading(score)}.", differing),
        ("Where all are worst", f"By the mean {format_heading(score)} of the runs.", worst),
    ):
        shown = [each for name in names if (each := _put_side_by_side(runs, name, score))]
        if shown:
            found.append((heading, hint, shown))
    return found


def _put_side_by_side(runs: Sequence[RunRecord], name: str, score: str) -> SideBySide | None:
    stem, found, others = make_file_stem(name), [], []
    given: tuple[str, str] | None = None
    for number, run in enumerate(runs):
        if name not in run.images:
            continue
        value = format_cell(run.images[name].get(score), "–")
        parts = _read_panel(run.pictures.get(stem))
        if parts is None:
            others.append((number, value))
            continue
        image, truth, prediction, errors = map(_embed_part, parts)
        given = given or (image, truth)
        found.append((number, value, (prediction, errors)))
    return None if given is None else SideBySide(name, given, found, others)


def _read_panel(path: Path | None) -> list[NDArray[np.uint8]] | None:
    if path is None:
        return None
    try:
        with Image.open(path) as picture:
            return split_comparison(np.asarray(picture.convert("RGB")))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _embed_part(picture: NDArray[np.uint8]) -> str:
    """Encode a part of a panel, which several of stand in a row."""
    width = picture.shape[1]
    if width > _WIDEST:
        size = _WIDEST, max(1, round(picture.shape[0] * _WIDEST / width))
        picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    times = max(1, _ENLARGED // max(picture.shape[:2]))
    return embed(encode_png(picture.repeat(times, axis=0).repeat(times, axis=1)), "image/png")


def _find_shared(runs: Sequence[RunRecord]) -> list[str]:
    """Names of the images that several runs have scored."""
    names = dict.fromkeys(name for run in runs for name in run.images)
    return [name for name in names if sum(name in run.images for run in runs) > 1]


def _group(runs: Sequence[RunRecord]) -> list[list[int]]:
    """Numbers of the runs that were scored on the same images and classes."""
    groups: dict[Any, list[int]] = {}
    for number, run in enumerate(runs):
        if run.scores:
            groups.setdefault((run.class_names, frozenset(run.images)), []).append(number)
    return list(groups.values())


def _find_best(runs: Sequence[RunRecord], name: str) -> set[int]:
    """The runs with the best value of a score, each among those that it compares with."""
    best: set[int] = set()
    for group in _group(runs):
        best |= _choose_best(
            {n: _number(runs[n].scores.get(name, {}).get("value")) for n in group}, name
        )
    return best


def _choose_best(values: Mapping[int, float | None], score: str) -> set[int]:
    """The keys of the best value; none if there is nothing to choose from."""
    known = {key: value for key, value in values.items() if value is not None}
    if len(set(known.values())) < 2:
        return set()
    best = (min if is_less_better(score) else max)(known.values())
    return {key for key, value in known.items() if value == best}


def _find_class(run: RunRecord, name: str, column: str) -> float | None:
    rows = [row for row in run.classes[:-1] if str(row["class"]) == name]
    return _number(rows[0].get(column)) if rows else None


def _make_grid(runs: Sequence[RunRecord], options: Mapping[str, list[str | None]]) -> Grid:
    """A row per option, or per run if these are more."""
    cells = {k: [_shorten(v) for v in values] for k, values in options.items()}
    if len(options) >= len(runs):
        return Grid("Option", range(len(runs)), list(cells.items()))
    rows = [(n, [column[n] for column in cells.values()]) for n in range(len(runs))]
    return Grid("Run", list(cells), rows)


def _shorten(value: str | None) -> Cell:
    if value is None:
        return Cell("–")
    if len(value) <= _LONGEST_VALUE:
        return Cell(value)
    return Cell(f"{value[: _LONGEST_VALUE - 1]}…", whole=value)


def _first_monitor(runs: Sequence[RunRecord]) -> str:
    names = [run.monitor for run in runs]
    return max(dict.fromkeys(names), key=names.count)


def _first_score(runs: Sequence[RunRecord]) -> str:
    names = [run.first_score for run in runs if run.images] or ["iou"]
    return max(dict.fromkeys(names), key=names.count)


def _find_link(run: RunRecord, start: Path) -> str:
    """The page of a run, seen from the folder of this one; empty if it has none."""
    page = run.folder / PAGE
    if not page.is_file():
        return ""
    try:
        return quote(Path(os.path.relpath(page.resolve(), start.resolve())).as_posix())
    except ValueError:  # another drive of Windows
        return page.resolve().as_uri()


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return f'name="generator" content="{MARK}"'.encode() in file.read(2000)
    except OSError:
        return False


def _count(value: object) -> Cell:
    return Cell(format_cell(value, "–"), is_number=True)


def _write_time(run: RunRecord) -> str:
    seconds = _number(run.result.get("seconds"))
    if seconds is None and run.history:
        seconds = _seconds(run.history[-1])
    if seconds is None:
        return "–"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {left:02d} s" if minutes else f"{left} s"


def _seconds(row: Mapping[str, object]) -> float:
    return _number(row.get("seconds")) or 0.0


def _number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return None
    return float(value)


def _write(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
