from __future__ import annotations

import json
import math
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import QUICK, train_quick

from segkit.config.compose import compose
from segkit.config.schema import Logger
from segkit.config.validation import validate
from segkit.core.errors import SegkitError
from segkit.report.table import read_csv
from segkit.training.loggers import together
from segkit.training.loggers.base import LoggedRun
from segkit.training.loggers.together import Loggers, require_loggers

CLASSES = ("background", "round cell", "long cell")


def stand_in(monkeypatch, name, **content):
    """A module in the place of a package that is not installed."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)


def fake_trackio(monkeypatch, logged):
    """trackio, which adds what it is told to a list."""
    run = SimpleNamespace(
        log=lambda values, step=None: logged.append((step, values)),
        finish=lambda: logged.append("finished"),
    )

    def init(**options):
        logged.append(options)
        return run

    stand_in(monkeypatch, "trackio", init=init, Image=lambda picture, caption: picture)


def fake_wandb(monkeypatch, begun, log):
    """W&B, which adds what it begins to a list, and logs by a function."""

    def init(**options):
        begun.append(options)
        return SimpleNamespace(
            id="x7k2",
            log=log,
            define_metric=lambda *a, **k: None,
            summary={},
            finish=lambda exit_code: begun.append(exit_code),
        )

    stand_in(monkeypatch, "wandb", init=init, Image=lambda picture, caption: picture)


def fill_disk(values):
    raise OSError("no space left")


@pytest.mark.slow
def test_several_loggers_get_what_metrics_csv_holds_and_one_that_fails_ends_nothing(
    tmp_path, monkeypatch
):
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="the extra tensorboard is not installed",
    )
    sent, begun = [], []
    fake_trackio(monkeypatch, sent)
    fake_wandb(monkeypatch, begun, fill_disk)
    folder = tmp_path / "runs/cells/now"
    names = ["logger=[tensorboard,wandb,trackio]", "logger.images=2", "head=multiclass"]
    with pytest.warns(RuntimeWarning, match="logger=wandb has failed.*no space left") as warned:
        train_quick(folder, *names, "trainer.max_epochs=2")
    assert len([w for w in warned if "logger=" in str(w.message)]) == 1
    rows = read_csv(folder / "metrics.csv")
    result = json.loads((folder / "result.json").read_text())
    assert len(rows) == 2

    events = reading.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    for column in rows[0].keys() - {"step"}:
        found = [(e.step, e.value) for e in events.Scalars(column)]
        wanted = [(r["step"], pytest.approx(r[column])) for r in rows if not math.isnan(r[column])]
        assert found == wanted, column
    per_class = [events.Scalars(f"val/iou/{name}")[-1].value for name in CLASSES]
    assert np.mean(per_class) == pytest.approx(rows[-1]["val/iou"], abs=1e-6)
    assert events.Scalars("final/iou")[0].value == pytest.approx(result["val/iou"])
    fixed = [tag for tag in tags["images"] if "worst" not in tag]
    assert fixed == ["predictions/val-0000", "predictions/val-0003"]
    # the first epoch of five, and the last one
    assert [e.step for e in events.Images(fixed[0])] == [rows[0]["step"], rows[1]["step"]]
    assert any(tag.startswith("predictions/worst-01-val-") for tag in tags["images"])
    assert any("final scores" in tag for tag in tags["tensors"])

    options, *told, end = sent
    assert (options["name"], options["resume"]) == ("cells/now", "allow")
    assert options["config"]["encoder.width"] == 8
    epochs = {step: values for step, values in told if "val/loss" in values}
    assert [epochs[row["step"]]["val/loss"] for row in rows] == [row["val/loss"] for row in rows]
    last = told[-1][1]
    assert last["final/iou"] == result["val/iou"]
    assert last["final scores of classes/long cell/support"] > 0
    assert end == "finished"
    assert begun[0]["mode"] == "offline"


def test_a_resumed_run_goes_on_in_the_same_logged_run(tmp_path, monkeypatch):
    begun, calls = [], []
    fake_wandb(monkeypatch, begun, lambda values: None)

    class Client:
        def __init__(self, tracking_uri):
            calls.append(tracking_uri)

        def get_experiment_by_name(self, name):
            return SimpleNamespace(experiment_id="4")

        def create_run(self, experiment, run_name):
            calls.append(("begun", experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        def update_run(self, number, status):
            calls.append(("goes on", number))

        def log_batch(self, number, params=(), metrics=()):
            calls.extend(metrics)

        def set_tag(self, *_): ...

        def log_dict(self, *_): ...

        def set_terminated(self, number, status):
            calls.append(status)

    stand_in(monkeypatch, "mlflow", MlflowClient=Client)
    stand_in(
        monkeypatch, "mlflow.entities", Param=lambda *a: a, Metric=lambda *a: (a[0], a[1], a[3])
    )
    folder = tmp_path / "runs/cells/now"
    settings = validate(compose([*QUICK, "logger=[mlflow,wandb]"]))
    for status in ("failed", "finished"):
        loggers = Loggers(settings, folder)
        loggers.open()
        loggers.log({"val/iou/a:b": 0.5, "lr": math.nan}, 3)
        loggers.close(status)
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    logged = ("val/iou/a_b", 0.5, 3)
    first = [uri, ("begun", "4", "cells/now"), logged, "FAILED"]
    assert calls == [*first, uri, ("goes on", "r1"), logged, "FINISHED"]
    given = [(o["id"], o["resume"]) for o in begun if isinstance(o, dict)]
    assert given == [(None, None), ("x7k2", "allow")]
    # as version 0.1.0 left it
    (folder / "loggers.json").unlink()
    (folder / "wandb/offline-run-20261128_120000-abcd").mkdir(parents=True)
    Loggers(validate(compose([*QUICK, "logger=wandb"])), folder).open()
    assert begun[-1]["id"] == "abcd"


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_logger_that_is_not_installed_is_named_before_the_data_are_read(
    tmp_path, monkeypatch, name
):
    monkeypatch.setattr(together, "find_spec", lambda package: None)
    with pytest.raises(SegkitError, match=rf"logger={name} needs .*pip install '\.\[{name}\]'"):
        train_quick(tmp_path, f"logger={name}", "data=folder", f"data.root={tmp_path}/none")
    assert not any(tmp_path.iterdir())


def test_what_sends_needs_to_know_where(monkeypatch):
    monkeypatch.setattr(together, "find_spec", lambda package: object())
    settings = Logger(use={"mlflow": True, "trackio": True, "wandb": True}, offline=False)
    with pytest.raises(SegkitError, match=r"MLFLOW_TRACKING_URI names(.|\n)*TRACKIO_SPACE_ID or"):
        require_loggers(settings)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://localhost:7860")
    require_loggers(settings)


def test_the_logger_of_a_config_of_0_1_0_is_understood():
    stored = yaml.safe_load("{name: wandb, project: cells, offline: false}")
    settings = Logger.model_validate(stored)
    assert (settings.names, settings.project, settings.offline) == (["wandb"], "cells", False)
    stored = {"name": "csv", "project": "segkit", "offline": False}
    assert Logger.model_validate(stored).names == []
    with pytest.raises(ValueError, match="tensorboard"):
        Logger.model_validate({"name": "tensorbord"})


def test_a_run_outside_of_runs_keeps_its_logs_itself(tmp_path):
    run = LoggedRun(tmp_path / "mine", {"a": {"b": [1, 2], "c": None}, "d": {}}, Logger(), {})
    assert (run.name, run.shelf) == ("mine", tmp_path / "mine")
    assert run.flatten() == {"a.b": "[1, 2]", "a.c": "None", "d": "{}"}
