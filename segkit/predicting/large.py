"""Images that are too large for memory: read, predicted and written by windows."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.data.window_writing import WindowFile
from segkit.data.windows import WindowedImage, open_windows
from segkit.inference.predictor import Predictor
from segkit.predicting.inputs import ImageFile
from segkit.predicting.outputs import Outputs, to_16_bits

LARGE = 4096**2
"""Pixels from which on an image goes by windows."""
OVERVIEW = 2048
"""Longest side of the overlay of such an image, in pixels."""


def is_large(path: Path) -> bool:
    """Whether a file of one page is so large that it goes by windows, and can be read so.

    Raises:
        SegkitError: It cannot be read.
    """
    image = open_windows(path)
    if image is None:
        return False
    with image:
        return image.shape[0] * image.shape[1] > LARGE


def predict_large(predictor: Predictor, outputs: Outputs, file: ImageFile) -> None:
    """Write the mask of a large image; if they are wanted, its probabilities and a small overlay.

    Objects and outlines are not made, for they need the whole map.

    Raises:
        SegkitError: The image cannot be read or does not fit the training, or nothing can be
            written.
    """
    image = open_windows(file.path)
    assert image is not None
    with image:
        outputs.clear(file)
        _write_windows(predictor, outputs, file, image)


def _write_windows(
    predictor: Predictor, outputs: Outputs, file: ImageFile, image: WindowedImage
) -> None:
    wanted, size, card = outputs.wanted, image.shape[:2], predictor.card
    layers = (card.num_classes,) if card.mode == "multilabel" else ()
    dtype = outputs.mask(np.zeros((*layers, 1, 1), np.uint8)).dtype
    pyramid, ending = wanted.pyramid, f".{wanted.large_format}"
    overview = _Overview(image, layers) if wanted.overlays else None
    mask = WindowFile(outputs.path(file.stem, ending), (*layers, *size), dtype, pyramid=pyramid)
    with mask:
        with ExitStack() as stack:
            maps = None
            if wanted.probabilities:
                path = outputs.path("probabilities" / file.stem, ending)
                shape = (card.num_logits, *size)
                maps = stack.enter_context(WindowFile(path, shape, np.uint16, pyramid=pyramid))

            def write(top: int, left: int, labels: NDArray[np.uint8]) -> None:
                mask.write(top, left, outputs.mask(labels))
                if overview is not None:
                    overview.add(top, left, labels)

            def write_maps(top: int, left: int, block: NDArray[Any]) -> None:
                assert maps is not None
                maps.write(top, left, to_16_bits(block))

            source = image if overview is None else overview
            predictor.predict_windows(source, write, write_maps if maps else None)
        if overview is not None:
            outputs.write_overlay(file.stem, overview.image, overview.labels)
        outputs.record.finish(file)


class _Overview:
    """Every so manieth pixel of a large image, taken as it is read, and of its labels."""

    def __init__(self, image: WindowedImage, layers: tuple[int, ...]) -> None:
        height, width, channels = self.shape = image.shape
        self._source, self._step = image, math.ceil(max(height, width) / OVERVIEW)
        size = math.ceil(height / self._step), math.ceil(width / self._step)
        self.image = np.zeros((*size, channels), image.dtype)
        self.labels = np.zeros((*layers, *size), np.uint8)

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """A window of the image, of which what is wanted is kept."""
        part = self._source.read(top, left, height, width)
        step = self._step
        rows, columns = self._place(top, height), self._place(left, width)
        self.image[rows, columns] = part[-top % step :: step, -left % step :: step]
        return part

    def add(self, top: int, left: int, labels: NDArray[np.uint8]) -> None:
        """Take what is wanted of a block of labels."""
        step = self._step
        rows, columns = self._place(top, labels.shape[-2]), self._place(left, labels.shape[-1])
        self.labels[..., rows, columns] = labels[..., -top % step :: step, -left % step :: step]

    def _place(self, first: int, length: int) -> slice:
        return slice(math.ceil(first / self._step), math.ceil((first + length) / self._step))
