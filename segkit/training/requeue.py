"""Jobs of Slurm that are stopped and started again: the same command goes on with its run."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from segkit.core.errors import SegkitError
from segkit.training.record import JOB, describe_command
from segkit.training.resume import is_concluded, last_checkpoint, read_environment


def resume_after_requeue(config: DictConfig, console: Console) -> bool:
    """Set ``resume`` to the run that this command has begun, if its Slurm job was started again.

    A command that has finished before, in a job of several, ends here. Return whether it is set.
    """
    is_restarted = HydraConfig.initialized() and "SLURM_RESTART_COUNT" in os.environ
    if not is_restarted or config.get("resume"):
        return False
    claimed = Path(HydraConfig.get().runtime.output_dir)
    own = os.environ["SLURM_JOB_ID"], describe_command()
    for folder in sorted(claimed.parent.iterdir()):
        try:
            stored = read_environment(folder)
        except SegkitError:
            continue  # a damaged folder of another run
        if (stored.get(JOB), stored.get("command")) != own:
            continue
        is_finished = is_concluded(folder)
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


def requeue() -> str:
    """Put this job back into the queue of Slurm; say whether that went well."""
    job = os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "") or str(error)
        return f"Slurm job {job} cannot be requeued: {why.strip()}"
    return f"Slurm job {job} is requeued, and will go on with this run by itself"
