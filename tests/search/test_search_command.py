"""A search from its first training to the command of the best."""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import QUICK

from segkit.config.compose import compose
from segkit.core.ensembles import read_ensemble
from segkit.core.errors import SegkitError
from segkit.core.owners import hold_folder
from segkit.report.table import read_csv
from segkit.search import command
from segkit.search.jobs import _find_reason
from segkit.search.record import FILE, Done, Record, read_record

CANDIDATES = [[], *([f"optimizer.lr={n}e-3"] for n in range(2, 13))]
QUALITY = {3: 0.9, 7: 0.89, 5: 0.8, 9: 0.7}
"""Scores of the candidates that are not at 0.5."""


@pytest.fixture
def search(tmp_path, monkeypatch):
    """A search whose trainings are invented: a function, and the folders that it has trained."""
    trained: list[str] = []

    def prepare(settings, console):
        options = ["plan=auto", "data=cells", "trainer.accelerator=cpu"]
        return Record(
            *([], str(Path.cwd())),
            3,
            settings.seconds,
            options,
            CANDIDATES,
            "val/iou",
            40,
            10.0,
            20.0,
        )

    def train(folder, options, flags, console):
        number, fold = int(folder.name[:2]), int(folder.name[-1])
        assert f"fold={fold}" in options
        trained.append(f"{folder.parent.name}/{folder.name}")
        if number == 2:
            return Done(None, 7.0, "the memory is not enough")
        if number == 4:
            return Done(None, 30.0)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/best.ckpt").touch()
        (folder / "metrics.csv").write_text("epoch,step\n0,30\n1,60\n")
        limit = next(text for text in options if text.startswith("trainer.max_time="))
        seconds = float(limit[-5:-3]) * 60 + float(limit[-2:])
        return Done(QUALITY.get(number, 0.5) + 0.02 * fold * (number == 7), seconds + 25)

    monkeypatch.setattr(command, "prepare", prepare)
    monkeypatch.setattr(command, "train", train)
    monkeypatch.chdir(tmp_path)

    def run(*options):
        given = list(options) or ["budget=1h", "output=found"]
        return command.search(compose(given, "search"))

    return run, trained


def test_the_best_is_found_in_time_and_all_is_written(search, tmp_path, capsys):
    run, trained = search
    folder = run()
    assert [name for name in trained if name.startswith("rung1/")] == [
        f"rung1/{n:02}_fold0" for n in range(12)
    ]
    assert sorted(trained[12:]) == sorted(
        [f"rung2/{n:02}_fold0" for n in QUALITY]
        + [f"rung3/{n:02}_fold{k}" for n in (3, 7) for k in range(3)]
    )
    record = read_record(folder)
    first, second, last = record.rounds
    assert first.seconds == int((3600 - 10) / 4 / 12 - 20)
    assert first.seconds < second.seconds < last.seconds
    assert record.spent <= 3600
    rows = read_csv(folder / "search.csv")
    assert [row["candidate"] for row in rows[:4]] == [7, 3, 5, 9]
    best = rows[0]
    assert (best["settings"], best["rung"], best["folds"]) == ("optimizer.lr=8e-3", 3, 3)
    assert best["iou"] == pytest.approx(0.91)
    assert best["deviation"] == pytest.approx(0.02)
    assert [row["candidate"] for row in rows[-2:]] == [4, 2]  # undefined, and failed
    assert math.isnan(rows[-2]["iou"])
    assert rows[-1]["error"] == "the memory is not enough"
    typed = shlex.split((folder / "command.txt").read_text())
    assert typed[:3] == ["python", "-m", "segkit.train"]
    assert compose(typed[3:]).optimizer.lr == 0.008
    for name, number in (("ensemble.yaml", 7), ("ensemble_03.yaml", 3)):
        members = [folder / f"rung3/{number:02}_fold{k}/checkpoints/best.ckpt" for k in range(3)]
        assert read_ensemble(folder / name) == members
    said = capsys.readouterr().out
    assert "2 (optimizer.lr=3e-3), fold 0: FAILED, the memory is not enough" in said
    assert "It rests on 40 images, all 3 folds" in said
    assert "as few as 60 steps of the optimizer" in said
    assert "0.0100 of iou ahead of 'optimizer.lr=4e-3', less than the deviation" in said
    assert said.endswith(f"{read_record(folder).command_of_best}\n")


def test_a_search_that_was_stopped_goes_on_to_the_same_end(search, monkeypatch, capsys):
    run, trained = search
    whole = run("budget=1h", "output=whole")
    names, really = trained.copy(), command.train

    def stop(*arguments):
        if len(trained) == len(names) + 14:
            raise KeyboardInterrupt
        return really(*arguments)

    monkeypatch.setattr(command, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert "to go on: python -m segkit.search resume=found" in capsys.readouterr().err
    monkeypatch.setattr(command, "train", really)
    with hold_folder(Path("found"), "a search"), pytest.raises(SegkitError, match="in use by"):
        run("resume=found")
    with monkeypatch.context() as typing:
        typing.setattr(command, "list_typed", lambda: ["resume=found", "budget=2h"])
        with pytest.raises(SegkitError, match="budget=2h: it cannot change in a resumed search"):
            run("resume=found", "budget=2h")
    run("resume=found")
    assert trained[len(names) :] == names  # each once
    for name in ("search.csv", "command.txt", "ensemble.yaml"):
        assert (whole / name).read_text() == Path("found", name).read_text()


def test_a_search_that_takes_too_long_leaves_out_the_last_candidates(search, monkeypatch, capsys):
    run, _ = search
    really = command.train

    def train(*arguments):
        done = really(*arguments)
        return Done(done.score, done.seconds + 150, done.error)

    monkeypatch.setattr(command, "train", train)
    folder = run()
    record, files = read_record(folder), ("search.json", "search.csv")
    before = [(folder / name).read_text() for name in files]
    run("resume=found")
    assert [(folder / name).read_text() for name in files] == before
    assert record.spent < 3600 + 200  # by a training that could not be foreseen to be so long
    assert len(record.rounds[0].candidates) < 12
    assert "trainings take longer than planned; left out: optimizer.lr=" in capsys.readouterr().out


def test_a_search_without_survivors_says_why(search, monkeypatch, capsys):
    run, _ = search
    monkeypatch.setattr(command, "train", lambda *_: Done(None, 3.0, "the disk is full"))
    with pytest.raises(SegkitError, match="every candidate of rung 1 has failed"):
        run()
    assert capsys.readouterr().out.count("FAILED, the disk is full") == 12


def test_a_search_of_somebody_else_runs_no_code(search, tmp_path):
    run, trained = search
    record = Record([], "/tmp/elsewhere", 3, 3600, ["hydra/launcher=x"], [[], ["plugins=[a.py]"]])
    record.candidates.append(["--config-dir=y"])
    tmp_path.joinpath("theirs").mkdir()
    record.save(tmp_path / "theirs")
    with pytest.raises(SegkitError) as refused:
        run("resume=theirs")
    for part in ("hydra/launcher=x: the search names code", "plugins=[a.py]", "--config-dir=y is"):
        assert part in str(refused.value)
    assert "type it in /tmp/elsewhere" in str(refused.value)
    assert not trained


def test_bad_command_lines_leave_no_folder(search, tmp_path):
    run, _ = search
    for options, said in (
        (["output=x"], "budget is missing"),
        (["budget=1h", 'training=["nekc=fpn"]'], "no key 'nekc'"),
        (["resume=nowhere"], "there is no search"),
    ):
        with pytest.raises(SegkitError, match=said):
            run(*options)
    assert not any(tmp_path.iterdir())


@pytest.mark.nightly
def test_a_real_search_that_is_killed_goes_on(tmp_path):
    """By the same command; what was finished is not trained again."""
    typed = [sys.executable, "-m", "segkit.search", "budget=20m", "folds=2", *QUICK]
    typed += ["trainer.max_steps=2", "neck=unet,fpn", "name=odd"]
    typed = [text for text in typed if text != "trainer.progress_bar=false"]

    def begin():
        return subprocess.Popen(typed, cwd=tmp_path, stdout=subprocess.PIPE, text=True)

    def find(pattern):
        return sorted(tmp_path.glob(f"runs/odd/search_*/rung1/{pattern}"))

    with begin() as first:
        while len(find("*/output.txt")) < 2:
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGKILL)
    (done,) = find("00_fold0/checkpoints/last.ckpt")
    written = done.stat().st_mtime_ns
    with begin() as second:
        said = second.stdout.read()
    assert second.returncode == 0, said
    assert "this goes on with runs/odd/search_" in said
    (folder,) = tmp_path.glob("runs/odd/search_*")
    assert done.stat().st_mtime_ns == written
    assert len(find("*/report.html")) == 4
    assert len(read_csv(folder / "search.csv")) == 2
    line = said.strip().splitlines()[-1].strip()
    assert compose(shlex.split(line)[3:]).name == "odd"
    assert (folder / FILE).is_file()

    with begin() as third:  # it has ended, so this is a new search
        while not tmp_path.glob("runs/odd/search_*/rung1/*/checkpoints/last.ckpt"):
            time.sleep(0.05)
        while len(find("*/output.txt")) < 5:
            time.sleep(0.05)
        third.send_signal(signal.SIGINT)
    assert third.returncode == 130
    assert len(find("*/output.txt")) == 5


def test_the_reason_of_a_failure_is_what_a_training_said_last(tmp_path):
    log = tmp_path / "output.txt"
    log.write_text("epoch 1\nerror: the memory is not enough for crops of\n  - 512 x 512\n")
    assert _find_reason(log, 2) == "the memory is not enough for crops of - 512 x 512"
    assert _find_reason(log, -9).startswith("it was killed by signal 9, as by a system that runs")
    log.write_text("Traceback (most recent call last):\n  File ...\nRuntimeError: odd\n")
    assert _find_reason(log, 1) == "RuntimeError: odd"
    log.write_text("")
    assert _find_reason(log, 1) == "it ended with status 1"
