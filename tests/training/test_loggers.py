from __future__ import annotations

import pytest
from conftest import train_quick

from segkit.config.schema import Logger
from segkit.core.errors import SegkitError
from segkit.training.trainer import make_logger


def test_tensorboard_gets_the_metrics(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train_quick(tmp_path, "logger=tensorboard")
    events = reading.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "val/iou", "val/loss"} <= set(events.Tags()["scalars"])
    assert (tmp_path / "metrics.csv").is_file()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setattr("segkit.training.trainer.find_spec", lambda package: None)
    with pytest.raises(SegkitError, match=rf"logger={name} needs the package {name}: pip install"):
        make_logger(Logger(name=name), tmp_path, "run")
