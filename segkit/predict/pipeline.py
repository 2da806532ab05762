"""Reading, computing and writing at the same time, with few images in memory.

One thread reads ahead, the caller's predicts, some write. Between them are queues of a limited size
in bytes. Whatever goes wrong in a thread comes out in the caller's, and no thread outlives it.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from typing import Any

from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.images.reading import count_pages, read_image
from segkit.inference.bit_depth import DepthWatch
from segkit.inference.predictor import Prediction, Predictor
from segkit.predict.bounded_queue import BoundedQueue, EndedError
from segkit.predict.inputs import ImageFile
from segkit.predict.large import LargeImages, is_large
from segkit.predict.outputs import Outputs, Page

WRITERS = max(1, min(4, os.cpu_count() or 1))
"""Threads that write: packing the files takes longer than predicting on a GPU."""

_OF_ALL_FILES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors in writing that the next file would meet too."""


class Pipeline:
    """Image files through a predictor into an output folder.

    Args:
        predictor: The model.
        outputs: Where the results go.
        expect: Called with the number of further pages of a file that has several.
        advance: Called with the number of pages that are written or given up, which of a large
            image is a share of one.
        say: Called with what the user should know.

    Attributes:
        finished: Files whose mask is written, in the order in which they were.
        problems: What is wrong with the other files.
    """

    def __init__(
        self,
        predictor: Predictor,
        outputs: Outputs,
        expect: Callable[[int], None],
        advance: Callable[[float], None],
        say: Callable[[str], None],
    ) -> None:
        self.predictor, self.outputs = predictor, outputs
        self.expect, self.advance = expect, advance
        self.depths = DepthWatch(predictor.card, say)
        self.finished: list[ImageFile] = []
        self.problems: dict[ImageFile, str] = {}
        self._by_windows = not outputs.wanted.needs_whole_maps(predictor.instances is not None)
        self._large: list[tuple[ImageFile, int]] = []
        self._failure: BaseException | None = None

    def run(self, files: Sequence[ImageFile]) -> None:
        """Predict the files.

        Raises:
            SegkitError: Nothing can be written any more, as on a full disk.
        """
        self._read: BoundedQueue[Page] = BoundedQueue()
        self._predicted: BoundedQueue[tuple[Page, Prediction]] = BoundedQueue()
        queues = self._read, self._predicted
        work: list[Callable[[], None]] = [partial(self._read_all, files)]
        work += [self._write_all] * WRITERS
        try:
            with ThreadPoolExecutor(len(work), "segkit") as threads:
                running = [threads.submit(self._guarded, each) for each in work]
                try:
                    self._predict_all()
                    self._predicted.end()
                    for file, pages in self._large:
                        self._predict_large(file, pages)
                    # With a limit, for Ctrl-C cannot end every wait. (Where it ends a join of a
                    # thread, Python before 3.13 takes the thread for ended too.)
                    while wait(running, 0.5).not_done:
                        pass
                except BaseException:
                    for queue in queues:
                        queue.abandon()
                    raise
        finally:
            self.outputs.drop_all()
        if self._failure is not None:
            raise self._failure

    def _guarded(self, work: Callable[[], None]) -> None:
        """The work of a thread; what goes wrong stops the others."""
        try:
            work()
        except EndedError:
            pass
        except BaseException as error:
            self._failure = self._failure or error
            self._read.abandon()
            self._predicted.abandon()

    def _read_all(self, files: Sequence[ImageFile]) -> None:
        for file in files:
            given = total = 0
            try:
                total = count_pages(file.path)
                is_by_windows = self._by_windows and is_large(file.path, total)
                self.expect(total - 1)
                if is_by_windows:
                    self._large.append((file, total))
                    continue
                for number in range(total):
                    image = read_image(file.path, number if total > 1 else None)
                    self.depths.see(file.path, image)
                    self._read.put(Page(file, number, total, image), image.nbytes)
                    given += 1
            except (SegkitError, MemoryError) as error:
                self._fail(file, error)
                self.advance(max(1, total - given))
        self._read.end()

    def _predict_all(self) -> None:
        waiting: deque[Page] = deque()

        def images() -> Iterator[NDArray[Any]]:
            while True:
                try:
                    page = self._read.get()
                except EndedError:
                    return
                waiting.append(page)
                yield page.image

        with closing(self.predictor.try_stream(images())) as results:
            for result in results:
                page = waiting.popleft()
                if isinstance(result, SegkitError):
                    self._fail(page.file, result)
                    self.advance(1)
                    continue
                size = page.image.nbytes + result.probabilities.nbytes + result.labels.nbytes
                try:
                    self._predicted.put((page, result), size)
                except EndedError:  # the failure of a thread comes out at the end
                    return

    def _predict_large(self, file: ImageFile, pages: int) -> None:
        if self._failure is not None:
            return
        left = float(pages)

        def advance(share: float) -> None:
            nonlocal left
            if self._failure is not None:  # of a writer: what is computed now would be lost
                raise self._failure
            left -= share
            self.advance(share)

        try:
            LargeImages(self.predictor, self.outputs, self.depths, advance).predict(file, pages)
            self.finished.append(file)
        except (SegkitError, MemoryError) as error:
            if _concerns_all(error):
                raise
            self._fail(file, error)
        self.advance(left)  # of one that failed; else what rounding has left

    def _write_all(self) -> None:
        while True:
            page, result = self._predicted.get()
            if page.file not in self.problems:
                try:
                    if self.outputs.write(page, result):
                        self.finished.append(page.file)
                except (SegkitError, MemoryError) as error:
                    if _concerns_all(error):
                        raise
                    self._fail(page.file, error)
            self.advance(1)

    def _fail(self, file: ImageFile, error: SegkitError | MemoryError) -> None:
        text = str(error)
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            text = "it does not fit into memory."
            if not self._by_windows:
                text += " Without objects and outlines (instances=null polygons=null) it need not."
        self.problems[file] = text if str(file.path) in text else f"{file.path}: {text}"
        self.outputs.drop(file)


def _concerns_all(error: SegkitError | MemoryError) -> bool:
    """Whether what is written next fails too, as on a full disk."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _OF_ALL_FILES
