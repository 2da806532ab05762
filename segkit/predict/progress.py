"""Progress of a command: a bar in a terminal, otherwise a line every now and then."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

EVERY = 30.0
"""Seconds between lines."""


class Meter:
    """Counts images, from any thread. A quiet console shows nothing."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self.console = console
        self._is_bar = console.is_terminal and not console.quiet
        count, left = MofNCompleteColumn(), TimeRemainingColumn()
        columns = "{task.description}", BarColumn(), count, "{task.fields[speed]}", left
        self._progress = Progress(*columns, console=console, transient=True)
        self._progress.add_task(what, total=total, speed="")
        (self._task,) = self._progress.tasks
        self._lock, self._printed = threading.Lock(), time.monotonic()

    def expect(self, more: int) -> None:
        """Add images that were not known before, such as the pages of a file."""
        with self._lock:
            self._progress.update(self._task.id, total=(self._task.total or 0) + more)

    def advance(self, images: float = 1) -> None:
        """Count images as done; of a large one, a fraction."""
        with self._lock:
            task = self._task
            self._progress.advance(task.id, images)
            rate = task.completed / max(task.elapsed or 0, 1e-9)
            speed = f"{rate:.3g} images/s" if rate > 0.1 else f"{60 * rate:.3g} images/min"
            self._progress.update(task.id, speed=speed)
            if self._is_bar or time.monotonic() - self._printed < EVERY:
                return
            self._printed = time.monotonic()
            done = f"{task.completed:.1f}".removesuffix(".0")
            seconds = (task.remaining or 0) * (task.elapsed or 0) / task.completed
            left = str(timedelta(seconds=round(seconds))).removeprefix("0:").removeprefix("0")
            self.console.print(
                f"  {task.description}: {done} of {task.total:.0f} images, {speed}, {left} left"
            )

    def __enter__(self) -> Meter:
        if self._is_bar:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_bar:
            self._progress.stop()
