"""Several processes of one command: who they are, and that none waits for a dead one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from segkit.core.errors import SegkitError
from segkit.core.sharing import Share, find_idle_tasks

SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment that the test may change, and so may what it calls."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_srun_is_understood(monkeypatch):
    os.environ |= SRUN
    monkeypatch.setattr("segkit.core.sharing._open_store", lambda rank, count: "store")
    assert Share.join() == Share(3, 4, 1, 2, "store")
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node07", "19711")
    assert Share.join() == Share(3, 4, 1, 2, "store")


def test_a_step_of_one_task_is_one_process():
    os.environ |= SRUN | {"SLURM_STEP_NUM_TASKS": "1"}
    assert Share.join() == Share()
    assert find_idle_tasks() is None


def test_tasks_without_srun_are_noticed():
    os.environ |= {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
    assert Share.join() == Share()
    assert "has 4 tasks" in (find_idle_tasks() or "")


def test_processes_that_lightning_starts_are_no_share():
    """They know WORLD_SIZE and LOCAL_RANK, but get their number from Lightning."""
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    assert Share.join() == Share()


def test_numbers_that_do_not_fit_are_named():
    os.environ |= {"WORLD_SIZE": "2", "RANK": "two"}
    with pytest.raises(SegkitError, match="RANK=two, WORLD_SIZE=2"):
        Share.join()


PROCESS = """
import os, sys, time
from segkit.core.sharing import Share, is_said
share = Share.join()
print(share.agree(lambda: f"of {share.rank}"), not is_said("a message"))
share.connect()
if share.rank == 1 and sys.argv[1] == "dies":
    os._exit(9)
if share.rank == 1:
    time.sleep(2)
print(share.gather({"rank": share.rank}))
"""


def start(rank: int, *words: str) -> subprocess.Popen[str]:
    port = str(20000 + os.getpid() % 10000)
    own = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", PROCESS, *words]
    return subprocess.Popen(command, env={**os.environ, **own}, text=True, **streams)


@pytest.mark.slow
def test_the_first_process_waits_for_a_slow_one():
    (first, error), (second, _) = [p.communicate(timeout=120) for p in (start(0, ""), start(1, ""))]
    assert first.splitlines()[1:] == ["[{'rank': 0}, {'rank': 1}]"], error
    assert second.splitlines()[1:] == ["[{'rank': 1}]"]
    agreed, said = zip(
        *(out.splitlines()[0].rsplit(" ", 1) for out in (first, second)), strict=True
    )
    assert agreed == ("of 0", "of 0")
    assert sorted(said) == ["False", "True"]  # one of them says it


@pytest.mark.slow
def test_a_dead_process_is_noticed():
    running = [start(rank, "dies") for rank in range(2)]
    (_, error), _ = [process.communicate(timeout=60) for process in running]
    assert running[0].returncode == 1
    assert "SegkitError: another process of this command has ended" in error
