"""What is read from every image and mask, once: numbers are kept instead of pixels."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from segkit.checkpoint.values import find_empty, find_missing
from segkit.core.errors import SegkitError
from segkit.data.checks.parts import count_values, scan_parts
from segkit.data.sources.base import DataSource, Large, Sample, Split
from segkit.targets.objects import number_objects

PIXELS_PER_IMAGE, PIXELS_PER_SET = 20_000, 2_000_000
"""Maximum number of pixels for the intensity statistics."""
MASKS_WITH_REGIONS, PIXELS_PER_MASK, VALUES_PER_MASK = 100, 2_000_000, 32
"""Maximum number of masks, and of their pixels and values, whose regions are measured."""
PIXELS_OF_INTENSITIES = 250_000
"""Maximum number of pixels of an image whose intensities are measured."""
SAMPLES_AT_ONCE = 32
"""Maximum number of samples that a thread reads before it reports them."""


class Intensities(NamedTuple):
    """Intensities of an image, over all channels, where it has data.

    Attributes:
        low: The smallest one.
        high: The largest one.
        mean: Their mean.
        spread: Their standard deviation.
        at_top: Share of the values that are the largest one.
    """

    low: float
    high: float
    mean: float
    spread: float
    at_top: float


@dataclass(eq=False)
class Facts:
    """Properties of one sample.

    Attributes:
        most_pixels: How many of its pixels to keep.
        with_regions: Whether to measure the regions of its mask.
        errors: The sample and why it cannot be used; then the other attributes are incomplete.
        shape: (H, W, C) of the image.
        mask_shape: (H, W) or (H, W, N) of the mask.
        layers: Number of pixels of each value: of the mask, or of each of its N layers.
        empty: Number of pixels without data.
        pixels: A random selection of the image's pixels that have data, (n, C).
        intensities: Its intensities, of large images of some pixels; None if none has data.
        brighter_above: How much brighter the upper half of the image is than the lower one, in
            standard deviations of the image.
        areas: Areas in pixels of the objects of each id, or of the connected regions of each value.
        centers: The mean row and column of each value, by its layer and value.
        solid: The values of the mask that fill 3 x 3 pixels somewhere; None if not looked at.
        share: The fraction of the image that was read; less than 1 for huge ones.
        digest: A hash of the pixels that have data, of large images of some; empty if only a
            sample of the image is read.
    """

    sample: Sample
    split: Split
    most_pixels: int = 0
    with_regions: bool = False
    errors: list[tuple[str, str]] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    dtype: str = ""
    mask_shape: tuple[int, ...] = ()
    layers: list[dict[int, int]] = field(default_factory=list)
    empty: int = 0
    pixels: NDArray[Any] | None = None
    intensities: Intensities | None = None
    brighter_above: float = 0.0
    areas: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    centers: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    solid: set[int] | None = None
    share: float = 1.0
    digest: bytes = b""

    @property
    def values(self) -> set[int]:
        """The values that occur in the mask."""
        return {value for layer in self.layers for value in layer}

    @property
    def layered(self) -> bool:
        """Whether the mask is (H, W, N)."""
        return len(self.mask_shape) == 3


def scan(source: DataSource, splits: dict[Split, list[Sample]]) -> list[Facts]:
    """Read every sample of a source, in several threads.

    Pixels are kept from the training images, or from all images if there are none.
    """
    work = [Facts(sample, split) for split, samples in splits.items() for sample in samples]
    learned = select_training(work)
    for facts in learned:
        facts.most_pixels = min(PIXELS_PER_IMAGE, PIXELS_PER_SET // len(learned) + 1)
    for facts in learned[:: -(-len(learned) // MASKS_WITH_REGIONS) or 1]:
        facts.with_regions = True

    def read(part: list[Facts]) -> list[Facts]:
        for facts in part:
            empty: NDArray[np.bool_] | None = None
            large: Large | None = None
            with _noting_errors(source, facts):
                large = source.measure_large(facts.sample)
                if large is not None:
                    _scan_large(source, facts, large)
            if large is not None or facts.errors:
                continue
            with _noting_errors(source, facts):
                empty = _scan_image(source, facts)
            with _noting_errors(source, facts):
                _scan_mask(source, facts, empty)
        return part

    console = Console()
    threads = min(8, os.cpu_count() or 1)
    # Handing over single small images would take a tenth of the time.
    step = min(SAMPLES_AT_ONCE, len(work) // (8 * threads)) or 1
    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(read, [work[i : i + step] for i in range(0, len(work), step)])
        return list(
            track(
                (facts for part in parts for facts in part),
                "checking the data set",
                total=len(work),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            )
        )


@contextmanager
def _noting_errors(source: DataSource, facts: Facts) -> Iterator[None]:
    try:
        yield
    except SegkitError as error:
        found = _name_sample(facts.sample, str(error))
        if found not in facts.errors:  # image and mask may be in one item, which fails twice
            facts.errors.append(found)
    except Exception as error:  # a source of a plugin may do anything
        why = f"{type(source).__name__} cannot read it: {error!r}"
        facts.errors.append((facts.sample.name, why))


def _scan_large(source: DataSource, facts: Facts, large: Large) -> None:
    """Read an image and its mask by parts."""
    limits = PIXELS_OF_INTENSITIES, PIXELS_PER_MASK
    of_image, of_mask = (choose_stride(large, pixels) for pixels in limits)
    found = scan_parts(source, facts.sample, large, facts.most_pixels, (of_image, of_mask))
    facts.shape, facts.dtype, facts.mask_shape = large.shape, str(large.dtype), found.mask_shape
    facts.layers, facts.empty, facts.share = found.layers, found.empty, found.share
    if facts.most_pixels:
        facts.pixels = found.pixels
    if found.share == 1:
        image, missing = np.ma.getdata(found.image), find_missing(found.image)
        _measure_intensities(image, missing, facts)
        facts.digest = _hash_pixels(image, missing)
    for pixels in found.layers if source.instances else ():
        if not facts.layered:  # raises if they cannot be ids
            number_objects(np.array([list(pixels)]), source.label_map)
        facts.areas = {value: np.array([n], np.int64) for value, n in pixels.items()}
    if facts.with_regions and not source.instances:
        for mask in found.masks:
            for number, layer in enumerate(np.moveaxis(np.atleast_3d(mask), 2, 0)):
                _measure_regions(layer, facts, number)
        facts.areas = {value: areas * of_mask**2 for value, areas in facts.areas.items()}


def _scan_image(source: DataSource, facts: Facts) -> NDArray[np.bool_] | None:
    """Read an image; return where it has no data."""
    image = source.read_image(facts.sample)
    fits = image.ndim == 3 and image.dtype in (np.uint8, np.uint16, np.float32)
    _require(fits, source, "read_image", image, "(H, W, C) of uint8, uint16 or float32")
    facts.shape, facts.dtype = image.shape, str(image.dtype)
    missing, empty = find_missing(image), find_empty(image)
    image = np.ma.getdata(image)
    if image.dtype == np.float32 and np.isinf(image if missing is None else image[~missing]).any():
        raise SegkitError("the image has infinite values")
    _measure_intensities(image, missing, facts)
    facts.digest = _hash_pixels(image, missing)
    if empty is not None:
        facts.empty = int(empty.sum())
    if facts.most_pixels:
        flat = image.reshape(-1, image.shape[2])
        if missing is not None:
            flat = flat[~missing.reshape(flat.shape).any(axis=1)]
        if len(flat) > facts.most_pixels:  # at random: every n-th pixel may be a column
            flat = flat[np.random.default_rng(0).integers(len(flat), size=facts.most_pixels)]
        facts.pixels = flat.copy()
    return empty


def _hash_pixels(image: NDArray[Any], missing: NDArray[np.bool_] | None) -> bytes:
    """A hash of the pixels that have data; it takes about a hundredth of decoding a PNG."""
    shown = image if missing is None else np.where(missing, 0, image)
    return hashlib.sha1(np.ravel(shown).data, usedforsecurity=False).digest()


def _measure_intensities(
    image: NDArray[Any], missing: NDArray[np.bool_] | None, facts: Facts
) -> None:
    step = choose_stride(image, PIXELS_OF_INTENSITIES)
    values = image[::step, ::step]
    if missing is None:
        # Channels side by side, because OpenCV takes few; it needs a tenth of NumPy's time.
        values = np.ascontiguousarray(values).reshape(len(values), -1)
    else:
        values = values[~missing[::step, ::step]].reshape(1, -1)
    if not values.size:
        return
    low, high, _, _ = cv2.minMaxLoc(values)
    mean, spread = (found.item() for found in cv2.meanStdDev(values))
    at_top = np.count_nonzero(values == values.dtype.type(high)) / values.size
    facts.intensities = Intensities(low, high, mean, spread, at_top)
    half = len(values) // 2
    if half and high > low and spread > 0:
        difference = cv2.mean(values[:half])[0] - cv2.mean(values[-half:])[0]
        facts.brighter_above = difference / spread


def _scan_mask(source: DataSource, facts: Facts, empty: NDArray[np.bool_] | None) -> None:
    """Read a mask, whose values count only where the image has data."""
    mask = source.read_mask(facts.sample)
    fits = mask.ndim in (2, 3) and mask.dtype.kind in "biu"
    _require(fits, source, "read_mask", mask, "(H, W) or (H, W, N) of integers")
    facts.mask_shape = mask.shape
    for number, layer in enumerate([mask] if mask.ndim == 2 else np.moveaxis(mask, 2, 0)):
        pixels = count_values(layer)
        if source.instances and mask.ndim == 2:
            ids = np.array([list(pixels)])
            number_objects(ids, source.label_map)  # raises if they cannot be ids
        if empty is not None and empty.shape == layer.shape:
            pixels = count_values(layer[~empty])
        facts.layers.append(pixels)
        if source.instances:
            facts.areas = {value: np.array([n], np.int64) for value, n in pixels.items()}
            if facts.with_regions:
                facts.solid = (facts.solid or set()) | _find_solid(layer)
        elif facts.with_regions:
            _measure_regions(layer, facts, number)


def _require(fits: bool, source: DataSource, method: str, array: Any, wanted: str) -> None:
    if not fits:
        raise SegkitError(
            f"{type(source).__name__}.{method} returned an array of the shape {array.shape} and the"
            f" type {array.dtype}: it must return {wanted}"
        )


def _name_sample(sample: Sample, message: str) -> tuple[str, str]:
    """The name of the sample, or its path where the message contains that, and the message."""
    message = message.rstrip(".")
    for path in (sample.image, sample.mask, sample.name):
        if path and message.startswith(f"{path}: "):
            return str(path), message.removeprefix(f"{path}: ")
    return sample.name, message


def _measure_regions(layer: NDArray[Any], facts: Facts, number: int) -> None:
    """Add the areas of the regions of each value of a mask (H, W), its centre, and solid values."""
    step = choose_stride(layer, PIXELS_PER_MASK)
    layer = layer[::step, ::step]
    facts.solid = (facts.solid or set()) | _find_solid(layer)
    for value in list(count_values(layer))[:VALUES_PER_MASK]:
        same = (layer == value).astype(np.uint8)
        moments = cv2.moments(same, binaryImage=True)
        row, column = (step * moments[key] / moments["m00"] for key in ("m01", "m10"))
        facts.centers[number, value] = row, column
        _, _, stats, _ = cv2.connectedComponentsWithStats(same, connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA].astype(np.int64) * step**2
        facts.areas[value] = np.concatenate([facts.areas.get(value, areas[:0]), areas])


def _find_solid(layer: NDArray[Any]) -> set[int]:
    """The values of a mask (H, W) that fill 3 x 3 pixels somewhere."""
    beside, below = layer[:, 1:] == layer[:, :-1], layer[1:] == layer[:-1]
    rows, columns = beside[:, 1:] & beside[:, :-1], (below[1:] & below[:-1])[:, 1:-1]
    inside = rows[:-2] & rows[1:-1] & rows[2:] & columns
    return set(count_values(layer[1:-1, 1:-1][inside]))


def choose_stride(array: NDArray[Any] | Large, pixels: int) -> int:
    """Subsampling stride that leaves at most this many pixels of (H, W, ...)."""
    return math.ceil(math.sqrt(max(1.0, array.shape[0] * array.shape[1] / pixels)))


def select_training(facts: list[Facts]) -> list[Facts]:
    """Those of the training samples, or all if there are none."""
    return [f for f in facts if f.split == "train"] or facts
