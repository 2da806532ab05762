"""Ctrl-C at a point where nothing is lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class CtrlC:
    """Notes Ctrl-C within its ``with`` block, for :meth:`stop_if_pressed` to act on.

    Python raises KeyboardInterrupt between any two instructions: it can interrupt the writing of a
    file, be swallowed by a library, or leave a lock taken for which a thread waits for ever. A
    second Ctrl-C is raised there nevertheless. In other threads than the main one signals are
    not ours, and the block changes nothing.
    """

    def __init__(self) -> None:
        self.is_pressed = False

    def stop_if_pressed(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed; from any thread."""
        if self.is_pressed:
            raise KeyboardInterrupt

    def __enter__(self) -> CtrlC:
        self._is_ours = threading.current_thread() is threading.main_thread()
        if self._is_ours:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_ours:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stop_if_pressed()
        self.is_pressed = True
