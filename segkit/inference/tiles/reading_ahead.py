"""The tiles of an image, prepared in a thread while the networks compute on those before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segkit.inference.runtimes.network import Network

if TYPE_CHECKING:  # it imports this module
    from segkit.inference.tiles.blending import Canvas, Tile

AHEAD_BYTES = 64 * 1024**2
"""What the tiles that wait may take; one always may."""


Arrays = list[NDArray[np.float32]]
"""What each of the networks is given for a tile, (C, h, w)."""


def read_ahead(
    canvas: Canvas,
    networks: Sequence[Network],
    limit: Callable[[tuple[int, int]], int],
    thread: Executor,
) -> Iterator[tuple[Tile, Future[Arrays]]]:
    """The tiles of a canvas, in their order; they are read and prepared one batch ahead.

    Args:
        canvas: Of the image.
        networks: That the tiles are prepared for.
        limit: How many tiles of a size (height, width) a batch has.
        thread: A single one: files are read best from front to back.

    Yields:
        A tile, and what is prepared for it, whose ``result()`` is asked for before the next one. It
        raises a SegkitError where the image cannot be read, or does not fit the training.
    """

    def prepare(tile: Tile) -> Arrays:
        window = canvas.read(tile)
        return [network.prepare(window) for network in networks]

    waiting: deque[tuple[Tile, Future[Arrays]]] = deque()
    most = 1
    try:
        for tile in canvas.tiles():
            waiting.append((tile, thread.submit(prepare, tile)))
            if len(waiting) > most:
                yield waiting[0]
                arrays = waiting.popleft()[1].result()
                room = AHEAD_BYTES // sum(array.nbytes for array in arrays)
                height, width = arrays[0].shape[1:]
                most = max(1, min(room, limit((height, width))))
        while waiting:
            yield waiting[0]
            waiting.popleft()
    finally:
        for _, future in waiting:
            future.cancel()
