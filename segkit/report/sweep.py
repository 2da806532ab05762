"""The table of a sweep: its jobs, best first, or means and deviations over seeds."""

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
"""Columns that do not depend on the seed."""
_DISPENSABLE = ("seconds_per_step", "epochs", "gflops", "parameters", "seconds", "dice", "iou")
"""Columns that a narrow terminal drops, in this order; the files have all."""
_ERROR_WIDTH = 30  # at least; their text can be wrapped
_DECIMALS = {"epochs": 1, "seconds": 0}
"""Decimals of printed means; others have four."""

Row = dict[str, object]


class SweepTable(Callback):
    """Prints and saves one table after the jobs of ``--multirun``.

    ``sweep.csv`` has a row per job. If jobs differ only in their seed, the printed table and
    ``sweep_seeds.csv`` have a row per setting with mean and standard deviation over seeds. It reads
    the ``result.json`` of each job, so it works with every launcher of Hydra.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print and save the table."""
        folder = Path(config.hydra.sweep.dir)
        jobs = read_jobs(folder)
        if not jobs:
            return
        from rich.console import Console

        tables = {"sweep.csv": [job.row() for job in jobs]}
        shown, title = [job.printed() for job in jobs], f"{len(jobs)} jobs, best first"
        settings = group_by_setting(jobs)
        if any(len(setting.jobs) > 1 for setting in settings):
            tables["sweep_seeds.csv"] = [setting.row() for setting in settings]
            shown = [setting.printed() for setting in settings]
            title += "; mean ± standard deviation over the seeds"
        same = find_shared_overrides(jobs)
        rows = [
            {key.removeprefix("val/"): row[key] for key in row if key not in same} for row in shown
        ]

        console = Console(soft_wrap=True, markup=False, highlight=False)
        monitored = {job.monitor.removeprefix("val/") for job in jobs}
        console.print(_build_table(rows, title, console, kept=monitored))
        if same:
            console.print("all with: " + " ".join(f"{key}={value}" for key, value in same.items()))
        for name, table in tables.items():
            write_csv(folder / name, table)
            console.print(f"saved: {folder / name}")


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

    def row(self) -> Row:
        """Return its row of sweep.csv."""
        row: Row = {"job": self.name, **self.overrides, **self.measured}
        return row | ({"error": self.error} if self.error else {})

    def printed(self) -> Row:
        """Return its row in the terminal, with whole seconds."""
        seconds = self.measured.get("seconds", math.nan)
        return self.row() | ({} if math.isnan(seconds) else {"seconds": round(seconds)})


@dataclass(frozen=True)
class Setting:
    """Jobs that differ only in their seed.

    Failed jobs are counted, but excluded from the means. A mean is NaN if a finished job has no
    value.
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
        """Return its row of sweep_seeds.csv: mean and std of columns that depend on the seed.

        The standard deviation is that of single seeds (n - 1); NaN for fewer than two.
        """
        row = self._head()
        for key, values in self._values().items():
            if key in _FIXED:
                row[key] = values[0]
            else:
                row |= {f"{key}_mean": float(np.mean(values)), f"{key}_std": _deviation(values)}
        return row | self._failures()

    def printed(self) -> Row:
        """Return its row in the terminal, such as 0.9131 ± 0.0042."""
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
        """Collect the values of the finished jobs by column."""
        keys = dict.fromkeys(key for job in self.finished for key in job.measured)
        return {key: [job.measured.get(key, math.nan) for job in self.finished] for key in keys}


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
    return sorted(jobs, key=_best_first)


def group_by_setting(jobs: Sequence[Job]) -> list[Setting]:
    """Group jobs that differ only in their seed, sorted by the mean of the metric."""
    settings: dict[tuple[tuple[str, str], ...], Setting] = {}
    for job in jobs:
        overrides = {key: value for key, value in job.overrides.items() if key != _SEED}
        known = tuple(sorted(overrides.items()))
        settings.setdefault(known, Setting(overrides, [])).jobs.append(job)
    return sorted(settings.values(), key=_best_first)


def find_shared_overrides(jobs: Sequence[Job]) -> dict[str, str]:
    """Find the overrides that all of several jobs share."""
    first, *others = jobs
    return {
        key: value
        for key, value in first.overrides.items()
        if others and all(job.overrides.get(key) == value for job in others)
    }


def _build_table(rows: Sequence[Row], title: str, console: Console, kept: set[str]) -> Table:
    """Build the table, with as many of the dispensable columns as fit the terminal."""
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
    """Sort key: best first, NaN last."""
    return (True, 0.0) if math.isnan(ranked.rank) else (False, -ranked.rank)


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
