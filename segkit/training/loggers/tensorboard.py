"""TensorBoard: event files in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from segkit.report.table import Row, format_cell, list_columns
from segkit.training.loggers.base import LoggedRun, Pictures, RunLogger

FOLDER = "tensorboard"


class TensorBoard(RunLogger):
    """Writes the folder ``tensorboard`` of the run: scalars, images, text and hyperparameters."""

    def __init__(self, run: LoggedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run = run
        # no files of another run are there, see require_new
        self._writer = SummaryWriter(str(run.folder / FOLDER))
        text = "\n".join(f"    {key}: {value}" for key, value in run.flatten().items())
        self._writer.add_text("config", text, 0)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log scalars; what a resumed run trains again stands twice, with equal values."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def show(self, pictures: Pictures, step: int) -> None:
        """Log images."""
        for name, picture in pictures.items():
            tag = f"predictions/{name}"
            self._writer.add_image(tag, picture, step, dataformats="HWC")
        self._writer.flush()

    def conclude(self, scores: Mapping[str, float], tables: Mapping[str, Sequence[Row]]) -> None:
        """Write the options with the final scores, for the tab HPARAMS, and the tables as text."""
        for name, rows in tables.items():
            self._writer.add_text(name, _write_markdown(rows), 0)
        self._writer.add_hparams(self._run.flatten(), dict(scores), run_name=".")

    def close(self, status: Literal["finished", "failed"]) -> None:
        """Close the file."""
        self._writer.close()


def _write_markdown(rows: Sequence[Row]) -> str:
    columns = list_columns(rows)
    lines = [columns, ["---"] * len(columns)]
    lines += [[format_cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
