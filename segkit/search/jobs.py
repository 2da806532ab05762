"""The trainings of a search, one after the other, each in a process of its own.

So each begins with empty memory, one that runs out of it, or is killed for it, ends alone, and its
folder is what ``python -m segkit.train`` writes. The price is to start Python and to read the data
each time, which the time limits account for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from segkit.config.quoting import quote_value
from segkit.config.resumed import CODE
from segkit.core.errors import SegkitError
from segkit.core.interrupts import Stopped
from segkit.core.owners import hold_folder
from segkit.search.command_line import name_key
from segkit.search.record import Done
from segkit.training.resume import is_concluded, last_checkpoint, read_result

LOG = "output.txt"
"""What the training prints."""
STOPPED = {129: 1, 130: 2, 143: 15, -1: 1, -2: 2, -15: 15}
"""The signals that have stopped a training, by its exit status."""
LONGEST_REASON = 300
"""Characters."""


def train(folder: Path, options: Sequence[str], flags: Sequence[str], console: Console) -> Done:
    """Train in a folder, or go on with a training that a killed search has left there.

    Args:
        folder: The run folder.
        options: The options of the training.
        flags: What comes before them on the command line.
        console: Where to say what is waited for.

    Raises:
        Stopped: The training was stopped by a signal to it, or to this process.
    """
    began, folder = time.monotonic(), folder.resolve()
    _wait_until_free(folder, console)
    if not is_concluded(folder):
        code = [text for text in options if name_key(text) in CODE]  # which no run names itself
        where = [*flags, f"resume={quote_value(str(folder))}", *code]
        if not last_checkpoint(folder).is_file():
            shutil.rmtree(folder, ignore_errors=True)  # what a killed one has left
            where = [*flags, *options, f"hydra.run.dir={quote_value(str(folder))}"]
        folder.mkdir(parents=True, exist_ok=True)
        status = _run([*where, "trainer.progress_bar=false"], folder / LOG)
        if status in STOPPED:
            raise Stopped(STOPPED[status])
        if status or not is_concluded(folder):
            return Done(None, time.monotonic() - began, _find_reason(folder / LOG, status))
    result = read_result(folder)
    seconds = max(time.monotonic() - began, result.get("seconds") or 0.0)
    return Done(result.get(result["monitor"]), seconds)


def _run(options: Sequence[str], log: Path) -> int:
    """Run a training and return its exit status; signals to this process stop it in order."""
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "segkit.train", *options],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"COLUMNS": "120"},
            start_new_session=True,  # Ctrl-C reaches it once, from here
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            try:
                process.wait()
            except KeyboardInterrupt:  # again: it need not finish its step
                process.kill()
                process.wait()
            raise


def _wait_until_free(folder: Path, console: Console) -> None:
    """Wait for a training that still runs although its search was killed."""
    said = False
    while folder.is_dir():
        try:
            with hold_folder(folder, "a search"):
                return
        except SegkitError as error:
            if not said:
                console.print(f"waiting for a training that was left alone: {error}")
            said = True
            time.sleep(1)


def _find_reason(log: Path, status: int) -> str:
    """Why a training failed, from what it printed last."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    if status < 0:
        return f"it was killed by signal {-status}, as by a system that runs out of memory"
    errors = [n for n, line in enumerate(lines) if line.startswith("error:")]
    said = lines[errors[-1] :] if errors else lines[-1:]
    reason = " ".join(said[:3]).removeprefix("error: ") or f"it ended with status {status}"
    return reason[:LONGEST_REASON]
