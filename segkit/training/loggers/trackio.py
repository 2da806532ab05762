"""trackio: a database beside the run folders, or a Space of Hugging Face."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from segkit.report.table import Row
from segkit.training.loggers.base import LoggedRun, Pictures, RunLogger

PLACES = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""Variables that say where runs are sent to."""


class Trackio(RunLogger):
    """A run of trackio, in runs/trackio unless it is sent; a resumed one is found by its name."""

    def __init__(self, run: LoggedRun) -> None:
        if run.settings.offline:  # read when it is imported
            os.environ.setdefault("TRACKIO_DIR", str(run.shelf / "trackio"))
        import trackio

        self._trackio: Any = trackio
        with _without(PLACES if run.settings.offline else ()):
            self._run = trackio.init(
                project=run.settings.project,
                name=run.name,
                config=run.flatten(),
                resume="allow",
                embed=False,  # no frame in a notebook
            )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers."""
        self._run.log(dict(values), step=step)

    def show(self, pictures: Pictures, step: int) -> None:
        """Log images."""
        images = {
            f"predictions/{name}": self._trackio.Image(picture, caption=name)
            for name, picture in pictures.items()
        }
        self._run.log(images, step=step)

    def conclude(self, scores: Mapping[str, float], tables: Mapping[str, Sequence[Row]]) -> None:
        """Log the scores; tables would need pandas, so each row of a class is numbers too."""
        values = dict(scores)
        for name, rows in tables.items():
            for row in rows:
                label, *columns = row
                for column in columns:
                    value = row[column]
                    if isinstance(value, int | float) and value == value:
                        values[f"{name}/{row[label]}/{column}"] = value
        self._run.log(values)

    def close(self, status: Literal["finished", "failed"]) -> None:
        """Write what is left."""
        self._run.finish()


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Hide variables of the environment."""
    held = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)
