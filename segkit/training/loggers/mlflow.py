"""MLflow: a database beside the run folders, or a server."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from segkit.report.table import Row
from segkit.training.loggers.base import LoggedRun, Pictures, RunLogger

URI = "MLFLOW_TRACKING_URI"
_AT_ONCE = 100  # parameters in a request, at most
_LONGEST = 500  # characters of a parameter, at most
_QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Else a server that is gone would hold the training for minutes."""


class MLflow(RunLogger):
    """A run of MLflow, in runs/mlflow.db or on the server of the environment."""

    def __init__(self, run: LoggedRun) -> None:
        for name, value in _QUICK.items():
            os.environ.setdefault(name, value)
        if run.settings.offline:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri = f"sqlite:///{run.shelf / 'mlflow.db'}" if run.settings.offline else os.environ[URI]
        self._client = MlflowClient(tracking_uri=uri)
        self._id = run.known.get("mlflow", "")
        if self._id:
            with suppress(Exception):  # it is gone, or in another database: a new one begins
                self._client.update_run(self._id, status="RUNNING")
                return
        files = (run.shelf / "mlflow_files").as_uri() if run.settings.offline else None
        experiment = self._find_experiment(run.settings.project, files)
        self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
        params = [Param(_clean(k), str(v)[:_LONGEST]) for k, v in run.flatten().items()]
        for at in range(0, len(params), _AT_ONCE):
            self._client.log_batch(self._id, params=params[at : at + _AT_ONCE])
        self._client.set_tag(self._id, "folder", str(run.folder.absolute()))
        self._client.log_dict(self._id, dict(run.config), "config.yaml")

    def _find_experiment(self, name: str, files: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=files))
            except Exception:  # another process may have been faster
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    @property
    def key(self) -> str | None:
        """Its number."""
        return self._id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        batch = [Metric(_clean(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=batch)

    def show(self, pictures: Pictures, step: int) -> None:
        """Write images among the files of the run."""
        for name, picture in pictures.items():
            path = f"predictions/{_clean(Path(name).with_suffix('').as_posix())}"
            self._client.log_image(self._id, picture, f"{path}/step_{step:07d}.png")

    def conclude(self, scores: Mapping[str, float], tables: Mapping[str, Sequence[Row]]) -> None:
        """Log the scores as numbers, and the tables as files."""
        self.log(scores, 0)
        for name, rows in tables.items():
            columns = {column: [row.get(column) for row in rows] for column in rows[0]}
            self._client.log_dict(self._id, columns, f"{name}.json")

    def close(self, status: Literal["finished", "failed"]) -> None:
        """End the run."""
        self._client.set_terminated(self._id, status.upper())


def _clean(name: str) -> str:
    """A name of the characters that MLflow takes."""
    return re.sub(r"[^\w/. -]", "_", name, flags=re.ASCII).strip("/")
