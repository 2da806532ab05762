"""What a search has found: its table, its picture and its words."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

from segkit.core.ensembles import ENSEMBLE, write_ensemble
from segkit.core.files import write_whole
from segkit.core.yaml_files import read_yaml_text
from segkit.report.charts import Estimate, draw_estimates
from segkit.report.table import Row, build_fitting_table, read_csv, write_csv
from segkit.search.halving import FINALISTS, compare
from segkit.search.record import Record, name_training

TABLE, PICTURE, COMMAND = "search.csv", "search.svg", "command.txt"
FEW_STEPS = 100
"""Optimizer steps of a training below which it tells little."""
AREA = 256 * 256
"""Pixels of the crop whose operations are the cost of a network."""


def find_last_round(record: Record, candidate: int) -> int:
    """The last rung in which a candidate was trained on all folds, or has failed."""
    rounds = range(len(record.rounds))
    ended = [n for n in rounds if len(record.list_done(n, candidate)) == record.rounds[n].folds]
    failed = [n for n in rounds if any(d.error for d in record.list_done(n, candidate))]
    return max([*ended, *failed], default=0)


def make_rows(record: Record, folder: Path) -> list[Row]:
    """The rows of the table: who came furthest first, then by score; failed ones are last."""
    score = record.monitor.removeprefix("val/")
    rows: list[tuple[tuple[Any, ...], Row]] = []
    for number in range(len(record.candidates)):
        place = find_last_round(record, number)
        values = record.list_scores(place, number)
        done = record.list_done(place, number)
        mean = statistics.fmean(values) if values else math.nan
        row: dict[str, object] = {
            "candidate": number,
            "settings": record.name(number),
            "rung": place + 1 if done else None,
            score: abs(mean) if record.monitor == "val/loss" else mean,
            "deviation": statistics.stdev(values) if len(values) > 1 else math.nan,
            "folds": len(values),
            "seconds": round(sum(each.seconds for each in record.trainings_of(number))),
            **_read_cost(folder / name_training(place, number, 0)),
        }
        errors = [each.error for each in done if each.error]
        if errors:
            row["error"] = errors[0]
        rank = (bool(errors), -place, math.isnan(mean), 0.0 if math.isnan(mean) else -mean)
        rows.append(((*rank, number), row))
    return [row for _, row in sorted(rows, key=lambda each: each[0])]


def _read_cost(folder: Path) -> dict[str, object]:
    """The parameters of a trained network, and its operations for 256 x 256 pixels."""
    import yaml

    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        config = yaml.safe_load(read_yaml_text(folder / "config.yaml"))
        height, width = config["data"]["crop_size"]
        cost = round(result["gflops"] * AREA / (height * width), 2)
        return {"parameters": result["parameters"], "gflops": cost}
    except Exception:  # a training that has failed has none
        return {"parameters": None, "gflops": None}


def show(record: Record, folder: Path, console: Console, title: str) -> None:
    """Write the table and the picture, and print the table."""
    rows = make_rows(record, folder)
    write_csv(folder / TABLE, rows)
    score = record.monitor.removeprefix("val/")
    estimates = [
        Estimate(
            name=str(row["settings"]) if row in rows[:FINALISTS] else "",
            group=_describe_round(record, int(str(row["rung"])) - 1),
            x=float(str(row["gflops"])),
            y=float(str(row[score])),
            spread=float(str(row["deviation"])),
        )
        for row in reversed(rows)  # the rungs in their order
        if "error" not in row and row["gflops"] is not None
    ]
    label = "GFLOPs for 256 x 256 pixels"
    picture = draw_estimates(estimates, title="Score and cost", x_label=label, y_label=score)
    write_whole(folder / PICTURE, picture)
    shown = [{key: row[key] for key in row if key != "error"} for row in rows]
    hidden = ["gflops", "parameters", "folds", "seconds"]
    console.print(build_fitting_table(shown, title, console, hidden), soft_wrap=False)
    for row in rows:
        if "error" in row:
            console.print(f"failed: {row['candidate']} ({row['settings']}): {row['error']}")


def _describe_round(record: Record, number: int) -> str:
    this = record.rounds[number]
    folds = "1 fold" if this.folds == 1 else f"{this.folds} folds"
    return f"rung {number + 1}: {this.seconds} s, {folds}"


def write_ensembles(record: Record, folder: Path, ranking: list[int]) -> list[Path]:
    """Write ensemble.yaml of the best finalist's folds, ensemble_NUMBER.yaml of the others'."""
    last, written = len(record.rounds) - 1, []
    for place, number in enumerate(ranking):
        runs = [name_training(last, number, fold) for fold in range(record.rounds[last].folds)]
        members = [folder / run / "checkpoints/best.ckpt" for run in runs]
        if len(members) < 2 or not all(member.is_file() for member in members):
            continue
        path = folder / (ENSEMBLE if place == 0 else f"ensemble_{number:02}.yaml")
        write_ensemble(path, members)
        written.append(path)
    return written


def _count_steps(record: Record, folder: Path, number: int) -> int:
    """The optimizer steps of the training of a rung that had fewest; 0 if none tells."""
    this, steps = record.rounds[number], []
    for candidate in this.candidates:
        for fold in range(this.folds):
            path = folder / name_training(number, candidate, fold) / "metrics.csv"
            rows = read_csv(path) if path.is_file() else []
            steps += [int(str(row["step"])) for row in rows[-1:]]
    return min(steps, default=0)


def explain(record: Record, folder: Path, ranking: list[int]) -> list[str]:
    """Say what the choice rests on, and which differences mean something."""
    last = len(record.rounds) - 1
    this = record.rounds[last]
    score = record.monitor.removeprefix("val/")
    folds = "all" if this.folds == record.folds else f"{this.folds} of"
    folds += f" {record.folds} folds"
    lines = [
        f"It rests on {record.images} images, {folds} and at most {this.seconds} s for each"
        " training of the last rung; longer trainings may come in another order."
    ]
    steps = _count_steps(record, folder, 0)
    if 0 < steps < FEW_STEPS:
        lines.append(
            f"In rung 1 there was time for as few as {steps} steps of the optimizer, which says"
            " little about a whole training: give more time, or fewer or smaller candidates."
        )
    if last:
        first = record.rounds[0]
        lines.append(
            f"{len(first.candidates) - len(this.candidates)} of {len(first.candidates)} candidates"
            f" were left out before, after {first.seconds} s or more on a single fold, which is"
            " little to go by."
        )
    best = record.list_scores(last, ranking[0])
    for other in ranking[1:]:
        ahead, spread = compare(best, record.list_scores(last, other))
        text = f"'{record.name(ranking[0])}' is {ahead:.4f} of {score} ahead of"
        text += f" '{record.name(other)}'"
        if math.isnan(spread):
            text += ", on a single fold, so nobody knows whether that is chance."
        elif ahead < spread:
            text += (
                f", less than the deviation of that between folds ({spread:.4f}): these folds do"
                " not tell them apart."
            )
        else:
            text += f"; the deviation of that between folds is {spread:.4f}."
        lines.append(text)
    return lines
