"""Images that are too large for memory are read, predicted and written by windows.

Tiles are read in one thread, predicted in the caller's and written in another one, with a limited
number of bytes between them. The pages of a file follow one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.values import find_empty
from segkit.images.place import subsample_place
from segkit.images.raster import Raster, Windows
from segkit.images.reading import ImageReader, read_image
from segkit.images.window_writing import Scratch, WindowFile
from segkit.images.windows import WindowedImage, open_windows
from segkit.inference.background import Background
from segkit.inference.bit_depth import Extremes
from segkit.inference.predictor import Predictor
from segkit.predict.inputs import ImageFile, Page
from segkit.predict.outputs import Outputs, choose_overlay_suffix, to_16_bits
from segkit.predict.stacks import StackFile

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
        advance: Callable[[float], None],
    ) -> None:
        self.predictor, self.outputs, self.advance = predictor, outputs, advance
        card = predictor.card
        self._layers = (card.num_classes,) if card.mode == "multilabel" else ()
        self._dtype = outputs.make_mask(np.zeros((*self._layers, 1, 1), np.uint8)).dtype

    def predict(self, file: ImageFile, pages: int) -> None:
        """Write all results of a file."""
        card = self.predictor.card
        with ImageReader(file.path, card.is_upright) as reader:
            places = [reader.read_place(number) for number in range(pages)]
        if pages == 1:
            with _open_page(file.path, 0, card) as image:
                wanted, shape = self.outputs.wanted, (*self._layers, *image.shape[:2])
                path = self.outputs.find_path(file.stem, f".{wanted.large_format}")
                self.outputs.clear(file, path)
                page = Page(file, 0, 1, image, places[0])
                with WindowFile(
                    path,
                    shape,
                    self._dtype,
                    pyramid=wanted.pyramid,
                    place=page.place,
                    nodata=self.outputs.find_nodata(page),
                ) as mask:
                    self._predict(page, mask)
                    self.outputs.record.finish(file, path)
            return
        for number in range(pages):
            with _open_page(file.path, number, card) as image:
                shape = (*self._layers, *image.shape[:2])
                page = Page(file, number, pages, image, places[number])
                stack = self.outputs.open_stack(page)
                assert isinstance(stack, StackFile)
                options = self.outputs.place_options(page)
                with stack.write_windows(number, shape, self._dtype, options) as mask:
                    self._predict(page, mask)
        self.outputs.finish_stack(file, stack)

    def _predict(self, page: Page, mask: WindowFile | Scratch) -> None:
        """Write a mask into its file, and the other results beside it."""
        wanted, outputs = self.outputs.wanted, self.outputs
        height, width, _ = page.image.shape
        picture = outputs.find_path("overlays" / page.stem, choose_overlay_suffix(page.place))
        map_path = outputs.find_path("probabilities" / page.stem, f".{wanted.large_format}")
        begun = {picture: wanted.overlays, map_path: wanted.probabilities}
        outputs.record.begin(page.file, [path for path, is_on in begun.items() if is_on])
        overview = _Overview(page.image, self._layers) if wanted.overlays else None
        source = Extremes(overview or page.image)
        with ExitStack() as stack:
            maps = None
            if wanted.probabilities:
                shape = (self.predictor.card.num_logits, height, width)
                maps = WindowFile(
                    map_path, shape, np.uint16, pyramid=wanted.pyramid, place=page.place
                )
                stack.enter_context(maps)
            writer = stack.enter_context(Background("segkit-writer", WAITING))

            def write(top: int, left: int, labels: NDArray[np.uint8]) -> None:
                def store() -> None:
                    if page.image.may_lack_data:
                        part = page.image.read(top, left, *labels.shape[-2:])
                        empty = find_empty(part)
                        if empty is not None:
                            labels[..., empty] = self.predictor.card.unlabelled
                    mask.write(top, left, outputs.make_mask(labels))
                    if overview is not None:
                        overview.add(top, left, labels)
                    self.advance(math.prod(labels.shape[-2:]) / (height * width))

                writer.submit(store, labels.nbytes)

            def write_maps(top: int, left: int, block: NDArray[np.float32]) -> None:
                assert maps is not None
                file, values = maps, block.copy()  # the band that it is part of is reused
                writer.submit(lambda: file.write(top, left, to_16_bits(values)), values.nbytes)

            self.predictor.predict_windows(source, write, write_maps if maps else None)
        self.predictor.watch.check_range(page.file.path, page.image.dtype, source.values)
        if overview is not None:
            place = page.place and subsample_place(page.place, overview.step)
            outputs.write_overlay(picture, overview.image, overview.labels, place=place)


def _open_page(path: Path, number: int, card: ModelCard) -> WindowedImage:
    """Open a page, which can also be one that can only be read whole, such as a small one."""
    windows = open_windows(path, number, card.keeps_alpha)
    if windows is not None:
        return windows
    image = read_image(path, number, card.keeps_alpha, card.is_upright)
    empty = find_empty(image)

    def read(top: int, left: int, height: int, width: int) -> Raster:
        place = slice(top, top + height), slice(left, left + width)
        return Raster(np.ma.getdata(image)[place], missing=None if empty is None else empty[place])

    height, width, _ = image.shape
    kind = Raster(np.ma.getdata(image)[:0], missing=None if empty is None else empty[:0])
    return WindowedImage(path, Windows((height, width), kind, read), lambda: None)


class _Overview:
    """A large image, subsampled while it is read, and its labels, subsampled likewise."""

    def __init__(self, image: WindowedImage, layers: tuple[int, ...]) -> None:
        height, width, channels = self.shape = image.shape
        self._source, self.step = image, math.ceil(max(height, width) / OVERVIEW)
        size = math.ceil(height / self.step), math.ceil(width / self.step)
        self.image = np.ma.zeros((*size, channels), image.dtype)
        self.labels = np.zeros((*layers, *size), np.uint8)

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Read a window of the image and keep the subsampled part."""
        part = self._source.read(top, left, height, width)
        step = self.step
        rows, columns = self._place(top, height), self._place(left, width)
        self.image[rows, columns] = part[-top % step :: step, -left % step :: step]
        return part

    def add(self, top: int, left: int, labels: NDArray[np.uint8]) -> None:
        """Keep the subsampled part of a block of labels."""
        step = self.step
        rows, columns = self._place(top, labels.shape[-2]), self._place(left, labels.shape[-1])
        self.labels[..., rows, columns] = labels[..., -top % step :: step, -left % step :: step]

    def _place(self, first: int, length: int) -> slice:
        return slice(math.ceil(first / self.step), math.ceil((first + length) / self.step))
