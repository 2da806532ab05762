"""The tiles that an image of any size is cut into, their weights where they overlap, and batches.

The overlap-tile strategy of Ronneberger et al. 2015 (figure 2): a tile may decide fewer pixels than
it sees, and sees the image mirrored beyond its border. Where tiles overlap, they are weighted by a
Gaussian around their middle (Isensee et al. 2021, nnU-Net). The tiles of an image are the product
of those of its rows and its columns, and so are the weights, which are normalized beforehand.
No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segkit.checkpoint.card import LARGEST_SIDE, ModelCard
from segkit.config.settings import OVERLAP

SIDE = 1024
"""Side of the largest window if there is enough memory."""
SHARE = 0.25
"""Share of the free memory that a batch may take."""
BATCH_PIXELS = {"cpu": 512 * 512, "cuda": 8 * 1024 * 1024}
"""Pixels in a batch, by device; larger ones are not faster and take more memory."""
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


@dataclass(frozen=True)
class Windows:
    """The tiles that a network takes, as plain data.

    A tile decides its *window*: ``smallest + k * step`` pixels high and wide. The network's input
    is the window and ``context`` pixels on each of its four sides.

    Attributes:
        side: The largest side of a window.
        step: Between the sides of windows, and between their first pixels: a multiple of the
            strides, so that pooling groups the same pixels in each tile.
        smallest: The smallest side of a window.
        context: Pixels around a window.
        fixed: The one size (height, width) of a network that takes no other.
    """

    side: Side
    step: Side = 1
    smallest: Side = 1
    context: Annotated[int, Field(ge=0, le=LARGEST_SIDE)] = 0
    fixed: tuple[Side, Side] | None = None

    def fit(self, size: int) -> int:
        """The smallest side of a window of at least ``size`` pixels."""
        return self.smallest + max(0, math.ceil((size - self.smallest) / self.step)) * self.step

    @property
    def largest(self) -> int:
        """The largest window that is no larger than ``side``, or the smallest that has a step."""
        steps = max(0, (self.side - self.smallest) // self.step)
        return max(self.smallest + steps * self.step, self.fit(self.step))


@dataclass(frozen=True)
class Axis:
    """The tiles of the rows of an image, or of its columns.

    Attributes:
        size: Pixels of the image.
        window: Pixels of a window.
        context: Pixels that a tile sees before and after its window.
        starts: First pixels of the windows in their order. The last window may reach beyond the
            image, a flipped one before it.
        weights: (number of windows, window) float32, above 0. For each pixel of the image, the
            weights of the windows that contain it sum to 1.
        flipped: The numbers of the windows that are seen backwards, as in the mirrored image.
    """

    size: int
    window: int
    context: int
    starts: tuple[int, ...]
    weights: NDArray[np.float32]
    flipped: frozenset[int] = frozenset()

    def find_pixels(self, number: int) -> NDArray[np.int64]:
        """The pixels of the image that a tile sees, (window + 2 * context,), in its order."""
        start, is_flipped = self.starts[number], number in self.flipped
        first = (self.size - start - self.window if is_flipped else start) - self.context
        pixels = mirror_indices(first, first + self.window + 2 * self.context, self.size)
        return self.size - 1 - pixels if is_flipped else pixels

    def add_flips(self) -> Axis:
        """These windows and those of the mirrored image, whose mean is that of both images.

        An image is mirrored before it is cut and padded, so both images have the same windows. To
        mirror its tiles would pad it on the other side and cut it elsewhere.
        """
        ends = self.size - self.window
        pairs = zip(self.starts, self.weights, strict=True)
        both = [(start, False, weights) for start, weights in pairs]
        both += [(ends - start, True, weights[::-1]) for start, _, weights in both]
        both.sort(key=lambda each: each[0])
        return Axis(
            self.size,
            self.window,
            self.context,
            tuple(start for start, _, _ in both),
            np.stack([weights / 2 for _, _, weights in both]).astype(np.float32),
            frozenset(number for number, each in enumerate(both) if each[1]),
        )


class Grid(NamedTuple):
    """The tiles of an image."""

    rows: Axis
    columns: Axis


def plan_grid(
    height: int, width: int, windows: Windows, overlap: float = OVERLAP, flips: bool = False
) -> Grid:
    """Cover an image with as few tiles as possible, and make them as small as possible.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        windows: The tiles that the network takes.
        overlap: Least share of a window that overlaps the next one, from 0 to below 1.
        flips: Whether to cover the mirrored images too.
    """
    fixed = windows.fixed or (None, None)
    rows = _plan_axis(height, windows, overlap, fixed[0])
    columns = _plan_axis(width, windows, overlap, fixed[1])
    return Grid(rows.add_flips(), columns.add_flips()) if flips else Grid(rows, columns)


def find_overlap(windows: Windows, overlap: float) -> float:
    """The least share of the largest windows that overlaps the next one, if ``overlap`` is asked.

    It is less where windows, which begin at multiples of the step, cannot begin any closer.
    """
    side = min(windows.fixed) if windows.fixed else windows.largest
    return min(overlap, 1 - _stride(side, windows.step, overlap) / side)


def mirror_indices(first: int, end: int, size: int) -> NDArray[np.int64]:
    """Indices first ... end - 1, mirrored into 0 ... size - 1 from any distance.

    Example:
        >>> mirror_indices(-2, 5, 3).tolist()
        [1, 0, 0, 1, 2, 2, 1]
    """
    index = np.arange(first, end) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


@lru_cache  # images of a folder often have the same size
def _plan_axis(size: int, windows: Windows, overlap: float, fixed: int | None) -> Axis:
    window = fixed or min(windows.fit(size), windows.largest)
    starts = [0]
    if window < size:
        count = math.ceil((size - window) / _stride(window, windows.step, overlap)) + 1
        if fixed is None:
            # the same number of smaller windows: the large ones overlap more than needed
            sides = range(windows.fit(max(windows.step, size // count)), window + 1, windows.step)
            window = next(
                side
                for side in sides
                if (count - 1) * _stride(side, windows.step, overlap) + side >= size
            )
        room = (size - window) / windows.step / (count - 1)
        starts = [math.ceil(number * room) * windows.step for number in range(count)]
    weights = _make_weights(size, window, starts)
    return Axis(size, window, windows.context, tuple(starts), weights)


def _stride(window: int, step: int, overlap: float) -> int:
    """Pixels from one window to the next: a multiple of the step."""
    return max(step, int(window * (1 - overlap)) // step * step)


def _make_weights(size: int, window: int, starts: list[int]) -> NDArray[np.float32]:
    x = np.arange(window) - (window - 1) / 2
    bump = np.exp(-0.5 * (x / (window / 8)) ** 2)  # falls to 3e-4 at the ends
    total = np.zeros(max(size, starts[-1] + window))
    for start in starts:
        total[start : start + window] += bump
    return np.stack([bump / total[start : start + window] for start in starts]).astype(np.float32)


def choose_side(card: ModelCard) -> int:
    """Side of the largest tile of a model, if there is enough memory.

    Maps of pixels are the same in tiles of any size. Queries are as many as the objects of a crop,
    and know places in it, so their tiles have the size of the training's crops.
    """
    return max(card.img_size) if card.takes_queries else max(SIDE, *card.img_size)


def plan_batches(
    find_windows: Callable[[int], Windows],
    wanted: int,
    tile: int | None,
    batch_size: int | None,
    free: int,
    bytes_per_pixel: float,
    device: str = "cpu",
) -> tuple[Windows, int]:
    """Choose the windows of a network and the number of the largest ones in a batch.

    Args:
        find_windows: Gives the windows that the network takes for the side of the largest one.
        wanted: Side of the largest window if there is enough memory.
        tile: The requested side, None to choose.
        batch_size: The requested batch, None to choose.
        free: Bytes of free memory.
        bytes_per_pixel: Memory that predicting a pixel takes.
        device: cpu or cuda.
    """
    afford = SHARE * free / bytes_per_pixel  # pixels
    windows = find_windows(tile or max(1, min(wanted, math.isqrt(int(afford)))))
    seen = (windows.largest + 2 * windows.context) ** 2
    most = min(afford, BATCH_PIXELS.get(device, BATCH_PIXELS["cpu"]))
    return windows, batch_size or max(1, int(most / seen))
