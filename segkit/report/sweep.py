"""The table of a sweep: its jobs, best first, or means and deviations over seeds."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from segkit.cli.launch import USER_ERROR
from segkit.core.ensembles import ENSEMBLE, write_ensemble
from segkit.core.files import write_whole
from segkit.report.table import build_table, is_missing, write_csv

_COLUMNS = ("val/iou", "val/dice", "parameters", "gflops", "epochs", "seconds", "seconds_per_step")
_FIXED = ("parameters", "gflops")
"""Columns that do not depend on the seed."""
_DISPENSABLE = ("seconds_per_step", "epochs", "gflops", "parameters", "seconds", "dice", "iou")
"""Columns that a narrow terminal drops, in this order; the files have all."""
_ERROR_WIDTH = 30  # at least; their text can be wrapped
_DECIMALS = {"epochs": 1, "seconds": 0}
"""Decimals of printed means; others have four."""
REPEATED = ("seed", "fold")
"""Keys whose jobs are repetitions of one setting."""
UNFINISHED = "it was killed, or still runs"
"""The error of a job without a result."""

Row = dict[str, object]


class SweepTable(Callback):
    """Prints and saves one table after the jobs of ``--multirun``.

    ``sweep.csv`` has a row per job. If jobs differ only in their seed or fold, the printed table
    and ``sweep_seeds.csv`` or ``sweep_folds.csv`` have a row per setting with mean and standard
    deviation over them. It reads the ``result.json`` of each job, so it works with every launcher
    of Hydra. ``sweep.csv`` is up to date whenever a job has begun or ended, so no table waits for a
    job that was killed.
    """

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Let a job have no result, until it has one."""
        path = Path(config.hydra.runtime.output_dir, "result.json")
        if config.hydra.mode == RunMode.MULTIRUN and not path.is_file():
            result = {"overrides": list(config.hydra.overrides.task), "error": UNFINISHED}
            write_whole(path, json.dumps(result, indent=2))
        self.on_job_end(config)

    def on_job_end(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        """Save the table of the jobs so far."""
        if config.hydra.mode == RunMode.MULTIRUN:
            folder = Path(config.hydra.sweep.dir)
            write_csv(folder / "sweep.csv", [job.make_row() for job in read_jobs(folder)])

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print and save the table."""
        folder = Path(config.hydra.sweep.dir)
        jobs = read_jobs(folder)
        if not jobs:
            return
        tables = {"sweep.csv": [job.make_row() for job in jobs]}
        shown, title = [job.make_printed_row() for job in jobs], f"{len(jobs)} jobs, best first"
        settings = group_by_setting(jobs)
        if len(settings) < len(jobs):
            repeats = name_repeats(jobs)
            rows = [summarize_repeats(setting, repeats) for setting in settings]
            tables[f"sweep_{repeats}.csv"] = [row for row, _ in rows]
            shown = [printed for _, printed in rows]
            title += f"; mean ± standard deviation over the {repeats}"
        same = find_shared_overrides(jobs)
        shown = [
            {key.removeprefix("val/"): row[key] for key in row if key not in same} for row in shown
        ]

        console = Console(soft_wrap=True, markup=False, highlight=False)
        monitored = {job.monitor.removeprefix("val/") for job in jobs}
        console.print(_build_fitting_table(shown, title, console, kept=monitored))
        if same:
            console.print("all with: " + " ".join(f"{key}={value}" for key, value in same.items()))
        for name, table in tables.items():
            write_csv(folder / name, table)
            console.print(f"saved: {folder / name}")
        members = list_members(folder, settings[0])
        if members:
            write_ensemble(folder / ENSEMBLE, members)
            console.print(f"saved: {folder / ENSEMBLE}, {len(members)} networks as one")
        if any(job.error for job in jobs):
            sys.exit(USER_ERROR)  # jobs in other processes cannot


@dataclass(frozen=True)
class Job:
    """The result of a job.

    Attributes:
        monitor: The metric that selects its best checkpoint.
        measured: The monitored metric, then others; NaN if undefined.
        error: Why it failed, or empty.
    """

    name: str
    overrides: dict[str, str]
    monitor: str
    measured: dict[str, float]
    error: str = ""

    @property
    def rank(self) -> float:
        """The monitored metric, negated if less is better; NaN if undefined."""
        value = self.measured.get(self.monitor, math.nan)
        return -value if self.monitor == "val/loss" else value

    def make_row(self) -> Row:
        """Make its row of sweep.csv."""
        row: Row = {"job": self.name, **self.overrides, **self.measured}
        return row | ({"error": self.error} if self.error else {})

    def make_printed_row(self) -> Row:
        """Make its row in the terminal, with whole seconds."""
        seconds = self.measured.get("seconds", math.nan)
        return self.make_row() | ({} if math.isnan(seconds) else {"seconds": round(seconds)})


def read_jobs(folder: Path) -> list[Job]:
    """Read the jobs of a sweep, sorted by the monitored metric; failed ones are last."""
    jobs = []
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        monitor = result.get("monitor", "")
        keys = [key for key in dict.fromkeys([monitor, *_COLUMNS]) if key in result]
        job = Job(
            name=path.parent.name,
            overrides=dict(text.lstrip("+").partition("=")[::2] for text in result["overrides"]),
            monitor=monitor,
            measured={key: math.nan if is_missing(result[key]) else result[key] for key in keys},
            error=" ".join(line.strip() for line in result.get("error", "").splitlines()[:2]),
        )
        jobs.append(job)
    return sorted(jobs, key=lambda job: _order(job.rank))


def group_by_setting(jobs: Sequence[Job]) -> list[list[Job]]:
    """Group jobs that differ only in their seed or fold, sorted by the mean of the metric."""
    settings: dict[frozenset[tuple[str, str]], list[Job]] = {}
    for job in jobs:
        setting = frozenset(pair for pair in job.overrides.items() if pair[0] not in REPEATED)
        settings.setdefault(setting, []).append(job)

    def order(setting: list[Job]) -> tuple[bool, float]:
        ranks = [job.rank for job in setting if not job.error]
        return _order(float(np.mean(ranks)) if ranks else math.nan)

    return sorted(settings.values(), key=order)


def name_repeats(jobs: Sequence[Job]) -> str:
    """What jobs of one setting differ in: seeds, folds, or runs where it is both."""
    keys = [key for key in REPEATED if len({job.overrides.get(key) for job in jobs}) > 1]
    return f"{keys[0]}s" if len(keys) == 1 else "runs"


def summarize_repeats(jobs: Sequence[Job], repeats: str) -> tuple[Row, Row]:
    """Make the row of the file and the printed one of jobs that differ in their seed or fold only.

    Failed jobs are counted, but excluded from the means. A mean is NaN if a finished job has no
    value. The standard deviation is that of single jobs (n - 1); NaN for fewer than two.
    """
    finished = [job for job in jobs if not job.error]
    row: Row = {key: value for key, value in jobs[0].overrides.items() if key not in REPEATED}
    row[repeats] = len(finished)
    printed = row.copy()
    for key in dict.fromkeys(key for job in finished for key in job.measured):
        values = [job.measured.get(key, math.nan) for job in finished]
        if key in _FIXED:
            row[key] = printed[key] = values[0]
            continue
        mean = float(np.mean(values))
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        row |= {f"{key}_mean": mean, f"{key}_std": deviation}
        decimals = _DECIMALS.get(key, 4)
        if math.isnan(mean):
            printed[key] = math.nan
        elif math.isnan(deviation):
            printed[key] = f"{mean:.{decimals}f}"
        elif key == "epochs" and deviation == 0:
            printed[key] = values[0]
        else:
            printed[key] = f"{mean:.{decimals}f} ± {deviation:.{decimals}f}"
    errors = [job.error for job in jobs if job.error]
    failures = {"failed": len(errors), "error": errors[0]} if errors else {}
    return row | failures, printed | failures


def list_members(folder: Path, jobs: Sequence[Job]) -> list[Path]:
    """The checkpoints of the jobs of one setting, if they are of several folds and none failed."""
    folds = {job.overrides.get("fold") for job in jobs}
    if len(folds) < 2 or any(job.error for job in jobs):
        return []
    members = [folder / job.name / "checkpoints" / "best.ckpt" for job in jobs]
    return sorted(path for path in members if path.is_file())


def find_shared_overrides(jobs: Sequence[Job]) -> dict[str, str]:
    """Find the overrides that all of several jobs share."""
    first, *others = jobs
    return {
        key: value
        for key, value in first.overrides.items()
        if others and all(job.overrides.get(key) == value for job in others)
    }


def _build_fitting_table(
    rows: Sequence[Row], title: str, console: Console, kept: set[str]
) -> Table:
    """Build the table, with as many of the dispensable columns as fit the terminal."""

    def build_without(*left_out: str) -> Table:
        shown = [{key: row[key] for key in row if key not in left_out} for row in rows]
        return build_table(shown, title)

    boundless = console.options.update_width(10_000)
    room = console.width - (_ERROR_WIDTH if any("error" in row for row in rows) else 0)
    dispensable = [key for key in _DISPENSABLE if key not in kept]
    for count in range(len(dispensable) + 1):
        left_out = dispensable[:count]
        table = build_without(*left_out, "error")
        if Measurement.get(console, boundless, table).maximum <= room:
            break
    return build_without(*left_out)


def _order(rank: float) -> tuple[bool, float]:
    """Sort key: best first, NaN last."""
    return (True, 0.0) if math.isnan(rank) else (False, -rank)
