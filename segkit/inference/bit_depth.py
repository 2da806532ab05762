"""Images of 16 bits whose values use fewer, as those of 12-bit cameras do, on models of 8 bits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.inference.tiles.blending import Readable

BITS = (8, 10, 12)
"""Depths that are told apart from 16 bits: of what they leave out there is no doubt."""


class DepthWatch:
    """Looks at images, and says of the first one that its values use fewer than 16 bits.

    Such an image is read on the full scale of 16 bits by a model that was trained on 8, and so is
    nearly black to it. A model of 16-bit images knows the values of its own. Threads may share it.

    Args:
        card: Of the model.
        say: Takes the text.
    """

    def __init__(self, card: ModelCard, say: Callable[[str], None]) -> None:
        self._is_silent = card.normalization.dtype != "uint8"
        self._say, self._lock = say, threading.Lock()

    def see(self, name: Path | str, image: NDArray[Any]) -> None:
        """Look at an image (H, W, C)."""
        if self.wants(image.dtype):
            self.judge(name, int(image.max(initial=0)))

    def wants(self, dtype: np.dtype[Any]) -> bool:
        """Whether images of a type matter still."""
        return dtype == np.uint16 and not self._is_silent

    def judge(self, name: Path | str, highest: int) -> None:
        """Say it, if the highest value of an image of 16 bits is so low."""
        bits = next((bits for bits in BITS if highest < 2**bits), None)
        if bits is None or highest == 0:
            return
        with self._lock:
            if self._is_silent:
                return
            self._is_silent = True
        self._say(
            f"{name} has 16 bits and no value above {highest}, as data of {bits} bits have. The"
            " model was trained on 8-bit images and reads 16 bits on a scale of 0 to 65535, where"
            f" such an image is nearly black. If it is of {bits} bits, multiply its values by"
            f" {2 ** (16 - bits)} and predict it again; this holds for others like it too."
        )


class Highest:
    """An image that is read by windows, and the highest value that was read.

    Args:
        image: The image.
    """

    def __init__(self, image: Readable) -> None:
        self._image, self.shape = image, image.shape
        self.value = 0

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """(h, w, C)."""
        part = self._image.read(top, left, height, width)
        self.value = max(self.value, int(part.max()))
        return part
