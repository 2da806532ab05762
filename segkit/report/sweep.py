"""The table over the jobs of a sweep, best first."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from segkit.report.table import write_csv


class SweepTable(Callback):
    """When all jobs of ``--multirun`` are done, prints one table and saves it as sweep.csv.

    It reads the ``result.json`` of each job, so that it serves every launcher of Hydra.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print and save the table."""
        folder = Path(config.hydra.sweep.dir)
        rows = collect(folder)
        if not rows:
            return
        from rich.console import Console

        from segkit.report.table import score_table

        write_csv(folder / "sweep.csv", rows)
        console = Console(soft_wrap=True, markup=False, highlight=False)
        console.print(score_table(rows, f"{len(rows)} jobs, best first"))
        console.print(f"saved: {folder / 'sweep.csv'}")


def collect(folder: Path) -> list[dict[str, object]]:
    """A row for each job of a sweep, sorted by the monitored metric; failed jobs are last."""
    jobs = []
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        row: dict[str, object] = {"job": path.parent.name}
        row |= dict(text.lstrip("+").partition("=")[::2] for text in result["overrides"])
        monitor = result.get("monitor", "")
        score = _number(result.get(monitor))
        keys = ["val/iou", "val/dice", "parameters", "epochs", "seconds"]
        row |= {
            key: _number(result[key]) for key in dict.fromkeys([monitor, *keys]) if key in result
        }
        if "error" in result:
            row["error"] = " ".join(line.strip() for line in result["error"].splitlines()[:2])
        jobs.append((score if monitor != "val/loss" else -score, row))
    jobs.sort(key=lambda job: (math.isnan(job[0]), -job[0] if job[0] == job[0] else 0))
    return [row for _, row in jobs]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
