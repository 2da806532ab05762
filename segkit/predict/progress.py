"""How far a command is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 30.0
"""Seconds between lines."""


class Meter:
    """Counts images, from any thread.

    Args:
        console: Where to show it; a quiet one shows nothing.
        what: What is done to the images.
        total: How many there are, as far as is known.
    """

    def __init__(self, console: Console, what: str, total: int) -> None:
        self.console, self.what, self.total = console, what, total
        self.done = 0.0
        self._lock = threading.Lock()
        self._started = self._said = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal and not console.quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(what, total=total, speed="")

    def expect(self, more: int) -> None:
        """There are more images than were known of, as the pages of a file."""
        with self._lock:
            self.total += more
            if self._bar is not None:
                self._bar.update(self._task, total=self.total)

    def advance(self, images: float = 1) -> None:
        """So many are done, which of a large image is a share of one."""
        with self._lock:
            self.done += images
            now = time.monotonic()
            if self._bar is not None:
                self._bar.update(self._task, advance=images, speed=self._speed(now))
            elif now - self._said >= EVERY:
                self._said = now
                left = (self.total - self.done) * (now - self._started) / self.done
                self.console.print(
                    f"  {self.what}: {self._count()} of {self.total} images, {self._speed(now)},"
                    f" {_duration(left)} left"
                )

    def __enter__(self) -> Meter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _count(self) -> str:
        """Those that are done; tenths only where an image is under way."""
        return f"{self.done:.1f}".removesuffix(".0")

    def _speed(self, now: float) -> str:
        each = self.done / max(now - self._started, 1e-9)
        return f"{each:.3g} images/s" if each > 0.1 else f"{60 * each:.3g} images/min"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
