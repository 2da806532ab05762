"""Images that are too large for memory: read, predicted and written by windows."""

from __future__ import annotations

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

LARGE = 64 * 1024**2
"""Pixels from which on an image goes by windows."""


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
    """Write the mask of a large image, and its probabilities if they are wanted.

    What needs the whole map is not made: objects, outlines and the overlay.

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

            def write_maps(top: int, left: int, block: NDArray[Any]) -> None:
                assert maps is not None
                maps.write(top, left, to_16_bits(block))

            predictor.predict_windows(image, write, write_maps if maps else None)
        outputs.record.finish(file)
