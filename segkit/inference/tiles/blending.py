"""Run the tiles of many images through the networks in full batches, and blend them.

The tiles of one image are blended in bands: once the last tile of a row has been added, the pixel
rows that no later tile reaches are final. They are written and dropped. An image so wide that a
band would be large is cut into strips of columns; tiles at the cuts are computed twice. Memory
therefore does not grow with the image.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from segkit.config.settings import TTA
from segkit.core.errors import SegkitError
from segkit.inference.background import Background
from segkit.inference.objects.merging import ObjectMerger
from segkit.inference.runtimes.network import (
    Network,
    SmallerBatchWarning,
    TooLittleMemoryError,
    is_out_of_memory,
)
from segkit.inference.tiles.tiling import Grid

BAND_BYTES = 64 * 1024**2
"""Size of the band of one image."""
AHEAD_BYTES = 64 * 1024**2
"""Tiles that are prepared ahead; at most those of one batch."""
OPEN = 32
"""Images that may wait for others to fill a batch, at least."""
MOST_TILES = 256
"""Tiles in a batch, at most: more small ones are not faster."""
BATCHES = 3
"""Batches of small images that may be open: one is blended, one computed and one filled."""
OPEN_PIXELS = 64 * 1024**2
"""Pixels of these images together: large ones may be finished and wait behind a small one."""


class Readable(Protocol):
    """An image that is read by windows."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """(h, w, C)."""


Write = Callable[[int, int, Any], None]
"""Takes (top, left, block): probabilities (num_logits, h, w) as arrays of the networks."""


class Strip(NamedTuple):
    """Columns of an image that are blended in one band: pixels and the tiles that reach them."""

    first: int
    end: int
    columns: list[int]


class Tile(NamedTuple):
    """A tile of a canvas: its strip, and its row and column in the grid."""

    strip: Strip
    row: int
    column: int


class Canvas:
    """The tiles of one image, and the band in which they are blended.

    ``write`` takes the blocks of final pixels, which together cover the image once. ``network``
    makes the arrays. The band takes at most ``band_bytes``. ``objects`` takes those of the tiles,
    if they are to be told apart and the network gives them.
    """

    def __init__(
        self,
        image: Readable,
        grid: Grid,
        write: Write,
        network: Network,
        band_bytes: int = BAND_BYTES,
        objects: ObjectMerger | None = None,
    ) -> None:
        self.image, self.grid, self._write, self._network = image, grid, write, network
        self.error: SegkitError | MemoryError | None = None
        self.objects = objects
        rows, columns = grid
        self.pixels = rows.size * columns.size
        self.tile_shape = rows.window + 2 * rows.context, columns.window + 2 * columns.context
        widest = max(1, band_bytes // (4 * network.num_logits * rows.window))
        # none narrower than a window: most of its tiles would be computed twice
        count = max(1, min(math.ceil(columns.size / widest), columns.size // columns.window))
        starts = [max(0, columns.starts[i * len(columns.starts) // count]) for i in range(count)]
        self._strips = []
        for first, end in zip(starts, [*starts[1:], columns.size], strict=True):
            reach = range(first - columns.window + 1, end)
            tiles = [number for number, start in enumerate(columns.starts) if start in reach]
            self._strips.append(Strip(first, end, tiles))
        self._down: Any = None
        self._across: Any = None
        self._band: Any = None
        self._is_complete = False

    @property
    def is_done(self) -> bool:
        """Whether all tiles have been added, or the image has failed."""
        return self._is_complete or self.error is not None

    def list_tiles(self) -> Iterator[Tile]:
        """All tiles, in the order in which they must be added."""
        for strip in self._strips:
            for row in range(len(self.grid.rows.starts)):
                for column in strip.columns:
                    yield Tile(strip, row, column)

    def read(self, tile: Tile) -> NDArray[Any]:
        """The part of the image that a tile sees, (h, w, C), mirrored beyond the border."""
        rows = self.grid.rows.find_pixels(tile.row)
        columns = self.grid.columns.find_pixels(tile.column)
        top, left = int(rows.min()), int(columns.min())
        height, width = int(rows.max()) - top + 1, int(columns.max()) - left + 1
        part = self.image.read(top, left, height, width)
        return part[_choose(rows - top, height)][:, _choose(columns - left, width)]

    def add(self, tile: Tile, maps: Any) -> None:
        """Blend the maps of a tile (num_logits or more, h, w): the window in their middle."""
        rows, columns = self.grid
        strip, begin = tile.strip, columns.starts[tile.column]
        around = (maps.shape[-1] - columns.window) // 2  # a padded network decides the context too
        maps = maps[..., around : around + rows.window, around : around + columns.window]
        is_seen_backwards = (tile.row in rows.flipped, -2), (tile.column in columns.flipped, -1)
        if axes := tuple(axis for is_flipped, axis in is_seen_backwards if is_flipped):
            maps = self._network.xp.flip(maps, axes)
        if self.objects is not None:
            numbers = self._network.to_numpy(maps[-1])
            weights = rows.weights[tile.row][:, None] * columns.weights[tile.column]
            self.objects.add(rows.starts[tile.row], begin, numbers, weights)
        maps = maps[: self._network.num_logits]
        if len(rows.starts) == len(columns.starts) == 1:
            self._write(0, 0, maps[:, : rows.size, : columns.size])
            self._is_complete = True
            return
        if self._down is None:  # moved once, here, where they are used: see finish_beside
            self._down = self._network.from_numpy(rows.weights)[..., None]
            self._across = self._network.from_numpy(columns.weights)
        if self._band is None:
            shape = len(maps), rows.window, strip.end - strip.first
            self._band = self._network.make_zeros(shape)
        low, high = max(strip.first, begin), min(strip.end, begin + columns.window)
        inside = slice(low - begin, high - begin)
        band = self._band[..., low - strip.first : high - strip.first]
        band += maps[..., inside] * (self._down[tile.row] * self._across[tile.column][inside])
        if tile.column == strip.columns[-1]:
            self._finish_row(tile)

    def _finish_row(self, tile: Tile) -> None:
        rows = self.grid.rows
        top = rows.starts[tile.row]
        is_last = tile.row + 1 == len(rows.starts)
        done = (rows.size if is_last else rows.starts[tile.row + 1]) - top
        above = max(0, -top)  # rows before the image
        if done > above:
            self._write(top + above, tile.strip.first, self._band[:, above:done])
        if is_last:
            self._band = None
            self._is_complete = tile.strip is self._strips[-1]
        elif done > 0:
            rest = self._band[:, done:] + 0  # a copy, much smaller than a second band
            self._band[:] = 0
            self._band[:, : rest.shape[1]] = rest


def _choose(pixels: NDArray[Any], size: int) -> slice | NDArray[Any]:
    """An index of these of ``size`` pixels: a slice, which copies nothing, if they are in order."""
    if len(pixels) != size:
        return pixels
    return slice(None) if pixels[0] <= pixels[-1] else slice(None, None, -1)


_Prepared = tuple[Canvas, Tile, list[NDArray[Any]]]
"""A tile of a canvas, as each of the networks takes it."""


class _Flight(NamedTuple):
    """A batch that is being computed: its tiles, its maps, and what waits for and checks them."""

    shape: tuple[int, int]
    taken: list[_Prepared]
    maps: Any
    checks: list[Callable[[], bool]]


def predict_canvases(
    canvases: Iterable[Canvas],
    networks: Sequence[Network],
    tta: TTA,
    pause: Callable[[], object] = lambda: None,
) -> Iterator[Canvas]:
    """Predict images; tiles of one size share batches across images.

    A batch that does not fit into memory is halved, and so are all later ones.

    Args:
        canvases: One for each image; the next is requested only when there is room for it.
        networks: Their probabilities are averaged, and so are those of the views of ``tta``.
        tta: Test-time augmentation; the grids of the canvases hold the mirrored tiles.
        pause: Called before each batch; what it raises ends all of it.

    Yields:
        The canvases in their order, finished or with their ``error``.
    """
    waiting: dict[tuple[int, int], deque[_Prepared]]
    waiting = defaultdict(deque)
    flying: deque[_Flight] = deque()
    opened: deque[Canvas] = deque()
    batch_pixels = min(
        network.batch_size * (network.windows.largest + 2 * network.windows.context) ** 2
        for network in networks
    )
    ahead = 4 * batch_pixels * sum(network.card.in_channels for network in networks)
    in_advance = 1 if networks[0].is_asynchronous else 0

    def find_limit(shape: tuple[int, int]) -> int:
        """Tiles in a batch."""
        return max(1, min(MOST_TILES, batch_pixels // math.prod(shape)))

    def prepare(canvas: Canvas) -> Iterator[tuple[Tile, list[NDArray[Any]]]]:
        """The tiles of a canvas as the networks take them; runs in a thread."""
        try:
            for tile in canvas.list_tiles():
                window = canvas.read(tile)
                yield tile, [network.prepare(window) for network in networks]
        except (SegkitError, MemoryError) as error:
            canvas.error = error

    def launch(shape: tuple[int, int]) -> None:
        """Compute the next batch; a GPU goes on while the one before it is blended."""
        nonlocal batch_pixels
        pause()
        queue, limit = waiting[shape], find_limit(shape)
        taken = [queue.popleft() for _ in range(min(limit, len(queue)))]
        taken = [entry for entry in taken if entry[0].error is None]
        if not taken:
            return
        try:
            batches = [
                network.load_batch(parts)
                for network, parts in zip(
                    networks, zip(*(e[2] for e in taken), strict=True), strict=True
                )
            ]
            maps = average_probabilities(networks, batches, tta)
            checks = [network.begin_check() for network in networks]
        except Exception as error:
            # not the error itself: through its traceback it would hold the memory
            problem = _explain_memory(error)
        else:
            flying.append(_Flight(shape, taken, maps, checks))
            if len(flying) > in_advance:
                land()
            return
        if flying:  # they hold memory too
            queue.extendleft(reversed(taken))
            while flying:
                land()
            return
        if len(taken) > 1:
            # always the same text: Python shows it once
            warnings.warn(
                "the memory of the device is too small for the batches, so they are halved until"
                " they fit. To avoid the failed attempts, give a smaller batch_size or tile.",
                SmallerBatchWarning,
                stacklevel=1,
            )
            batch_pixels = len(taken) // 2 * math.prod(shape)
            queue.extendleft(reversed(taken))
        else:
            taken[0][0].error = problem

    def land() -> None:
        """Blend the first of the batches that are being computed."""
        flight = flying.popleft()
        checked = [check() for check in flight.checks]
        if not all(checked):
            for other in (*reversed(flying), flight):  # tiles are added in their order
                waiting[other.shape].extendleft(reversed(other.taken))
            flying.clear()
            return
        with networks[0].finish_beside(flight.maps):
            for (canvas, tile, _), one in zip(flight.taken, flight.maps, strict=True):
                try:
                    canvas.add(tile, one)
                except Exception as error:
                    canvas.error = _explain_memory(error)

    def finish(most: int) -> Iterator[Canvas]:
        """Yield the first canvases that are done; leave at most ``most`` open."""
        while opened and (opened[0].is_done or len(opened) > most or are_too_large()):
            while not opened[0].is_done:
                queue = waiting[opened[0].tile_shape]
                if queue and (queue[0][0] is opened[0] or not flying):
                    launch(opened[0].tile_shape)
                else:
                    land()
            yield opened.popleft()

    def are_too_large() -> bool:
        """Never true of a single image."""
        return len(opened) > 1 and sum(canvas.pixels for canvas in opened) > OPEN_PIXELS

    with Background("segkit-tiles", min(ahead, AHEAD_BYTES)) as reader:
        for canvas in canvases:
            opened.append(canvas)
            shape = canvas.tile_shape
            for tile, arrays in reader.read_ahead(
                prepare(canvas), lambda ready: sum(array.nbytes for array in ready[1])
            ):
                waiting[shape].append((canvas, tile, arrays))
                while len(waiting[shape]) >= find_limit(shape):
                    launch(shape)
            yield from finish(max(OPEN, BATCHES * find_limit(shape)))
        yield from finish(0)


def _explain_memory(error: Exception) -> SegkitError:
    """What to say if memory is too small; other errors are raised."""
    if isinstance(error, TooLittleMemoryError):
        return SegkitError(str(error))
    if not is_out_of_memory(error):
        raise error
    return SegkitError("the batch does not fit into memory.")


def average_probabilities(networks: Sequence[Network], batches: Sequence[Any], tta: TTA) -> Any:
    """Average the probabilities of a batch over networks and, for d4, over the swap of its axes.

    Args:
        networks: They compute on the same kind of arrays.
        batches: (B, C, h, w), one for each network, as :meth:`Network.load_batch` returns it.
        tta: Whether rows and columns are swapped too. Mirrored views are tiles of their own.

    Returns:
        (B, num_logits, window, window), an array of the networks.
    """
    xp = networks[0].xp
    total: Any = None
    for network, batch in zip(networks, batches, strict=True):
        maps = network.predict_batch(batch)
        total = maps if total is None else total + maps
        if tta == "d4":
            total = total + xp.swapaxes(network.predict_batch(xp.swapaxes(batch, -1, -2)), -1, -2)
    count = len(networks) * (2 if tta == "d4" else 1)
    return total if count == 1 else total / count
