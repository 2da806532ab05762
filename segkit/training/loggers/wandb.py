"""Weights & Biases: kept in the run folder, or sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from segkit.report.table import Row, list_columns
from segkit.training.loggers.base import LoggedRun, Pictures, RunLogger


class WeightsAndBiases(RunLogger):
    """A run of W&B; ``wandb sync`` sends one that was kept offline."""

    def __init__(self, run: LoggedRun) -> None:
        import wandb

        self._wandb = wandb
        number = run.known.get("wandb") or _find_number(run.folder)
        self._run = wandb.init(
            project=run.settings.project,
            name=run.name,
            id=number,
            resume=None if number is None else "allow",
            dir=str(run.folder),
            config=dict(run.config),
            mode="offline" if run.settings.offline else "online",
        )
        # its own count of steps never goes back, as that of a resumed run may
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    @property
    def key(self) -> str | None:
        """Its number."""
        return str(self._run.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers."""
        self._run.log({**values, "step": step})

    def show(self, pictures: Pictures, step: int) -> None:
        """Log images."""
        shown = [self._wandb.Image(each, caption=name) for name, each in pictures.items()]
        self._run.log({"predictions": shown, "step": step})

    def conclude(self, scores: Mapping[str, float], tables: Mapping[str, Sequence[Row]]) -> None:
        """Put the scores into the summary, and log the tables."""
        self._run.summary.update(dict(scores))
        for name, rows in tables.items():
            columns = list_columns(rows)
            data = [[row.get(column) for column in columns] for row in rows]
            self._run.log({name: self._wandb.Table(columns=columns, data=data)})

    def close(self, status: Literal["finished", "failed"]) -> None:
        """Finish the run, and wait until everything is sent."""
        self._run.finish(exit_code=0 if status == "finished" else 1)


def _find_number(folder: Path) -> str | None:
    """The number of the run of version 0.1.0, which ends the name of its folder."""
    found = max(folder.glob("wandb/*run-*-*"), default=None, key=lambda p: p.stat().st_mtime)
    return None if found is None else found.name.rpartition("-")[2]
