"""Images whose type or range cannot match the intensities that a model was trained on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.values import FULL_SCALE, HIGHEST_FLOAT
from segkit.inference.tiles.blending import Readable

BITS = (8, 10, 12)
"""Depths of cameras that are recognized in 16-bit data by the unused upper bits."""
OVERSHOOT = 0.1
"""How far floats may leave 0 to 1: resizing overshoots at edges."""


class DepthWatch:
    """Checks the range of images of another type than the training's. Threads may share it.

    Such an image is converted by the full scale of its type. That is wrong where images of 16 bits
    use only 12, as those of many cameras: on a model of 8-bit images they are nearly black, and
    8-bit images saturate on such a model. Floats below 0, as of images scaled to -1 to 1, would be
    black, and so would booleans, which are 0 and 1. Only the first such image is reported to
    ``warn``.
    """

    def __init__(self, card: ModelCard, warn: Callable[[str], None]) -> None:
        norm = card.normalization
        self._dtype, self._low, self._high = norm.dtype, np.min(norm.low), np.max(norm.high)
        self._mean = np.min(
            np.add(norm.low, np.multiply(norm.mean, np.subtract(norm.high, norm.low)))
        )
        self.warn, self._lock = warn, threading.Lock()
        self._is_done = norm.dtype not in FULL_SCALE  # other types are not converted

    def check_image(self, name: Path | str, image: NDArray[Any]) -> None:
        """Warn if the values of an image (H, W, C) cannot match the training."""
        if not self._is_done and image.dtype != self._dtype:
            known = np.asarray(np.ma.filled(image, 0))
            self.check_range(name, image.dtype, (known.min(initial=0), known.max(initial=0)))

    def check_range(
        self, name: Path | str, dtype: np.dtype[Any], extremes: tuple[float, float]
    ) -> None:
        """Warn if an image of this type with values from 0 or less cannot match the training.

        Args:
            name: The file.
            dtype: Its type.
            extremes: The lowest value, or 0 if that is less, and the highest one.
        """
        if dtype == self._dtype:
            return
        problem = self._find_problem(dtype, *map(float, extremes))
        with self._lock:
            if problem is None or self._is_done:
                return
            self._is_done = True
        self.warn(f"{name} {problem} This may hold for other images too.")

    def _find_problem(self, dtype: np.dtype[Any], lowest: float, highest: float) -> str | None:
        if dtype.kind == "f" and highest > HIGHEST_FLOAT:  # an error of the conversion
            return None
        if dtype.kind == "f" and (lowest < -OVERSHOOT or highest > 1 + OVERSHOOT):
            return (
                f"is {dtype} with values from {lowest:.3g} to {highest:.3g}. The model was trained"
                f" on {self._dtype} images and reads floats on a scale of 0 to 1; what is outside"
                f" becomes black or white. Scale it to 0 to 1, or convert it to {self._dtype}."
            )
        bits = _count_bits(highest)
        if dtype == np.uint16 and bits is not None and highest > 0:
            return (
                f"has 16 bits and no value above {highest:g}, as data of {bits} bits. The model was"
                " trained on 8-bit images and reads 16 bits on a scale of 0 to 65535, on which such"
                f" an image is nearly black. If it has {bits} bits, multiply its values by"
                f" {2 ** (16 - bits)} and predict it again."
            )
        trained = f"The model was trained on {self._dtype} images with values from {self._low:g} to"
        trained += f" {self._high:g}"
        if dtype.kind == "b":
            converted = highest * FULL_SCALE[self._dtype] / FULL_SCALE["uint8"]
            if not 0 < converted < self._mean:
                return None
            return (
                f"is boolean, and its values are the numbers 0 and 1. {trained}, among which they"
                " are black. If True is white, give image.astype('uint8') * 255; for floats,"
                " image.astype('float32')."
            )
        converted = highest * FULL_SCALE[self._dtype] / FULL_SCALE.get(str(dtype), 1)
        bits = _count_bits(self._high)
        if self._dtype == "uint16" and bits is not None and converted > self._high:
            return (
                f"is {dtype}. {trained}, as data of {bits} bits, and reads it on a scale of 0 to"
                f" 65535, on which it is saturated. Convert it to uint16 in the units of the"
                f" training: {bits} bits reach {2**bits - 1}."
            )
        if 0 < converted <= self._low + (self._high - self._low) / 256:
            return (
                f"is {dtype}. {trained}; converted to them its highest value is {converted:.3g}, so"
                f" it is black. Convert it to {self._dtype} in the units of the training."
            )
        return None


def _count_bits(highest: float) -> int | None:
    """The depth of a camera whose values do not exceed this one; None for all 16 bits."""
    return next((bits for bits in BITS if highest < 2**bits), None)


class Extremes:
    """An image that is read by windows, and the lowest and the highest value read so far, and 0."""

    def __init__(self, image: Readable) -> None:
        self._image, self.shape = image, image.shape
        self.values = 0.0, 0.0

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """(h, w, C)."""
        part = self._image.read(top, left, height, width)
        known = np.ma.filled(part, 0)
        low, high = self.values
        self.values = min(low, float(known.min())), max(high, float(known.max()))
        return part
