"""Run the predict command in this process."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from segkit.config.compose import compose
from segkit.predict.command import predict


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def words(out):
    """The words of the command: a run, its input, more options."""

    def of(run, given, *more: str) -> list[str]:
        paths = [f"checkpoint='{run.checkpoint}'", f"input='{given}'", f"output='{out}'"]
        return [*paths, "device=cpu", *more]

    return of


@pytest.fixture
def run_predict(words):
    """Predict a file or a folder into ``out``."""

    def run(*given) -> None:
        predict(compose(words(*given), "predict"))

    yield run
    assert not [t.name for t in threading.enumerate() if t.name.startswith("segkit")]


@pytest.fixture
def files_of():
    """The files in a folder, without the record."""

    def of(folder: Path) -> list[str]:
        names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        return sorted(name for name in names if not name.startswith(".segkit/"))

    return of
