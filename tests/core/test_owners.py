"""Whose a file is, and folders that one process holds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from segkit.core import files, owners
from segkit.core.errors import SegkitError
from segkit.core.owners import LOCK, Owner, hold_folder, is_abandoned

HOLD = """
import sys, time
from pathlib import Path
from segkit.core.owners import hold_folder
with hold_folder(Path(sys.argv[1]), "a training"):
    print("held", flush=True)
    time.sleep(600)
"""


def write(lock, owner):
    """A file by which a process holds a folder."""
    lock.touch()
    lock.write_text(f"{owner} {lock.stat().st_ino} a training")


@pytest.fixture
def other(tmp_path):
    """A process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_an_owner_lives_until_its_process_ends(other):
    mine = Owner.current()
    assert Owner.parse(str(mine)) == mine
    assert mine.is_here
    assert not mine.is_gone()
    assert replace(mine, started=mine.started - 1).is_gone()  # the number was given again
    assert not replace(mine, host="elsewhere", pid=1).is_gone()  # nobody knows
    theirs = replace(mine, pid=other.pid, started=owners._find_start(other.pid))
    assert not theirs.is_gone()
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert theirs.is_gone()  # although its parent has not asked for its status
    assert Owner.parse("deadbeefdeadbeef") is None


def test_a_held_folder_is_refused_and_names_its_holder(tmp_path, other):
    with (
        pytest.raises(SegkitError, match=rf"in use by a training, process {other.pid} on"),
        hold_folder(tmp_path, "predict"),
    ):
        pytest.fail("held twice")
    other.send_signal(signal.SIGKILL)
    other.wait()
    with hold_folder(tmp_path, "predict"):  # what a killed process held is free
        assert "predict" in (tmp_path / LOCK).read_text()
    assert not (tmp_path / LOCK).exists()


def test_of_many_one_gets_the_folder(tmp_path):
    """Also where all of them find the file of a process that was killed."""
    gone = replace(Owner.current(), started=1)
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        write(folder / LOCK, gone)

        def take(number, folder=folder):
            try:
                owners._take(folder / LOCK, f"thread {number}")
            except SegkitError:
                return 0
            return 1

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(take, range(8))) == 1


def test_a_holder_on_another_machine_must_give_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(owners, "SILENCE", 1.5)
    away = replace(Owner.current(), host="elsewhere")
    lock = tmp_path / LOCK
    write(lock, away)
    with ThreadPoolExecutor(1) as pool:
        alive = pool.submit(lambda: [(time.sleep(0.3), os.utime(lock)) for _ in range(4)])
        with pytest.raises(SegkitError, match="on elsewhere"), hold_folder(tmp_path, "predict"):
            pytest.fail("held twice")
        alive.result()
    with hold_folder(tmp_path, "predict"):
        assert "predict" in lock.read_text()


def test_the_copy_of_a_folder_in_use_is_free(tmp_path):
    with hold_folder(tmp_path / "run", "a training"):
        copy = shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with hold_folder(copy, "a training"):
            assert (copy / LOCK).is_file()


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SegkitError, match="Name another one"), hold_folder(tmp_path / "file", "x"):
        pytest.fail("held")


def test_what_killed_processes_left_is_removed_by_the_next_one(tmp_path):
    mine = Owner.current()
    gone, away = replace(mine, started=1), replace(mine, host="elsewhere")
    kept = [f".{mine}-aa.tmp", f".{away}-aa.tmp", ".foreign.tmp", "x.tmp", f".{gone}-aa.txt"]
    for name in (*kept, f".{gone}-aa.tmp"):
        (tmp_path / name).write_text("")
    (tmp_path / f".{gone}-bb.tmp").mkdir()  # of a zarr
    files._remove_abandoned.cache_clear()
    files.write_whole(tmp_path / "new", "text")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "new"}
    old = tmp_path / f".{away}-aa.tmp"
    os.utime(old, (0, 0))
    assert is_abandoned(old, str(away))
