"""Which tiles an image of any size is cut into, and how much each of them counts where they meet.

The overlap-tile strategy of Ronneberger et al. 2015 (figure 2): what a tile decides may be smaller
than what it sees, and beyond the border of the image it sees it mirrored. Where tiles overlap, each
counts with a Gaussian around its middle (Isensee et al. 2021, nnU-Net). The tiles of an image are
the product of those of its rows and of its columns, and so are their weights; these are divided by
their sum beforehand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.config.settings import OVERLAP


@dataclass(frozen=True)
class Windows:
    """Which tiles a network takes, as plain data.

    What a tile decides is its *window*: ``smallest + k * step`` pixels high and wide. What the
    network must be given is the window and ``context`` pixels on each of its four sides.

    Attributes:
        side: The largest side of a window.
        step: Between the sides of windows, and between their first pixels: a multiple of the
            strides, so that pooling groups the same pixels in each tile.
        smallest: The smallest side of a window.
        context: Pixels around a window.
        fixed: The one size (height, width) of a network that takes no other.
    """

    side: int
    step: int = 1
    smallest: int = 1
    context: int = 0
    fixed: tuple[int, int] | None = None

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
        starts: First pixels of the windows. The last window may reach beyond the image.
        weights: (number of windows, window) float32: how much each pixel of each window counts.
            They are above 0, and over the windows that hold a pixel of the image their sum is 1.
    """

    size: int
    window: int
    starts: tuple[int, ...]
    weights: NDArray[np.float32]

    def indices(self, number: int, context: int) -> NDArray[np.int64]:
        """The pixels of the image that the tile of that number sees, (window + 2 * context,)."""
        first = self.starts[number]
        return mirrored(first - context, first + self.window + context, self.size)


@dataclass(frozen=True)
class Grid:
    """The tiles of an image.

    Attributes:
        rows: Of its rows.
        columns: Of its columns.
        context: Pixels around each window.
    """

    rows: Axis
    columns: Axis
    context: int


def plan_grid(height: int, width: int, windows: Windows, overlap: float = OVERLAP) -> Grid:
    """The fewest tiles that cover an image, and these as small as they may be.

    Args:
        height: Pixels of the image.
        width: Pixels of the image.
        windows: What the network takes.
        overlap: The least share of a window that it has in common with the next, 0 to below 1.
    """
    fixed = windows.fixed or (None, None)
    return Grid(
        _axis(height, windows, overlap, fixed[0]),
        _axis(width, windows, overlap, fixed[1]),
        windows.context,
    )


def mirrored(first: int, end: int, size: int) -> NDArray[np.int64]:
    """Indices first ... end - 1 with those outside 0 ... size - 1 mirrored back in, any distance.

    Example:
        >>> mirrored(-2, 5, 3).tolist()
        [1, 0, 0, 1, 2, 2, 1]
    """
    index = np.arange(first, end) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def _axis(size: int, windows: Windows, overlap: float, fixed: int | None) -> Axis:
    window = fixed or min(windows.fit(size), windows.largest)
    starts = [0]
    if window < size:
        count = math.ceil((size - window) / _stride(window, windows.step, overlap)) + 1
        if fixed is None:
            # as many windows do with smaller ones: the large ones overlap more than they need
            sides = range(windows.fit(max(windows.step, size // count)), window + 1, windows.step)
            window = next(
                side
                for side in sides
                if (count - 1) * _stride(side, windows.step, overlap) + side >= size
            )
        room = (size - window) / windows.step / (count - 1)
        starts = [math.ceil(number * room) * windows.step for number in range(count)]
    return Axis(size, window, tuple(starts), _weights(size, window, starts))


def _stride(window: int, step: int, overlap: float) -> int:
    """Pixels from one window to the next: a multiple of the step."""
    return max(step, int(window * (1 - overlap)) // step * step)


def _weights(size: int, window: int, starts: list[int]) -> NDArray[np.float32]:
    x = np.arange(window) - (window - 1) / 2
    bump = np.exp(-0.5 * (x / (window / 8)) ** 2)  # falls to 3e-4 at the ends
    total = np.zeros(max(size, starts[-1] + window))
    for start in starts:
        total[start : start + window] += bump
    return np.stack([bump / total[start : start + window] for start in starts]).astype(np.float32)
