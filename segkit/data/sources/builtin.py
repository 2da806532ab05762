"""The built-in set of drawn cells as a data source."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segkit.core.labels import Mode
from segkit.data.sources.base import SPLITS, DataSource, Sample, Split
from segkit.data.sources.cells import draw

Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=16, le=4096)]


class CellsSource(DataSource, name="cells"):
    """Microscope-like images of cells, drawn when they are read; the same for the same seed.

    With a binary head the foreground is all cells; with the others the two kinds of cells are told
    apart.

    Args:
        mode: The head's mode.
        train: Number of training images.
        val: Number of validation images.
        test: Number of test images.
        size: Height and width in pixels.
        channels: 1 for a grey image, 3 for a stained one.
        seed: Another seed draws other images.
        instances: Whether the masks hold ids of cells instead of their classes.
    """

    def __init__(
        self,
        mode: Mode,
        train: Annotated[int, Field(ge=1)] = 160,
        val: Count = 40,
        test: Count = 40,
        size: tuple[Side, Side] = (128, 128),
        channels: Literal[1, 3] = 1,
        seed: Annotated[int, Field(ge=0)] = 0,
        instances: bool = False,
    ) -> None:
        self.mode, self.size, self.channels, self.seed = mode, size, channels, seed
        self.instances = instances
        self.counts = dict(zip(SPLITS, (train, val, test), strict=True))
        if mode == "binary" or instances:
            self.class_names = ("background", "cell")
        else:
            self.class_names = ("background", "round cell", "long cell")

    def splits(self) -> dict[Split, list[Sample]]:
        """Samples named after their split; no two of them are alike."""
        return {
            split: [
                Sample(f"{split}-{i:04d}", index=1_000_000 * number + i)
                for i in range(self.counts[split])
            ]
            for number, split in enumerate(SPLITS)
        }

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, channels), uint8."""
        return self._draw(sample)[0].copy()

    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W): ids of cells; or 0 and 1 with a binary head, else 0, 1 and 2."""
        _, classes, ids = self._draw(sample)
        if self.instances:
            return ids.copy()
        return (classes > 0).astype(np.uint8) if self.mode == "binary" else classes.copy()

    def _draw(
        self, sample: Sample
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]:
        return _drawn(self.seed * 10_000_000 + sample.index, self.size, self.channels)


# A function of the module, because a cache cannot be sent to another process. Reading an image
# takes ten milliseconds to draw and is done in every epoch.
@lru_cache(maxsize=256)
def _drawn(
    seed: int, size: tuple[int, int], channels: Literal[1, 3]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]:
    cells = draw(seed, size, channels)
    return cells.image, cells.classes, cells.instances
