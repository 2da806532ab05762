"""Arrays that are read where they are sliced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.data.layout.blocks import Block, take_part
from segkit.data.sources.base import Sample


class WindowedArray:
    """An image or a map of a sample of which only parts are read. Nothing is kept.

    Args:
        sample: The sample.
        shape: (H, W) or (H, W, C).
        dtype: The type of its values.
        read: Reads a part of the sample, as an array of this type.
    """

    def __init__(
        self,
        sample: Sample,
        shape: tuple[int, ...],
        dtype: np.dtype[Any] | type[np.generic],
        read: Callable[[Sample], NDArray[Any]],
    ) -> None:
        self.shape, self.ndim, self.dtype = shape, len(shape), np.dtype(dtype)
        self._sample, self._read = sample, read

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[Any]:
        (top, bottom, _), (left, right, _) = (
            places.indices(length) for places, length in zip(window, self.shape, strict=False)
        )
        block: Block = top, left, bottom - top, right - left
        return self._read(take_part(self._sample, block))
