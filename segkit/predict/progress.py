"""Progress of a command: a bar in a terminal, otherwise a line every now and then."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
)

EVERY = 30.0
"""Seconds between lines."""


class SpeedColumn(TextColumn):
    """Images per second or per minute."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> str:  # type: ignore[override]
        """The speed since the start."""
        each = task.completed / max(task.elapsed or 0, 1e-9)
        return f"{each:.3g} images/s" if each > 0.1 else f"{60 * each:.3g} images/min"


class Meter:
    """Counts images, from any thread. A quiet console shows nothing."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self.console, self._speed = console, SpeedColumn()
        self._is_bar = console.is_terminal and not console.quiet
        columns = BarColumn(), MofNCompleteColumn(), self._speed, TimeRemainingColumn()
        self._progress = Progress(
            TextColumn("{task.description}"), *columns, console=console, transient=True
        )
        self._progress.add_task(what, total=total)
        (self._task,) = self._progress.tasks
        self._lock, self._printed = threading.Lock(), time.monotonic()

    def expect(self, more: int) -> None:
        """Add images that were not known before, such as the pages of a file."""
        with self._lock:
            self._progress.update(self._task.id, total=(self._task.total or 0) + more)

    def advance(self, images: float = 1) -> None:
        """Count images as done; of a large one, a fraction."""
        self._progress.advance(self._task.id, images)
        with self._lock:
            if self._is_bar or time.monotonic() - self._printed < EVERY:
                return
            self._printed = time.monotonic()
            task = self._task
            done = f"{task.completed:.1f}".removesuffix(".0")
            left = (task.remaining or 0) * (task.elapsed or 0) / task.completed
            remaining = str(timedelta(seconds=round(left))).removeprefix("0:").removeprefix("0")
            self.console.print(
                f"  {task.description}: {done} of {task.total:.0f} images,"
                f" {self._speed.render(task)}, {remaining} left"
            )

    def __enter__(self) -> Meter:
        if self._is_bar:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_bar:
            self._progress.stop()
