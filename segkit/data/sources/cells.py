"""The built-in data set: microscope-like images of cells, drawn by a seeded generator.

The truth is exact and nothing has to be downloaded. Two kinds of cells lie on an unevenly lit,
textured ground with debris: 1, round and granular, and 2, elongated with a nucleus. Their grey
values overlap with each other and with the ground: a threshold finds neither cells nor kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from segkit.core.errors import SegkitError
from segkit.data.sources.cells_rendering import grey, stained
from segkit.data.sources.cells_scene import MIN_PIXELS, Bytes, clean, paint, place

__all__ = ["MIN_PIXELS", "Cells", "draw"]

_SMALLEST, _LARGEST = 16, 4096


@dataclass(frozen=True, eq=False)
class Cells:
    """One drawn image and its truth.

    Attributes:
        image: (H, W, C) uint8, C as asked for; RGB where C is 3.
        instances: (H, W) int32, 0 is the ground and 1..N are the cells; every cell is in one piece.
        classes: (H, W) uint8, 0 is the ground, 1 the round and 2 the elongated cells.
    """

    image: Bytes
    instances: npt.NDArray[np.int32]
    classes: Bytes

    @property
    def binary(self) -> Bytes:
        """(H, W) uint8: 1 where there is a cell, else 0."""
        return (self.instances > 0).astype(np.uint8)


def draw(
    seed: int,
    size: tuple[int, int] = (128, 128),
    channels: Literal[1, 3] = 1,
    n_cells: tuple[int, int] = (8, 20),
) -> Cells:
    """Draw one image; the same arguments give the same arrays.

    Args:
        seed: any integer >= 0. The random numbers are the same everywhere; what is computed from
            them may round differently where numpy or OpenCV were built differently.
        size: (H, W), each from 16 to 4096.
        channels: 1 for a grey, phase-contrast-like image, 3 for a stained one (RGB) in which the
            kinds also differ in hue.
        n_cells: fewest and most cells per 128 x 128 pixels, both included; there is at least one
            to place, and a cell that finds no room is left out.

    Raises:
        SegkitError: for a value out of these ranges.
    """
    _check(seed, size, channels, n_cells)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    scene, kinds = clean(paint(place(rng, size, n_cells), size))
    image = grey(rng, scene, kinds) if channels == 1 else stained(rng, scene, kinds)
    return Cells(image=image, instances=scene.owner, classes=kinds[scene.owner])


def _check(seed: int, size: tuple[int, int], channels: int, n_cells: tuple[int, int]) -> None:
    if seed < 0:
        raise SegkitError(f"seed must be 0 or more, not {seed}.")
    if not all(_SMALLEST <= side <= _LARGEST for side in size):
        raise SegkitError(f"size must be {_SMALLEST} to {_LARGEST} pixels each way, not {size}.")
    if channels not in (1, 3):
        raise SegkitError(f"channels must be 1 (grey) or 3 (stained), not {channels}.")
    if not 1 <= n_cells[0] <= n_cells[1]:
        raise SegkitError(f"n_cells must be (fewest, most), 1 <= fewest <= most, not {n_cells}.")
