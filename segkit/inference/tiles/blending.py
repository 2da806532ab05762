"""Tiles of many images through the networks in full batches, and put together again.

The tiles of one image are blended in bands: as soon as the last tile of a row has been added, the
rows of pixels that no later tile reaches are done, are handed out and forgotten. Images that are so
wide that a band would be large are cut into strips of columns, whose tiles at the cuts are computed
twice. So memory does not grow with the image.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.config.settings import TTA
from segkit.core.errors import SegkitError
from segkit.inference.runtimes.network import Network
from segkit.inference.tiles.reading_ahead import Arrays, read_ahead
from segkit.inference.tiles.tiling import Grid

BAND_BYTES = 64 * 1024**2
"""What the band of an image may take."""
OPEN = 32
"""Images that wait for others to fill a batch, at most."""
OPEN_PIXELS = 64 * 1024**2
"""Pixels of these images together, at most: large ones may be done and wait behind a small one."""


class Readable(Protocol):
    """An image that is read by windows."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """(h, w, C)."""


Write = Callable[[int, int, Any], None]
"""Takes (top, left, block): probabilities (num_logits, h, w) as arrays of the networks."""


class Tile(NamedTuple):
    """A tile of a canvas: of which strip, and which row and column of the grid it is."""

    strip: int
    row: int
    column: int
    ends_row: bool


class Canvas:
    """The tiles of one image, and the band in which they meet.

    Args:
        image: What is predicted.
        grid: Its tiles.
        write: Takes the blocks of pixels that are done; together they cover the image once.
        network: Whose arrays the maps of the tiles are.
        band_bytes: What a band may take.
    """

    def __init__(
        self,
        image: Readable,
        grid: Grid,
        write: Write,
        network: Network,
        band_bytes: int = BAND_BYTES,
    ) -> None:
        self.image, self.grid, self._write, self._network = image, grid, write, network
        self.error: SegkitError | None = None
        self._left = 0
        columns, window = grid.columns, grid.rows.window
        widest = max(1, band_bytes // (4 * network.num_logits * window))
        # none narrower than a window, of which most would be computed twice
        count = max(1, min(math.ceil(columns.size / widest), columns.size // columns.window))
        starts = [columns.starts[i * len(columns.starts) // count] for i in range(count)]
        self._strips = list(zip(starts, [*starts[1:], columns.size], strict=True))
        self._band: Any = None
        self._down: Any = None
        self._across: Any = None

    def tiles(self) -> Iterator[Tile]:
        """All tiles, in the order in which they are to be added."""
        columns = self.grid.columns
        for strip, (first, end) in enumerate(self._strips):
            needed = [
                number
                for number, start in enumerate(columns.starts)
                if start < end and start + columns.window > first
            ]
            for row in range(len(self.grid.rows.starts)):
                for column in needed:
                    self._left += 1
                    yield Tile(strip, row, column, column == needed[-1])

    def read(self, tile: Tile) -> NDArray[Any]:
        """What a tile sees of the image, (h, w, C), mirrored beyond its border."""
        rows = self.grid.rows.indices(tile.row, self.grid.context)
        columns = self.grid.columns.indices(tile.column, self.grid.context)
        top, left = int(rows.min()), int(columns.min())
        height, width = int(rows.max()) - top + 1, int(columns.max()) - left + 1
        part = self.image.read(top, left, height, width)
        if len(rows) == height and len(columns) == width:
            return part
        return part[rows - top][:, columns - left]

    def add(self, tile: Tile, maps: Any) -> None:
        """Blend what the networks say of a tile, (num_logits, h, w): the window in its middle."""
        rows, columns = self.grid.rows, self.grid.columns
        around = (maps.shape[-1] - columns.window) // 2  # a padded network answers for the context
        maps = maps[..., around : around + rows.window, around : around + columns.window]
        first, end = self._strips[tile.strip]
        begin = columns.starts[tile.column]
        if self._band is None:
            shape = len(maps), rows.window, end - first
            self._band = self._network.array(np.zeros(shape, np.float32))
        if self._down is None:  # once, for a GPU waits for each copy
            self._down = self._network.array(rows.weights)
            self._across = self._network.array(columns.weights)
        low, high = max(first, begin), min(end, begin + columns.window)
        inside = slice(low - begin, high - begin)
        down, across = self._down[tile.row][:, None], self._across[tile.column][inside]
        band = self._band[..., low - first : high - first]
        band += maps[..., inside] * (down * across)
        self._left -= 1
        if not tile.ends_row:
            return
        top = rows.starts[tile.row]
        is_last = tile.row + 1 == len(rows.starts)
        done = (rows.size if is_last else rows.starts[tile.row + 1]) - top
        self._write(top, first, self._band[:, :done])
        if is_last:
            self._band = None
        else:
            rest = self._band[:, done:] + 0  # a copy, much smaller than a second band
            self._band[:] = 0
            self._band[:, : rest.shape[1]] = rest

    def fail(self, error: SegkitError) -> None:
        """The image cannot be read; its other tiles do not matter any more."""
        self.error, self._left = error, 0

    @property
    def pixels(self) -> int:
        """Of the image."""
        return self.grid.rows.size * self.grid.columns.size

    @property
    def is_done(self) -> bool:
        """Whether all tiles have been added. True before :meth:`tiles` was asked, too."""
        return self._left == 0


def fill(canvases: Iterable[Canvas], networks: Sequence[Network], tta: TTA) -> Iterator[Canvas]:
    """Predict images; tiles of one size share batches, whichever image they are of.

    Args:
        canvases: One for each image; the next is asked for only when there is room for it.
        networks: The mean of their probabilities is taken.
        tta: Test-time augmentation, over which the mean is taken too.

    Yields:
        The canvases in their order, done or with their ``error``.
    """
    waiting: dict[tuple[int, int], deque[tuple[Canvas, Tile, Arrays]]]
    waiting = defaultdict(deque)
    opened: deque[Canvas] = deque()

    def run(shape: tuple[int, int]) -> None:
        taken = [waiting[shape].popleft() for _ in range(min(limit(shape), len(waiting[shape])))]
        taken = [entry for entry in taken if entry[0].error is None]
        if not taken:
            return
        batches = [np.stack(arrays) for arrays in zip(*(entry[2] for entry in taken), strict=True)]
        maps = mean_probabilities(networks, batches, tta, limit(shape))
        for (canvas, tile, _), one in zip(taken, maps, strict=True):
            canvas.add(tile, one)

    def limit(shape: tuple[int, int]) -> int:
        """Tiles in a batch: as many pixels as that of the largest window has, of any network."""
        most = min(
            network.batch_size * (network.windows.largest + 2 * network.windows.context) ** 2
            for network in networks
        )
        return max(1, most // math.prod(shape))

    def finished(most: int) -> Iterator[Canvas]:
        """The first ones that are done; at most so many are left open."""
        while opened and (opened[0].is_done or len(opened) > most or too_large()):
            for shape in list(waiting):
                while waiting[shape] and any(entry[0] is opened[0] for entry in waiting[shape]):
                    run(shape)
            yield opened.popleft()

    def too_large() -> bool:
        """Never true of one image alone."""
        return len(opened) > 1 and sum(canvas.pixels for canvas in opened) > OPEN_PIXELS

    with ThreadPoolExecutor(1, "segkit-tiles") as thread:
        for canvas in canvases:
            opened.append(canvas)
            for tile, ahead in read_ahead(canvas, networks, limit, thread):
                try:
                    arrays = ahead.result()
                except SegkitError as error:
                    canvas.fail(error)
                    break
                shape = arrays[0].shape[1:]
                waiting[shape].append((canvas, tile, arrays))
                if len(waiting[shape]) >= limit(shape):
                    run(shape)
            yield from finished(OPEN)
        yield from finished(0)


def mean_probabilities(
    networks: Sequence[Network], batches: Sequence[NDArray[np.float32]], tta: TTA, limit: int
) -> Any:
    """The mean over networks and views of what they say of a batch.

    Args:
        networks: They compute on arrays of the same kind.
        batches: For each of them (B, C, h, w).
        tta: Which views.
        limit: Tiles that one call takes.

    Returns:
        (B, num_logits, window, window), an array of the networks.
    """
    xp = networks[0].xp
    views = VIEWS[tta]
    total: Any = None
    for network, batch in zip(networks, batches, strict=True):
        for group in _together(views, batch, limit):
            seen = [_view(np, batch, *view) for view in group]
            given = network.probabilities(
                np.ascontiguousarray(seen[0] if len(seen) == 1 else np.concatenate(seen))
            )
            for number, view in enumerate(group):
                part = given[number * len(batch) : (number + 1) * len(batch)]
                part = _back(xp, part, *view)
                total = part if total is None else total + part
    count = len(views) * len(networks)
    return total if count == 1 else total / count


View = tuple[bool, tuple[int, ...]]
"""Whether rows and columns change places, and the axes that are then mirrored."""
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
VIEWS: dict[TTA, list[View]] = {
    "none": [(False, ())],
    "flips": [(False, axes) for axes in FLIPS],
    "d4": [(turned, axes) for turned in (False, True) for axes in FLIPS],
}


def _together(
    views: Sequence[View], batch: NDArray[np.float32], limit: int
) -> Iterator[Sequence[View]]:
    """The views that go through a network at once: of one form, and no more than it takes."""
    most = max(1, limit // len(batch))
    square = batch.shape[-1] == batch.shape[-2]
    forms = (
        [views] if square else [[v for v in views if v[0] is turned] for turned in (False, True)]
    )
    for form in forms:
        for at in range(0, len(form), most):
            yield form[at : at + most]


def _view(xp: Any, batch: Any, turned: bool, axes: tuple[int, ...]) -> Any:
    batch = xp.swapaxes(batch, -1, -2) if turned else batch
    return xp.flip(batch, axes) if axes else batch


def _back(xp: Any, maps: Any, turned: bool, axes: tuple[int, ...]) -> Any:
    maps = xp.flip(maps, axes) if axes else maps
    return xp.swapaxes(maps, -1, -2) if turned else maps
