"""Jobs of Slurm that are stopped and started again: the same command goes on with its run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from segkit.core.interrupts import CtrlC
from segkit.training.record import JOB, name_command
from segkit.training.resume import last_checkpoint


def resume_after_requeue(config: DictConfig, console: Console) -> bool:
    """Set ``resume`` to the run that this command has begun, if its Slurm job was started again.

    A command that has finished before, in a job of several, ends here. Return whether it is set.
    """
    is_restarted = HydraConfig.initialized() and "SLURM_RESTART_COUNT" in os.environ
    if not is_restarted or config.get("resume"):
        return False
    claimed = Path(HydraConfig.get().runtime.output_dir)
    for folder in sorted(claimed.parent.iterdir()):
        stored = _read(folder / "environment.json")
        if (stored.get(JOB), stored.get("command")) != (os.environ["SLURM_JOB_ID"], name_command()):
            continue
        result = _read(folder / "result.json")
        is_finished = bool(result) and "error" not in result
        if not is_finished and not last_checkpoint(folder).is_file():
            continue  # stopped before its first epoch was over
        if folder != claimed:
            with suppress(OSError):  # another process has removed it
                claimed.rmdir()
        if is_finished:
            console.print(f"{folder} is finished, from before this Slurm job was started again")
            sys.exit()
        config.resume = str(folder)
        return True
    return False


def _read(path: Path) -> dict[str, Any]:
    """The content of a JSON file, nothing if it is missing or broken."""
    with suppress(OSError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


@contextmanager
def stopping_on_usr1(ctrl_c: CtrlC) -> Iterator[list[int]]:
    """In a Slurm job, take SIGUSR1 (``sbatch --signal=USR1@90``) for Ctrl-C, and list it."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        ctrl_c.is_pressed = True

    in_main = threading.current_thread() is threading.main_thread()
    if "SLURM_JOB_ID" not in os.environ or not in_main:
        yield received
        return
    before = signal.signal(signal.SIGUSR1, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGUSR1, before)


def requeue() -> str:
    """Put this job back into the queue of Slurm; say whether that went well."""
    job = os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "") or str(error)
        return f"Slurm job {job} cannot be requeued: {why.strip()}"
    return f"Slurm job {job} is requeued, and will go on with this run by itself"
