"""The trainings of a search, one after the other, each in a process of its own.

So each begins with empty memory, one that runs out of it, or is killed for it, ends alone, and its
folder is what ``python -m segkit.train`` writes. The price is to start Python and to read the data
each time, which the time limits account for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from rich.console import Console

from segkit.config.quoting import quote_value
from segkit.config.resumed import CODE
from segkit.core.interrupts import Stopped
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
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("a", encoding="utf-8") as log:
        _lock(log, console)
        if not is_concluded(folder):
            if last_checkpoint(folder).is_file():
                code = [text for text in options if name_key(text) in CODE]  # no run names it
                where = [*flags, *code, f"resume={quote_value(str(folder))}"]
            else:
                where = [*flags, *options, f"hydra.run.dir={quote_value(str(folder))}"]
            status = _run([*where, "trainer.progress_bar=false"], log)
            if status in STOPPED:
                raise Stopped(STOPPED[status])
            if status or not is_concluded(folder):
                return Done(None, time.monotonic() - began, _find_reason(folder / LOG, status))
    result = read_result(folder)
    seconds = max(time.monotonic() - began, result.get("seconds") or 0.0)
    return Done(result.get(result["monitor"]), seconds)


def _run(options: Sequence[str], log: IO[str]) -> int:
    """Run a training and return its exit status; signals to this process stop it in order."""
    process = subprocess.Popen(
        [sys.executable, "-m", "segkit.train", *options],
        stdin=subprocess.DEVNULL,
        stdout=log,
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


def _lock(log: IO[str], console: Console) -> None:
    """Lock the output of a training, which holds it as long as it runs, whatever ends its search.

    So a search waits for a training of its own that still runs although it was killed.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.print(f"waiting for a training of a killed search, which still writes {log.name}")
        fcntl.flock(log, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return


def _find_reason(log: Path, status: int) -> str:
    """Why a training failed, from what it printed last."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    if status < 0:
        return f"it was killed by signal {-status}, as by a system that runs out of memory"
    errors = [n for n, line in enumerate(lines) if line.startswith("error:")]
    said = lines[errors[-1] :] if errors else lines[-1:]
    reason = " ".join(said[:3]).removeprefix("error: ") or f"it ended with status {status}"
    return reason[:LONGEST_REASON]
