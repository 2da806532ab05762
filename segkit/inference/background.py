"""Work in threads, with a limit on the bytes that wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeVar

from segkit.core.memory import count_usable_cores

S = TypeVar("S")
T = TypeVar("T")
THREADS = max(1, min(8, count_usable_cores() // 2))
"""Threads that read images: decoding a small one takes longer than predicting it on a GPU."""
POLL = 0.5
"""Seconds between checks while waiting: on some systems Ctrl-C cannot interrupt an endless wait."""


def map_ahead(work: Callable[[S], T], items: Iterable[S], threads: int) -> Iterator[tuple[S, T]]:
    """Each item in its order with the result of ``work``, which threads do ahead of the caller.

    At most ``threads`` results wait. Those that are not taken are dropped.
    """
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[tuple[S, Future[T]]] = deque()
        try:
            for item in items:
                begun.append((item, pool.submit(work, item)))
                if len(begun) > threads:
                    first, future = begun.popleft()
                    yield first, future.result()
            while begun:
                first, future = begun.popleft()
                yield first, future.result()
        finally:
            for _, future in begun:
                future.cancel()


class Background:
    """Threads that work while the caller goes on.

    At the end of the ``with`` block all work is done. After an error in the block, work that has
    not started is dropped. An error in a thread stops the others; the next :meth:`submit`, or the
    end of the block, raises it.

    ``limit`` is the number of bytes that may wait. Work starts as long as less is waiting, so a
    single item may exceed it.
    """

    def __init__(self, name: str, limit: int, threads: int = 1) -> None:
        self._limit, self._held, self._running = limit, 0, 0
        self._is_stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(threads, name)

    def submit(self, work: Callable[[], object], size: int) -> None:
        """Run work that holds ``size`` bytes until it is done. Waits until there is room."""
        with self._changed:
            self._wait(lambda: self._held < self._limit)
            self._start(work, size)

    def raise_error(self) -> None:
        """Raise the error of a thread, if there is one."""
        if self._error is not None:
            raise self._error

    def read_ahead(self, items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[T]:
        """Iterate in a thread, ahead of the caller as far as the limit allows.

        An item counts as waiting, with ``size_of(item)`` bytes, until the caller takes it. An
        error of ``items`` is raised here, after the items before it.
        """
        ready: deque[tuple[T, int]] = deque()
        error: BaseException | None = None
        is_read = is_left = False

        def read() -> None:
            nonlocal error, is_read
            try:
                for item in items:
                    with self._changed:
                        ready.append((item, size := size_of(item)))
                        del item  # only the caller holds it from now on
                        self._held += size
                        self._changed.notify_all()
                        self._wait(lambda: is_left or self._held < self._limit)
                    if is_left:
                        break
            except BaseException as raised:
                error = raised
            is_read = True

        def take() -> T:
            item, size = ready.popleft()
            self._held -= size
            self._changed.notify_all()
            return item

        with self._changed:
            self._start(read, 0)
        try:
            while True:
                with self._changed:
                    self._wait(lambda: ready or is_read)
                    if not ready:
                        break
                    item = take()
                yield item
                del item
            if error is not None:
                raise error
        finally:
            error = None  # it would keep itself alive through its traceback
            with self._changed:
                is_left = True
                while ready:
                    take()
                self._changed.notify_all()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_stopped |= kind is not None
        try:
            self._join()
        except BaseException:  # Ctrl-C
            self._is_stopped = True
            self._join()
            raise
        if kind is None:
            self.raise_error()

    def _join(self) -> None:
        with self._changed:
            self._changed.notify_all()
            while self._running > 0:
                self._changed.wait(POLL)
        self._pool.shutdown()

    def _start(self, work: Callable[[], object], size: int) -> None:
        self._pool.submit(self._run, work, size)  # Ctrl-C in it must not leave work to wait for
        self._held += size
        self._running += 1

    def _run(self, work: Callable[[], object], size: int) -> None:
        error = None
        try:
            if not self._is_stopped:
                work()
        except CancelledError:
            pass
        except BaseException as raised:
            error = raised
        with self._changed:
            if error is not None:
                self._error, self._is_stopped = self._error or error, True
            self._held -= size
            self._running -= 1
            self._changed.notify_all()

    def _wait(self, is_ready: Callable[[], object]) -> None:
        while not (self._is_stopped or is_ready()):
            self._changed.wait(POLL)
        if self._is_stopped:
            raise self._error or CancelledError
