"""Ctrl-C, SIGTERM and a closed terminal at a point where nothing is lost; limits of time."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""The signals that ask a process to end; Windows has no SIGHUP."""
REQUEUE = "SIGUSR1"
"""The signal that asks for the same in a job of Slurm."""


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to end.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def asks_for_requeue(self) -> bool:
        """Whether Slurm is about to end the job (``sbatch --signal=USR1@120``)."""
        return self.number == getattr(signal, REQUEUE, None)

    @property
    def status(self) -> int:
        """The exit status, as in shells."""
        return 128 + self.number


class TimeIsOver(BaseException):
    """The time of a :func:`limit_time` is over. No error, which libraries may catch."""


@contextmanager
def limit_time(seconds: float | None) -> Iterator[None]:
    """Raise TimeIsOver in the block once it has taken so many seconds; None: never.

    It interrupts Python code between any two instructions, so what the block computes is lost. In
    other threads than the main one, and on Windows, which has no such alarm, the block has no
    limit.
    """
    has_alarm = hasattr(signal, "setitimer")
    if (
        seconds is None
        or not has_alarm
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeIsOver

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, if it rang where nothing is raised
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def raise_signals() -> None:
    """Let SIGTERM and a closed terminal end a command as Ctrl-C does, so that it can clean up."""
    for name in NAMES[1:]:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def stop_raising() -> None:
    """Let the next signal end this process at once: it ends already, and nothing would catch it."""
    for name in NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


class StopSignals:
    """Notes signals within its ``with`` block, for :meth:`stop_if_asked` to act on.

    Python raises KeyboardInterrupt between any two instructions: it can interrupt the writing of a
    file, be swallowed by a library, or leave a lock taken for which a thread waits for ever. A
    second signal is raised there nevertheless. In other threads than the main one signals are not
    ours, and the block changes nothing.

    Attributes:
        number: The number of the signal that came; 0: none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def stop_if_asked(self) -> None:
        """Raise Stopped if a signal came; from any thread."""
        if self.number:
            raise Stopped(self.number)

    def listen(self) -> None:
        """Take the signals, also from a library that has taken them in between."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in (*NAMES, *([REQUEUE] if "SLURM_JOB_ID" in os.environ else [])):
            number = getattr(signal, name, None)
            if number is None:
                continue
            held = signal.getsignal(number)
            if name == "SIGHUP" and held is signal.SIG_IGN:  # nohup
                continue
            self._before.setdefault(number, held)
            signal.signal(number, self._note)

    def __enter__(self) -> StopSignals:
        self.listen()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stop_if_asked()
        self.number = number
