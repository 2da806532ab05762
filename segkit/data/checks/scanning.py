"""One look at every image and mask of a set, which keeps numbers and no pictures."""

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

PIXELS_OF_IMAGE, PIXELS_OF_SET = 20_000, 2_000_000
"""How many pixels the intensity statistics are taken from, at most."""
MASKS_WITH_REGIONS, PIXELS_OF_MASK, VALUES_OF_MASK = 100, 2_000_000, 32
"""How many masks are looked at for their regions, of how many pixels and values, at most."""
PIXELS_OF_HALVES = 250_000
"""How many pixels of an image its upper and its lower half are compared by, at most."""
PATIENCE = 2.0
"""Seconds after which a scan shows how far it is."""


@dataclass(eq=False)
class Facts:
    """What one sample is like.

    Attributes:
        sample: The sample.
        split: Its split.
        errors: Why it cannot be used; the rest is then incomplete.
        shape: (H, W, C) of the image.
        dtype: Its type.
        mask_shape: (H, W) or (H, W, N) of the mask.
        layers: How many pixels have each value: of the mask, or of each of its N layers.
        pixels: Some pixels of the image, (n, C).
        brighter_above: How much brighter the upper half of the image is than the lower one, in
            standard deviations of the image.
        areas: Areas in pixels of the connected regions of each value of the mask; empty where they
            were not looked for.
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

    The pixels are those of the training images, or of all where there are none.
    """
    work = [Facts(sample, split) for split, samples in splits.items() for sample in samples]
    for_statistics = len(splits.get("train", ())) or len(work)
    pixels = min(PIXELS_OF_IMAGE, PIXELS_OF_SET // max(1, for_statistics) + 1)
    learned = [f for f in work if f.split == "train"] or work
    with_regions = set(map(id, learned[:: -(-len(learned) // MASKS_WITH_REGIONS) or 1]))

    def look(facts: Facts) -> Facts:
        wanted = facts.split == "train" or not splits.get("train")
        _look_at_image(source, facts, pixels if wanted else 0)
        _look_at_mask(source, facts, id(facts) in with_regions)
        return facts

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(_shown_when_slow(pool.map(look, work), len(work)))


def _look_at_image(source: DataSource, facts: Facts, pixels: int) -> None:
    try:
        image = source.read_image(facts.sample)
    except SegkitError as error:
        facts.errors.append(_named(facts.sample, str(error)))
        return
    facts.shape, facts.dtype = image.shape, str(image.dtype)
    if np.issubdtype(image.dtype, np.floating) and not np.isfinite(image).all():
        facts.errors.append(
            f"{facts.sample.name}: the image has values that are not finite (NaN or infinite)"
        )
    else:
        facts.brighter_above = _brighter_above(image)
    flat = image.reshape(-1, image.shape[2])
    # at random: every n-th pixel may be a column
    chosen = np.random.default_rng(0).integers(len(flat), size=min(pixels, len(flat)))
    if pixels:
        facts.pixels = flat[chosen] if len(flat) > pixels else flat.copy()


def _brighter_above(image: NDArray[Any]) -> float:
    """Upper less lower half, in standard deviations; 0 for an even image."""
    step = _step(image, PIXELS_OF_HALVES)
    thinned = image[::step, ::step].astype(np.float64)
    half, spread = len(thinned) // 2, thinned.std()
    if not half or spread == 0:
        return 0.0
    return float((thinned[:half].mean() - thinned[-half:].mean()) / spread)


def _look_at_mask(source: DataSource, facts: Facts, with_regions: bool) -> None:
    try:
        mask = source.read_mask(facts.sample)
    except SegkitError as error:
        facts.errors.append(_named(facts.sample, str(error)))
        return
    if source.instances and mask.ndim == 2:
        try:
            number_labelled_objects(mask, source.label_map or {})
        except SegkitError as error:
            facts.errors.append(_named(facts.sample, str(error)))
            return
    facts.mask_shape = mask.shape
    for layer in [mask] if mask.ndim == 2 else np.moveaxis(mask, 2, 0):
        values, counts = np.unique(layer, return_counts=True)
        facts.layers.append(
            {int(v): n for v, n in zip(values.tolist(), counts.tolist(), strict=True)}
        )
        if with_regions and not source.instances:  # the count of an id is the area of an object
            _measure_regions(layer, facts)


def _measure_regions(layer: NDArray[Any], facts: Facts) -> None:
    """Add the areas of the connected regions of the values of a mask (H, W)."""
    step = _step(layer, PIXELS_OF_MASK)
    layer = layer[::step, ::step]
    for value in np.unique(layer)[:VALUES_OF_MASK].tolist():
        same = (layer == value).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(same, connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA].astype(np.int64) * step**2
        facts.areas[value] = np.concatenate([facts.areas.get(value, areas[:0]), areas])


def _step(array: NDArray[Any], pixels: int) -> int:
    """Each how manieth row and column to take of (H, W, ...), to have that many pixels at most."""
    return math.ceil(math.sqrt(max(1.0, array.shape[0] * array.shape[1] / pixels)))


def _named(sample: Sample, text: str) -> str:
    """The message with the name of the sample, unless it has the path of its file."""
    files = [str(path) for path in (sample.image, sample.mask) if path]
    text = text.rstrip(".")
    return text if any(file in text for file in files) else f"{sample.name}: {text}"


def _shown_when_slow(items: Iterator[Facts], total: int) -> Iterator[Facts]:
    """Pass the items on; what takes longer than a moment shows a bar on a terminal."""
    began, bar = time.monotonic(), Progress(transient=True)
    task = bar.add_task("checking the data set", total=total)
    shown = False
    try:
        for done, item in enumerate(items, start=1):
            if not shown and bar.console.is_terminal and time.monotonic() - began > PATIENCE:
                bar.start()
                shown = True
            bar.update(task, completed=done)
            yield item
    finally:
        if shown:
            bar.stop()
