"""The loggers of a run together: a training never ends because of one of them."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from segkit.config.schema import Logger, TrainConfig
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.files import write_whole
from segkit.report.table import Row
from segkit.training.loggers.base import LoggedRun, Pictures, RunLogger
from segkit.training.loggers.mlflow import URI, MLflow
from segkit.training.loggers.tensorboard import TensorBoard
from segkit.training.loggers.trackio import PLACES, Trackio
from segkit.training.loggers.wandb import WeightsAndBiases

LOGGERS: dict[str, type[RunLogger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}
NEEDED = {"mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""Packages of an extra, where they are not just the one of its name."""
FILE = "loggers.json"
"""What a resumed run reads: the numbers of its logged runs."""


def require_loggers(settings: Logger) -> None:
    """Check that the packages of the loggers are installed, and that they know where to send to.

    Raises:
        SegkitError: They are not, with what to install; all of them are listed.
    """
    problems = []
    for name in settings.names:
        missing = [each for each in NEEDED.get(name, (name,)) if find_spec(each) is None]
        if missing:
            problems.append(
                f"logger={name} needs the package {missing[0]}: pip install '.[{name}]' in the"
                " checkout of segkit, or leave the logger out"
            )
    for name, places in (("mlflow", (URI,)), ("trackio", PLACES)):
        if name in settings.names and not settings.offline and not set(places) & set(os.environ):
            problems.append(
                f"logger={name} with logger.offline=false sends to what the environment variable"
                f" {' or '.join(places)} names: set it, or leave logger.offline out"
            )
    if problems:
        raise (
            SegkitError(problems[0] + ".")
            if len(problems) == 1
            else all_at_once("the loggers cannot be used:", problems)
        )


class Loggers:
    """The loggers of a run. One that fails is named in a warning and no longer used.

    Nothing happens before :meth:`open`, which the process that writes the run folder calls.
    """

    def __init__(self, settings: TrainConfig, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self._open: dict[str, RunLogger] | None = None

    def open(self) -> None:
        """Begin the logged runs or go on with them, once."""
        if self._open is not None:
            return
        self._open = {}
        run = LoggedRun(
            self.folder,
            self.settings.to_plain(),
            self.settings.logger,
            _read_known(self.folder),
        )
        for name in self.settings.logger.names:
            self._try(name, partial(self._begin, name, run))

    def _begin(self, name: str, run: LoggedRun) -> None:
        logger = LOGGERS[name](run)
        assert self._open is not None
        self._open[name] = logger
        if logger.key not in (None, run.known.get(name)):
            known = {**_read_known(self.folder), name: logger.key}
            write_whole(self.folder / FILE, json.dumps(known, indent=2))

    def __bool__(self) -> bool:
        """Whether any logger is left that wants to know something."""
        return bool(self.settings.logger.names if self._open is None else self._open)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers after so many optimizer steps; those that are not finite are left out."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._all(lambda logger: logger.log(finite, step))

    def show(self, pictures: Pictures, step: int) -> None:
        """Show pictures after so many optimizer steps."""
        if pictures:
            self._all(lambda logger: logger.show(pictures, step))

    def conclude(self, scores: Mapping[str, float], tables: Mapping[str, Sequence[Row]]) -> None:
        """Log the final scores and tables."""
        finite = {name: value for name, value in scores.items() if math.isfinite(value)}
        self._all(lambda logger: logger.conclude(finite, tables))

    def close(self, status: Literal["finished", "failed"] = "failed") -> None:
        """End the logged runs, once."""
        self._all(lambda logger: logger.close(status))
        self._open = {} if self._open is not None else None

    def _all(self, tell: Callable[[RunLogger], None]) -> None:
        for name, logger in list((self._open or {}).items()):
            self._try(name, partial(tell, logger))

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # each library has its own; a full disk is an OSError
            if self._open is not None:
                self._open.pop(name, None)
            why = " ".join(str(error).split())[:300] or type(error).__name__
            warnings.warn(
                f"logger={name} has failed, and the training goes on without it: {why}",
                RuntimeWarning,
                stacklevel=2,
            )


def _read_known(folder: Path) -> dict[str, str]:
    try:
        held = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {str(name): str(number) for name, number in held.items()}
    except (OSError, ValueError, AttributeError):
        return {}  # a new run, or the file is damaged: new ones begin
