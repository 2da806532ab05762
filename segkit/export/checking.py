"""The check of an exported file: its probabilities against those of the network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.export.graph import list_sizes
from segkit.export.images import RealImages, cut_window, make_noise
from segkit.inference.runtimes.exported import Contents
from segkit.inference.runtimes.network import Network
from segkit.inference.tiles.tiling import Windows

DIFFERENCE = 1e-3
"""Largest difference of probabilities; other orders of summation in float32 stay far below."""
SEVERAL = 512 * 512
"""Pixels of an image up to which several are checked in one batch."""
MANY = 5
"""Images in the largest batch."""
SHARE = 1e-3
"""Largest share of pixels with another label: those with probabilities near the threshold."""

Batch = Sequence[NDArray[Any]]
"""Images (h, w, C) of one size."""


class Comparison(NamedTuple):
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


def compare(
    name: str, reference: Network, network: Network, batches: Iterable[Batch]
) -> Comparison:
    """Run two networks on batches of images."""
    largest, other, pixels = 0.0, 0, 0
    for batch in batches:
        wanted, wanted_labels = _predict(reference, batch)
        given, labels = _predict(network, batch)
        if given.shape != wanted.shape:
            raise SegkitError(
                f"the file does not compute the same as the network: for {len(batch)} images"
                f" {batch[0].shape} it returns maps {given.shape}, the network {wanted.shape}. Try"
                " another format, or other versions of its packages."
            )
        difference = np.abs(given - wanted).max()
        largest = max(largest, float(difference) if np.isfinite(difference) else math.inf)
        other += int((labels != wanted_labels).sum())
        pixels += labels.size
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
    sizes = choose_sizes(windows, network.windows.largest)

    def noise() -> Iterator[Batch]:
        for number, size in enumerate(sizes):
            count = 1 + number % 3 if math.prod(size) <= SEVERAL else 1
            yield make_noise(normalization, count, size, number)
        yield make_noise(normalization, MANY, min(sizes, key=math.prod), len(sizes))

    names = ", ".join(f"{height} x {width}" for height, width in sizes)
    found = [
        compare(f"random images of {names}, batches of 1 to {MANY}", reference, network, noise()),
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


def choose_sizes(windows: Windows, largest: int) -> list[tuple[int, int]]:
    """Sizes of the network's input that differ in what a graph may have taken for fixed.

    There are odd ones, small ones, tall and wide ones, a whole tile of the predictor, and numbers
    of strides that the windows of attention divide (7, 8, 14) or do not.

    Args:
        windows: The tiles that the file takes.
        largest: The side of the largest tile that the predictor makes, in pixels.
    """
    sizes = list_sizes(windows)
    if windows.fixed:
        return sizes
    if windows.context:
        side = largest + 2 * windows.context
        return [*sizes, (side, side)]
    m = windows.step
    strides = (2, 7), (10, 3), (7, 7), (8, 8), (10, 10), (14, 5)
    more = [(down * m, across * m) for down, across in strides if max(down, across) * m <= largest]
    odd = [(8 * m + 1, 2 * m - 1)] if 9 * m <= largest else []
    return list(dict.fromkeys([*sizes, *more, *odd, (largest, largest)]))


def _predict(network: Network, batch: Batch) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """The probabilities and the labels of images."""
    prepared = network.load_batch([network.prepare(image) for image in batch])
    probabilities = network.predict_batch(prepared)
    labels = network.to_numpy(network.decide(probabilities))
    given = network.to_numpy(probabilities)
    if network.card.tells_objects:  # their numbers are labels too, not probabilities
        labels = np.stack([labels.astype(np.int32), given[:, -1].astype(np.int32)])
        given = given[:, :-1]
    return given, labels
