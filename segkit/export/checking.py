"""The check of an exported file: its probabilities against those of the network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.export.images import RealImages, cut_window, make_noise
from segkit.inference.runtimes.exported import Contents
from segkit.inference.runtimes.network import Network
from segkit.inference.tiles.tiling import Windows

DIFFERENCE = 1e-3
"""Largest difference of probabilities; other orders of summation in float32 stay far below."""
SHARE = 1e-3
"""Largest share of pixels with another label: those with probabilities near the threshold."""

Batch = NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """The largest difference of probabilities, and the share of pixels with another label."""

    name: str
    largest: float
    share: float
    pixels: int

    def __str__(self) -> str:
        return (
            f"{self.name}: largest difference of probabilities {self.largest:.1e}, other labels in"
            f" {self.share:.4%} of {self.pixels} pixels"
        )


def list_sizes(windows: Windows) -> list[tuple[int, int]]:
    """Sizes of images to check, odd ones too if the network takes them.

    The graph is traced with the last one, which is neither square nor a multiple of anything.
    """
    if windows.fixed:
        return [windows.fixed]
    if windows.context:
        side, step = windows.smallest + 2 * windows.context, windows.step
        return [(side, side), (side, side + step), (side + 3 * step, side + 2 * step)]
    m = windows.step
    return [(1, 1), (2 * m, 2 * m), (m + 1, 2 * m + 3), (3 * m, 2 * m), (2 * m + 1, 3 * m + 3)]


def compare(
    name: str, reference: Network, network: Network, batches: Iterable[Sequence[Batch]]
) -> Comparison:
    """Run two networks on batches of images (h, w, C)."""
    largest, other, pixels = 0.0, 0, 0
    for batch in batches:
        wanted = _run(reference, batch)
        given = _run(network, batch)
        if given.shape != wanted.shape:
            shape = np.stack(batch).shape
            raise SegkitError(
                f"the file does not compute the same as the network: for images {shape} it returns"
                f" maps {given.shape}, the network {wanted.shape}. Try another format, or other"
                " versions of its packages."
            )
        difference = np.abs(given - wanted).max()
        largest = max(largest, float(difference) if np.isfinite(difference) else math.inf)
        labels = [np.asarray(_labels(n, p)) for n, p in ((reference, wanted), (network, given))]
        other += int((labels[0] != labels[1]).sum())
        pixels += labels[0].size
    return Comparison(name, largest, other / max(1, pixels), pixels)


def check(
    reference: Network, network: Network, contents: Contents, real: RealImages
) -> list[Comparison]:
    """Compare the network in a file with the original on random and on real images.

    Raises:
        SegkitError: The differences exceed the limits.
    """
    windows = contents.windows
    normalization = contents.card.normalization
    sizes = list_sizes(windows)

    def noise() -> Iterator[Sequence[Batch]]:
        for number, size in enumerate(sizes):
            yield make_noise(normalization, 1 + number % 3, size, number)
        yield make_noise(normalization, 3, sizes[-1], len(sizes))

    names = ", ".join(f"{height} x {width}" for height, width in sizes)
    found = [
        compare(f"random images of {names}, batches of 1 to 3", reference, network, noise()),
        compare(real.origin, reference, network, ([cut_window(i, windows)] for i in real.images)),
    ]
    for one in found:
        if one.largest > DIFFERENCE or one.share > SHARE:
            raise SegkitError(
                f"the file does not compute the same as the network. {one}; at most"
                f" {DIFFERENCE:g} and {SHARE:.1%} are allowed. Try another format, or other"
                " versions of its packages."
            )
    return found


def _run(network: Network, batch: Sequence[Batch]) -> NDArray[np.float32]:
    prepared = np.stack([network.prepare(image) for image in batch])
    return np.asarray(network.to_numpy(network.predict_batch(prepared)))


def _labels(network: Network, probabilities: NDArray[np.float32]) -> Any:
    return network.to_numpy(network.decide(network.from_numpy(probabilities)))
