"""How large tiles and batches are: from what a network takes and the memory there is. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable

from segkit.inference.tiles.tiling import Windows

SIDE = 1024
"""Side of the largest window where memory is no question."""
SHARE = 0.25
"""Part of the free memory that a batch may take."""
BATCH_PIXELS = {"cpu": 512 * 512, "cuda": 32 * 1024 * 1024}
"""What a batch holds at most: beyond that nothing gets faster."""


def plan_batches(
    windows_of: Callable[[int], Windows],
    wanted: int,
    tile: int | None,
    batch_size: int | None,
    free: int,
    bytes_per_pixel: float,
    device: str = "cpu",
) -> tuple[Windows, int]:
    """The windows of a network, and how many of the largest go through it at once.

    Args:
        windows_of: Which windows it takes, by their largest side.
        wanted: Side of the largest window where memory is no question.
        tile: The side that was asked for, None to choose.
        batch_size: The batch that was asked for, None to choose.
        free: Bytes of free memory.
        bytes_per_pixel: What predicting takes for each pixel.
        device: The kind of device.
    """
    afford = SHARE * free / bytes_per_pixel  # pixels
    windows = windows_of(tile or max(1, min(wanted, math.isqrt(int(afford)))))
    seen = (windows.largest + 2 * windows.context) ** 2
    most = min(afford, BATCH_PIXELS.get(device, BATCH_PIXELS["cpu"]))
    return windows, batch_size or max(1, int(most / seen))
