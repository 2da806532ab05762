"""The table over the jobs of a sweep, best first; over several seeds, means with their spread."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from segkit.report.table import is_missing, write_csv

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_SEED = "seed"
_COLUMNS = ("val/iou", "val/dice", "parameters", "gflops", "epochs", "seconds", "seconds_per_step")
_FIXED = ("parameters", "gflops")
"""What does not depend on the seed."""
_DISPENSABLE = ("seconds_per_step", "epochs", "gflops", "parameters", "seconds", "dice", "iou")
"""What a narrow terminal does not show, the first of them first; the files have all."""
_ERROR_WIDTH = 30  # at least, for their text can be broken
_DECIMALS = {"epochs": 1, "seconds": 0}
"""Those of a printed mean; the others have four, like every score."""

Row = dict[str, object]


class SweepTable(Callback):
    """When all jobs of ``--multirun`` are done, prints one table and saves it.

    ``sweep.csv`` has a row for each job. Where jobs differ in nothing but their seed, the printed
    table has a row for each setting, with the mean ± the standard deviation over its seeds, and
    ``sweep_seeds.csv`` holds the same. It reads the ``result.json`` of each job, so that it serves
    every launcher of Hydra.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print and save the table."""
        folder = Path(config.hydra.sweep.dir)
        jobs = collect(folder)
        if not jobs:
            return
        from rich.console import Console

        tables = {"sweep.csv": [job.row() for job in jobs]}
        shown, title = [job.printed() for job in jobs], f"{len(jobs)} jobs, best first"
        settings = by_setting(jobs)
        if any(len(setting.jobs) > 1 for setting in settings):
            tables["sweep_seeds.csv"] = [setting.row() for setting in settings]
            shown = [setting.printed() for setting in settings]
            title += "; mean ± standard deviation over the seeds"
        same = shared_overrides(jobs)
        rows = [
            {key.removeprefix("val/"): row[key] for key in row if key not in same} for row in shown
        ]

        console = Console(soft_wrap=True, markup=False, highlight=False)
        monitored = {job.monitor.removeprefix("val/") for job in jobs}
        console.print(_fitting(rows, title, console, kept=monitored))
        if same:
            console.print("all with: " + " ".join(f"{key}={value}" for key, value in same.items()))
        for name, table in tables.items():
            write_csv(folder / name, table)
            console.print(f"saved: {folder / name}")


@dataclass(frozen=True)
class Job:
    """What a job of a sweep left.

    Attributes:
        name: Its folder.
        overrides: What the command line set in it.
        monitor: The metric that its best checkpoint has.
        measured: The monitored metric, then what else there is of it; NaN where it has no value.
        error: Why it failed; empty where it did not.
    """

    name: str
    overrides: dict[str, str]
    monitor: str
    measured: dict[str, float]
    error: str = ""

    @property
    def rank(self) -> float:
        """The monitored metric, or its negative where less is better; NaN where there is none."""
        value = self.measured.get(self.monitor, math.nan)
        return -value if self.monitor == "val/loss" else value

    def row(self) -> Row:
        """Its line of sweep.csv."""
        row: Row = {"job": self.name, **self.overrides, **self.measured}
        return row | ({"error": self.error} if self.error else {})

    def printed(self) -> Row:
        """Its line in the terminal, where nobody reads fractions of a second."""
        seconds = self.measured.get("seconds", math.nan)
        return self.row() | ({} if math.isnan(seconds) else {"seconds": round(seconds)})


@dataclass(frozen=True)
class Setting:
    """The jobs that differ in nothing but their seed.

    Those that failed are in no mean, but are counted. Where a job that did not fail has no value,
    neither has the mean.

    Attributes:
        overrides: What they have in common.
        jobs: One for each seed.
    """

    overrides: dict[str, str]
    jobs: list[Job]

    @property
    def finished(self) -> list[Job]:
        """The jobs that did not fail."""
        return [job for job in self.jobs if not job.error]

    @property
    def rank(self) -> float:
        """The mean of their ranks."""
        return float(np.mean([job.rank for job in self.finished])) if self.finished else math.nan

    def row(self) -> Row:
        """Its line of sweep_seeds.csv: what depends on the seed has two columns, mean and std.

        The standard deviation is that of one seed, with n - 1; NaN where there are fewer than two.
        """
        row = self._head()
        for key, values in self._values().items():
            if key in _FIXED:
                row[key] = values[0]
            else:
                row |= {f"{key}_mean": float(np.mean(values)), f"{key}_std": _deviation(values)}
        return row | self._failures()

    def printed(self) -> Row:
        """Its line in the terminal, where mean and deviation share a column: 0.9131 ± 0.0042."""
        row = self._head()
        for key, values in self._values().items():
            mean, deviation = float(np.mean(values)), _deviation(values)
            decimals = _DECIMALS.get(key, 4)
            if key in _FIXED or (deviation == 0 and key == "epochs"):
                row[key] = values[0]
            elif math.isnan(mean):
                row[key] = math.nan
            elif math.isnan(deviation):
                row[key] = f"{mean:.{decimals}f}"
            else:
                row[key] = f"{mean:.{decimals}f} ± {deviation:.{decimals}f}"
        return row | self._failures()

    def _head(self) -> Row:
        return {**self.overrides, "seeds": len(self.finished)}

    def _failures(self) -> Row:
        failed = [job.error for job in self.jobs if job.error]
        return {"failed": len(failed), "error": failed[0]} if failed else {}

    def _values(self) -> dict[str, list[float]]:
        """Of each column the values of the jobs that did not fail."""
        keys = dict.fromkeys(key for job in self.finished for key in job.measured)
        return {key: [job.measured.get(key, math.nan) for job in self.finished] for key in keys}


def collect(folder: Path) -> list[Job]:
    """The jobs of a sweep, sorted by the monitored metric; failed ones are last."""
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
    return sorted(jobs, key=_best_first)


def by_setting(jobs: Sequence[Job]) -> list[Setting]:
    """Jobs that differ in nothing but their seed together, sorted by the mean of the metric."""
    settings: dict[tuple[tuple[str, str], ...], Setting] = {}
    for job in jobs:
        overrides = {key: value for key, value in job.overrides.items() if key != _SEED}
        known = tuple(sorted(overrides.items()))
        settings.setdefault(known, Setting(overrides, [])).jobs.append(job)
    return sorted(settings.values(), key=_best_first)


def shared_overrides(jobs: Sequence[Job]) -> dict[str, str]:
    """What the command line set alike in all of several jobs, which need not stand in each row."""
    first, *others = jobs
    return {
        key: value
        for key, value in first.overrides.items()
        if others and all(job.overrides.get(key) == value for job in others)
    }


def _fitting(rows: Sequence[Row], title: str, console: Console, kept: set[str]) -> Table:
    """The table with as many columns as the terminal has room for, those to be kept in any case."""
    from rich.measure import Measurement

    from segkit.report.table import score_table

    def without(*left_out: str) -> Table:
        shown = [{key: row[key] for key in row if key not in left_out} for row in rows]
        return score_table(shown, title)

    boundless = console.options.update_width(10_000)
    room = console.width - (_ERROR_WIDTH if any("error" in row for row in rows) else 0)
    dispensable = [key for key in _DISPENSABLE if key not in kept]
    for count in range(len(dispensable) + 1):
        left_out = dispensable[:count]
        if Measurement.get(console, boundless, without(*left_out, "error")).maximum <= room:
            break
    return without(*left_out)


def _best_first(ranked: Job | Setting) -> tuple[bool, float]:
    """What has no value is last."""
    return (True, 0.0) if math.isnan(ranked.rank) else (False, -ranked.rank)


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
