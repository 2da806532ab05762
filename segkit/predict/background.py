"""Work that is done in a thread while the caller's goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from segkit.predict.bounded_queue import BoundedQueue, EndedError

_AWAKE = 0.5
"""Seconds after which a wait looks up, for Ctrl-C cannot end one on every system."""


class Background:
    """A thread that does what it is given, one after the other.

    When the ``with`` block ends, all is done; after an error in it, what is left is dropped. What
    goes wrong in the thread comes out where the next work is given, or at the end.

    Args:
        name: Of the thread.
        most: Bytes that wait for it.
    """

    def __init__(self, name: str, most: int) -> None:
        self._queue: BoundedQueue[Callable[[], None]] = BoundedQueue(most)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def do(self, work: Callable[[], None], size: int) -> None:
        """Have something done, which holds so many bytes. Waits until there is room for it.

        Raises:
            EndedError: The thread has ended, for something went wrong in it.
        """
        self._queue.put(work, size)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._queue.end()
        else:
            self._queue.abandon()
        while self._thread.is_alive():
            self._thread.join(_AWAKE)
        if self._failure is not None and (kind is None or kind is EndedError):
            raise self._failure

    def _work(self) -> None:
        try:
            while True:
                self._queue.get()()
        except EndedError:
            pass
        except BaseException as error:
            self._failure = error
            self._queue.abandon()
