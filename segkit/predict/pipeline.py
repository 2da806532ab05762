"""Read, predict and write at the same time, with few images in memory.

Threads read ahead, the caller's thread predicts, other threads write.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain
from typing import Any

from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.interrupts import StopSignals
from segkit.core.memory import count_usable_cores
from segkit.images.formats.base import ImageFormat
from segkit.images.raster import TooLargeError
from segkit.images.reading import ImageReader, wrap_errors
from segkit.inference.background import THREADS, Background, map_ahead
from segkit.inference.predictor import Prediction, Predictor
from segkit.predict.inputs import ImageFile, Page, find_maps_format
from segkit.predict.large import LargeImages, is_large
from segkit.predict.outputs import Outputs
from segkit.predict.progress import Meter

WAITING = 256 * 1024**2
"""Bytes of images that wait to be predicted, and of predictions that wait to be written."""
WRITERS = min(8, count_usable_cores())
"""Threads that write: compressing the files takes longer than predicting on a GPU."""

_OF_ALL_FILES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors in writing that the next file would meet too."""


class Pipeline:
    """Predicts image files into an output folder.

    ``finished`` lists the files whose mask is written, in that order; ``problems`` says what is
    wrong with others. The meter counts pages, of large images fractions of them.
    """

    def __init__(
        self, predictor: Predictor, outputs: Outputs, meter: Meter, stop: StopSignals
    ) -> None:
        self.predictor, self.outputs, self.meter = predictor, outputs, meter
        self.stop = stop
        self.finished: list[ImageFile] = []
        self.problems: dict[ImageFile, str] = {}
        self._by_windows = not outputs.wanted.needs_whole_maps(predictor.instances is not None)
        self._large: list[tuple[ImageFile, int]] = []

    def run(self, files: Sequence[ImageFile]) -> None:
        """Predict the files.

        Raises:
            SegkitError: Nothing can be written any more, as on a full disk.
            KeyboardInterrupt: A signal came. What is written stays.
        """
        try:
            with (
                Background("segkit-read", WAITING) as reader,
                Background("segkit-write", WAITING, WRITERS) as writers,
            ):
                pages = reader.read_ahead(self._read(files), lambda page: page.image.nbytes)
                self._predict(pages, writers)
                for file, count in self._large:
                    self._predict_large(file, count, writers)
        finally:
            self.outputs.drop_all()

    def _read(self, files: Sequence[ImageFile]) -> Iterator[Page]:
        """The pages of all files but the large ones; runs in a thread, and files in others."""
        for file, opened in map_ahead(self._open, files, THREADS):
            if isinstance(opened, SegkitError | MemoryError):
                self._fail(file, opened)
                self.meter.advance(1)
                continue
            total, pages = opened
            self.meter.expect(total - 1)
            if pages is None:
                self._large.append((file, total))
                continue
            given = 0
            try:
                for page in pages:
                    yield page
                    given += 1
                    del page
            except (SegkitError, MemoryError) as error:
                self._fail(file, error)
                self.meter.advance(total - given)

    def _open(
        self, file: ImageFile
    ) -> tuple[int, Iterator[Page] | None] | SegkitError | MemoryError:
        """Open a file and read its first page.

        Returns:
            The number of its pages and those, None for a large image; or what is wrong with it.
        """
        try:
            with ExitStack() as stack:
                reader = stack.enter_context(ImageReader(file.path, self.predictor.card.is_upright))
                total = len(reader)
                with wrap_errors(file.path):
                    maps = find_maps_format(file.path)
                if self._by_windows and maps is None and is_large(file.path, total):
                    return total, None
                stack.pop_all()
            pages = self._read_pages(file, reader, maps)  # closes it
            first = next(pages)
        except (SegkitError, MemoryError) as error:
            return error
        return total, chain([first], pages)

    def _read_pages(
        self, file: ImageFile, reader: ImageReader, maps: type[ImageFormat] | None
    ) -> Iterator[Page]:
        with reader:
            for number in range(total := len(reader)):
                image = reader.read_image(number, self.predictor.card.keeps_alpha)
                self.predictor.watch.check_image(file.path, image)
                yield Page(file, number, total, image, reader.read_place(number), maps)
                del image

    def _predict(self, pages: Iterator[Page], writers: Background) -> None:
        waiting: deque[Page] = deque()

        def images() -> Iterator[NDArray[Any]]:
            for page in pages:
                waiting.append(page)
                yield page.image
                del page

        wanted = self.outputs.wanted.probabilities
        stream = self.predictor.try_stream(images(), probabilities=wanted)
        with closing(stream) as results:
            for result in results:
                self.stop.stop_if_asked()
                page = waiting.popleft()
                if isinstance(result, SegkitError):
                    self._fail(page.file, result)
                    self.meter.advance(1)
                    continue
                arrays = page.image, result.labels, result.maps, result.instances
                size = sum(array.nbytes for array in arrays if array is not None)
                writers.submit(partial(self._write, page, result), size)
                del page, result

    def _predict_large(self, file: ImageFile, pages: int, writers: Background) -> None:
        left = float(pages)

        def advance(share: float) -> None:
            nonlocal left
            writers.raise_error()  # what is computed now would be lost
            self.stop.stop_if_asked()
            left -= share
            self.meter.advance(share)

        try:
            writers.raise_error()
            LargeImages(self.predictor, self.outputs, advance).predict(file, pages)
            self.finished.append(file)
        except (SegkitError, MemoryError) as error:
            if _concerns_all(error):
                raise
            self._fail(file, error)
        self.meter.advance(left)  # the pages of a file that failed; else the rounding error

    def _write(self, page: Page, result: Prediction) -> None:
        """Write a page; runs in a thread."""
        if page.file not in self.problems:
            try:
                if self.outputs.write(page, result):
                    self.finished.append(page.file)
            except (SegkitError, MemoryError) as error:
                if _concerns_all(error):
                    raise
                self._fail(page.file, error)
        self.meter.advance(1)

    def _fail(self, file: ImageFile, error: SegkitError | MemoryError) -> None:
        text = str(error)
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            text = "it does not fit into memory."
        is_large = text != str(error) or isinstance(error.__cause__, TooLargeError)
        if is_large and not self._by_windows:
            text += (
                " Without objects and outlines (instances=null polygons=null) it is predicted in"
                " parts."
            )
        self.problems[file] = text if str(file.path) in text else f"{file.path}: {text}"
        self.outputs.drop(file)


def _concerns_all(error: SegkitError | MemoryError) -> bool:
    """Whether writing the next file would fail too, as on a full disk."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _OF_ALL_FILES
