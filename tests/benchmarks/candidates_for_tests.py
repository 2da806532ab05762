"""Candidates that cost nothing, for the processes that tests measure."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from harness.process import Candidate


def quiet():
    return Candidate(lambda: None, lambda: {"threads": os.environ["OMP_NUM_THREADS"]})


def hungry(megabytes):
    """Its runs take memory and free it; its facts take more, which is in no peak."""
    return Candidate(
        lambda: len(b"x" * (megabytes * 1_000_000)),
        lambda: {"later": len(b"x" * (5 * megabytes * 1_000_000))},
    )


def failing(when):
    if when == "build":
        raise ValueError("it cannot be built\nand this is the second line")
    if when == "exit":
        os._exit(3)

    def run():
        if when == "run":
            raise RuntimeError("it cannot be run")
        if when == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if when == "late":
            time.sleep(60)

    return Candidate(run)


def crowded(folder, name, other):
    """Cannot run while another lives, as if memory were too little for both."""
    Path(folder, name).touch()

    def run():
        if other and Path(folder, other).exists():
            Path(folder, other).unlink()
            raise MemoryError("there is too little memory")

    return Candidate(run)
