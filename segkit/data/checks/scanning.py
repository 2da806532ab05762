"""Read every image and mask of a data set once and keep numbers instead of pixels."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from segkit.core.errors import SegkitError
from segkit.data.sources.base import DataSource, Sample, Split
from segkit.targets.objects import number_labelled_objects

PIXELS_PER_IMAGE, PIXELS_PER_SET = 20_000, 2_000_000
"""Maximum number of pixels for the intensity statistics."""
MASKS_WITH_REGIONS, PIXELS_PER_MASK, VALUES_PER_MASK = 100, 2_000_000, 32
"""Maximum number of masks, and of their pixels and values, whose regions are measured."""
PIXELS_OF_HALVES = 250_000
"""Maximum number of pixels for comparing the upper and lower half of an image."""
PATIENCE = 2.0
"""Seconds after which a scan shows its progress."""


@dataclass(eq=False)
class Facts:
    """Properties of one sample.

    Attributes:
        errors: Why it cannot be used; the other attributes are then incomplete.
        shape: (H, W, C) of the image.
        mask_shape: (H, W) or (H, W, N) of the mask.
        layers: Number of pixels of each value: of the mask, or of each of its N layers.
        pixels: A random selection of the image's pixels, (n, C).
        brighter_above: How much brighter the upper half of the image is than the lower one, in
            standard deviations of the image.
        areas: Areas in pixels of the connected regions of each mask value, if measured.
    """

    sample: Sample
    split: Split
    errors: list[str] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    dtype: str = ""
    mask_shape: tuple[int, ...] = ()
    layers: list[dict[int, int]] = field(default_factory=list)
    pixels: NDArray[Any] | None = None
    brighter_above: float = 0.0
    areas: dict[int, NDArray[np.int64]] = field(default_factory=dict)

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
    learned = [f for f in work if f.split == "train"] or work
    pixels = min(PIXELS_PER_IMAGE, PIXELS_PER_SET // max(1, len(learned)) + 1)
    with_pixels = set(map(id, learned))
    with_regions = set(map(id, learned[:: -(-len(learned) // MASKS_WITH_REGIONS) or 1]))

    def read(facts: Facts) -> Facts:
        try:
            _scan_image(source, facts, pixels if id(facts) in with_pixels else 0)
        except SegkitError as error:
            facts.errors.append(_name_sample(facts.sample, str(error)))
        try:
            _scan_mask(source, facts, id(facts) in with_regions)
        except SegkitError as error:
            facts.errors.append(_name_sample(facts.sample, str(error)))
        return facts

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(_show_progress(pool.map(read, work), len(work)))


def _scan_image(source: DataSource, facts: Facts, pixels: int) -> None:
    image = source.read_image(facts.sample)
    facts.shape, facts.dtype = image.shape, str(image.dtype)
    if np.issubdtype(image.dtype, np.floating) and not np.isfinite(image).all():
        raise SegkitError("the image has values that are not finite (NaN or infinite)")
    step = _choose_stride(image, PIXELS_OF_HALVES)
    thinned = image[::step, ::step].astype(np.float64)
    half, spread = len(thinned) // 2, thinned.std()
    if half and spread > 0:
        difference = thinned[:half].mean() - thinned[-half:].mean()
        facts.brighter_above = float(difference / spread)
    if pixels:
        flat = image.reshape(-1, image.shape[2])
        if len(flat) > pixels:  # at random: every n-th pixel may be a column
            flat = flat[np.random.default_rng(0).integers(len(flat), size=pixels)]
        facts.pixels = flat.copy()


def _scan_mask(source: DataSource, facts: Facts, with_regions: bool) -> None:
    mask = source.read_mask(facts.sample)
    if source.instances and mask.ndim == 2:
        number_labelled_objects(mask, source.label_map or {})  # raises if they cannot be ids
    facts.mask_shape = mask.shape
    for layer in [mask] if mask.ndim == 2 else np.moveaxis(mask, 2, 0):
        values, counts = np.unique(layer, return_counts=True)
        pairs = zip(values.tolist(), counts.tolist(), strict=True)
        facts.layers.append({int(value): count for value, count in pairs})
        if with_regions and not source.instances:  # the count of an id is the area of an object
            _measure_regions(layer, facts)


def _measure_regions(layer: NDArray[Any], facts: Facts) -> None:
    """Add the areas of the connected regions of each value of a mask (H, W)."""
    step = _choose_stride(layer, PIXELS_PER_MASK)
    layer = layer[::step, ::step]
    for value in np.unique(layer)[:VALUES_PER_MASK].tolist():
        same = (layer == value).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(same, connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA].astype(np.int64) * step**2
        facts.areas[value] = np.concatenate([facts.areas.get(value, areas[:0]), areas])


def _choose_stride(array: NDArray[Any], pixels: int) -> int:
    """Subsampling stride that leaves at most this many pixels of (H, W, ...)."""
    return math.ceil(math.sqrt(max(1.0, array.shape[0] * array.shape[1] / pixels)))


def _name_sample(sample: Sample, message: str) -> str:
    """The message with the name of the sample, unless it already contains its path."""
    files = [str(path) for path in (sample.image, sample.mask) if path]
    message = message.rstrip(".")
    return message if any(file in message for file in files) else f"{sample.name}: {message}"


def _show_progress(items: Iterator[Facts], total: int) -> Iterator[Facts]:
    """Pass the items on, with a progress bar on terminals if they take long."""
    began, bar = time.monotonic(), Progress(transient=True)
    task = bar.add_task("checking the data set", total=total)
    try:
        for done, item in enumerate(items, start=1):
            if bar.console.is_terminal and time.monotonic() - began > PATIENCE:
                bar.start()
            bar.update(task, completed=done)
            yield item
    finally:
        if bar.live.is_started:
            bar.stop()
