"""Images that are too large for memory are read, predicted and written by windows.

Tiles are read in one thread, predicted in the caller's and written in another one, with a limited
number of bytes between them. The pages of a file follow one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.images.reading import read_image
from segkit.images.window_writing import Scratch, WindowFile
from segkit.images.windows import WindowedImage, open_windows
from segkit.inference.background import Background
from segkit.inference.bit_depth import DepthWatch, Highest
from segkit.inference.predictor import Predictor
from segkit.predict.inputs import ImageFile
from segkit.predict.outputs import Outputs, page_stem, to_16_bits

LARGE = 4096**2
"""Pixels above which an image is processed by windows."""
OVERVIEW = 2048
"""The longest side of the overlay of such an image, in pixels."""
WAITING = 32 * 1024**2
"""Bytes of labels and probabilities that wait to be written."""


def is_large(path: Path, pages: int) -> bool:
    """Whether the first page of a file should be processed by windows, and can be."""
    image = open_windows(path, 0 if pages > 1 else None)
    if image is None:
        return False
    with image:
        return image.shape[0] * image.shape[1] > LARGE


class LargeImages:
    """Writes the masks of large images and, on request, probabilities and small overlays.

    There are no objects and outlines, because they need the whole map. ``advance`` is called with
    the fraction of a page that was written, from several threads.
    """

    def __init__(
        self,
        predictor: Predictor,
        outputs: Outputs,
        depths: DepthWatch,
        advance: Callable[[float], None],
    ) -> None:
        self.predictor, self.outputs = predictor, outputs
        self.depths, self.advance = depths, advance
        card = predictor.card
        self._layers = (card.num_classes,) if card.mode == "multilabel" else ()
        self._dtype = outputs.mask(np.zeros((*self._layers, 1, 1), np.uint8)).dtype

    def predict(self, file: ImageFile, pages: int) -> None:
        """Write all results of a file."""
        if pages == 1:
            whole = open_windows(file.path)
            assert whole is not None
            with whole:
                self._predict_file(file, whole)
            return
        stack = self.outputs.stack(file, pages)
        for number in range(pages):
            with _open_page(file.path, number) as image:
                shape = (*self._layers, *image.shape[:2])
                with stack.write_windows(number, shape, self._dtype) as mask:
                    self._predict(file, page_stem(file, number), image, mask)
        self.outputs.finish_stack(file, stack)

    def _predict_file(self, file: ImageFile, image: WindowedImage) -> None:
        wanted, shape = self.outputs.wanted, (*self._layers, *image.shape[:2])
        path = self.outputs.path(file.stem, f".{wanted.large_format}")
        self.outputs.clear(file, path)
        with WindowFile(path, shape, self._dtype, pyramid=wanted.pyramid) as mask:
            self._predict(file, file.stem, image, mask)
            self.outputs.record.finish(file, path)

    def _predict(
        self,
        file: ImageFile,
        stem: Path,
        image: WindowedImage | _WholePage,
        mask: WindowFile | Scratch,
    ) -> None:
        """Write a mask into its file, and the other results beside it."""
        wanted, (height, width) = self.outputs.wanted, image.shape[:2]
        pictured = self.outputs.path("overlays" / stem, ".png")
        mapped = self.outputs.path("probabilities" / stem, f".{wanted.large_format}")
        begun = {pictured: wanted.overlays, mapped: wanted.probabilities}
        self.outputs.record.begin(file, [path for path, is_on in begun.items() if is_on])
        overview = _Overview(image, self._layers) if wanted.overlays else None
        highest = Highest(image if overview is None else overview)
        with ExitStack() as stack:
            maps = None
            if wanted.probabilities:
                shape = (self.predictor.card.num_logits, height, width)
                maps = WindowFile(mapped, shape, np.uint16, pyramid=wanted.pyramid)
                stack.enter_context(maps)
            writer = stack.enter_context(Background("segkit-writer", WAITING))

            def store(top: int, left: int, labels: NDArray[np.uint8]) -> None:
                mask.write(top, left, self.outputs.mask(labels))
                if overview is not None:
                    overview.add(top, left, labels)
                self.advance(math.prod(labels.shape[-2:]) / (height * width))

            def store_maps(top: int, left: int, block: NDArray[np.float32]) -> None:
                assert maps is not None
                maps.write(top, left, to_16_bits(block))

            def write(top: int, left: int, labels: NDArray[np.uint8]) -> None:
                writer.submit(partial(store, top, left, labels), labels.nbytes)

            def write_maps(top: int, left: int, block: NDArray[np.float32]) -> None:
                block = block.copy()  # the band that it is part of is reused
                writer.submit(partial(store_maps, top, left, block), block.nbytes)

            source = highest if self.depths.wants(image.dtype) else overview or image
            self.predictor.predict_windows(source, write, write_maps if maps else None)
        if source is highest:
            self.depths.judge(file.path, image.dtype, highest.value)
        if overview is not None:
            self.outputs.write_overlay(pictured, overview.image, overview.labels)


def _open_page(path: Path, number: int) -> WindowedImage | _WholePage:
    return open_windows(path, number) or _WholePage(read_image(path, number))


class _WholePage:
    """A page that can only be read whole, such as a small one among large ones."""

    def __init__(self, image: NDArray[Any]) -> None:
        self._image, self.dtype = image, image.dtype
        height, width, channels = image.shape
        self.shape = height, width, channels

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        return self._image[top : top + height, left : left + width]

    def __enter__(self) -> _WholePage:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: no file is open."""


class _Overview:
    """A large image, subsampled while it is read, and its labels, subsampled likewise."""

    def __init__(self, image: WindowedImage | _WholePage, layers: tuple[int, ...]) -> None:
        height, width, channels = self.shape = image.shape
        self._source, self._step = image, math.ceil(max(height, width) / OVERVIEW)
        size = math.ceil(height / self._step), math.ceil(width / self._step)
        self.image = np.zeros((*size, channels), image.dtype)
        self.labels = np.zeros((*layers, *size), np.uint8)

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Read a window of the image and keep the subsampled part."""
        part = self._source.read(top, left, height, width)
        step = self._step
        rows, columns = self._place(top, height), self._place(left, width)
        self.image[rows, columns] = part[-top % step :: step, -left % step :: step]
        return part

    def add(self, top: int, left: int, labels: NDArray[np.uint8]) -> None:
        """Keep the subsampled part of a block of labels."""
        step = self._step
        rows, columns = self._place(top, labels.shape[-2]), self._place(left, labels.shape[-1])
        self.labels[..., rows, columns] = labels[..., -top % step :: step, -left % step :: step]

    def _place(self, first: int, length: int) -> slice:
        return slice(math.ceil(first / self._step), math.ceil((first + length) / self._step))
