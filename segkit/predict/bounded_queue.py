"""A queue between threads that is limited in bytes, and that either side can end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

QUEUE_BYTES = 256 * 1024**2
"""What may wait in a queue; a single item always may."""
_AWAKE = 0.5
"""Seconds after which a wait looks up, for Ctrl-C cannot end one on every system."""

T = TypeVar("T")


class EndedError(Exception):
    """Of a queue: nothing more comes, or is taken."""


class BoundedQueue(Generic[T]):
    """Items from one thread to others, as long as they do not take too much memory.

    Args:
        most: Bytes that may wait.
    """

    def __init__(self, most: int = QUEUE_BYTES) -> None:
        self.most = most
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._is_open = True
        self._changed = threading.Condition()

    def put(self, item: T, size: int) -> None:
        """Add an item, as soon as there is room for so many bytes.

        Raises:
            EndedError: Nobody takes it any more.
        """
        with self._changed:
            self._wait(lambda: not self._items or self._bytes + size <= self.most)
            if not self._is_open:
                raise EndedError
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify_all()

    def get(self) -> T:
        """Take the next item, as soon as there is one.

        Raises:
            EndedError: None comes any more.
        """
        with self._changed:
            self._wait(lambda: bool(self._items))
            if not self._items:
                raise EndedError
            item, size = self._items.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """Nothing more comes; what is in it can still be taken."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def abandon(self) -> None:
        """Nothing more comes, and what is in it is dropped."""
        with self._changed:
            self._is_open = False
            self._items.clear()
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        while not self._changed.wait_for(lambda: ready() or not self._is_open, _AWAKE):
            pass
