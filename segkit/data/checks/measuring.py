"""How large the images of a set and the objects in them are, and whether they have an up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.core.labels import IGNORE_INDEX
from segkit.data.checks.classes import Classes
from segkit.data.checks.scanning import Facts

FEWEST = 8
"""Images that it takes to say whether they have an up and a down."""
CLEARLY = 0.25
"""Difference between the halves that is one, in standard deviations of an image."""


@dataclass(frozen=True)
class Measures:
    """What the images of a set measure; of the training images, or of all where there are none.

    Attributes:
        median: Median height and width, in pixels.
        largest: Largest height and width of all images of the set.
        object_diameter: Diameter in pixels of the disc of the same area as a typical object: half
            of the foreground lies in objects that are at least as large. Objects are those of the
            ids, or the connected regions of a class. None where there is no foreground.
        upright: Whether the upper halves of the images differ from the lower ones in brightness,
            as where there is a sky; None where there are too few images to say.
    """

    median: tuple[int, int]
    largest: tuple[int, int]
    object_diameter: float | None
    upright: bool | None


def measure(facts: list[Facts], classes: Classes) -> Measures:
    """Measure a set whose samples could all be read."""
    learned = [f for f in facts if f.split == "train"] or facts
    height, width = (int(np.median([f.shape[axis] for f in learned])) for axis in (0, 1))
    tall, wide = (max(f.shape[axis] for f in facts) for axis in (0, 1))
    areas = [_object_areas(f, classes) for f in learned]
    return Measures(
        (height, width),
        (tall, wide),
        _typical_diameter(np.concatenate(areas)),
        _upright(np.array([f.brighter_above for f in learned])),
    )


def _object_areas(facts: Facts, classes: Classes) -> NDArray[np.int64]:
    """Areas of the objects, in pixels; none of a sample whose regions were not looked for."""
    found = facts.areas
    if classes.coding.foreground:
        found = {value: np.array([n], np.int64) for value, n in facts.layers[0].items()}
    named = classes.names is not None and classes.names[0].lower() != "background"
    # 0 is a class like the others where it has a name and the masks have one layer
    counts = named and not classes.layered and classes.mode != "binary"
    no_object = {IGNORE_INDEX} if counts else {IGNORE_INDEX, 0}
    objects = [a for value, a in found.items() if classes.coding.label_of(value) not in no_object]
    return np.concatenate([np.zeros(0, np.int64), *objects])


def _typical_diameter(areas: NDArray[np.int64]) -> float | None:
    # Not the median of the diameters: the crumbs of a frayed mask outnumber its objects.
    if not len(areas):
        return None
    areas = np.sort(areas)
    half = np.searchsorted(np.cumsum(areas), areas.sum() / 2)
    return float(np.sqrt(4 * areas[half] / np.pi))


def _upright(brighter_above: NDArray[np.float64]) -> bool | None:
    count = len(brighter_above)
    if count < FEWEST:
        return None
    mean, error = brighter_above.mean(), brighter_above.std(ddof=1) / np.sqrt(count)
    return bool(abs(mean) > max(CLEARLY, 3 * error))
