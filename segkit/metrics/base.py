"""The family of metrics, which score whole images, and arithmetic of counts that are summed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.labels import MODES, Mode
from segkit.core.registry import Registrable

Sums = Mapping[str, NDArray[np.float64]]
"""Sums over images by name, each of the same shape (...): one set of sums, or many at once."""


@dataclass(frozen=True)
class ScoredImage:
    """The truth and the prediction of one image.

    Attributes:
        target: True labels (H, W), or (N, H, W) for overlapping classes; 255 does not count.
        labels: Predicted labels of the same shape.
        probabilities: (C, H, W) float32.
        ids: True object ids (H, W), 0 the background and 255 unlabelled; None if not requested.
        markers: Ids of the true markers (H, W), if the data source has its own.
        instances: Predicted object ids (H, W), if objects are separated.
        pixel_size: Height and width of a pixel in micrometres, if requested.
    """

    target: NDArray[Any]
    labels: NDArray[Any]
    probabilities: NDArray[np.float32]
    ids: NDArray[Any] | None = None
    markers: NDArray[Any] | None = None
    instances: NDArray[np.int32] | None = None
    pixel_size: tuple[float, float] | None = None


class Metric(Registrable, ABC, family="metric"):
    """Counts of one image that add up over images, and the scores of their sums.

    Scores are computed from sums, so that an image counts as much as it contains, and bootstrap
    intervals need no second look at the images.

    Args:
        mode: The mode of the head.
        num_classes: Number of classes, background included.
    """

    needs_ids: ClassVar[bool] = False
    """Whether :attr:`ScoredImage.ids` is needed."""
    needs_labels: ClassVar[bool] = False
    """Whether it scores the classes of the masks, so that it only fits ``target=labels``."""
    totals: ClassVar[tuple[str, ...]] = ()
    """Names of scores that are plain counts; they are reported without an interval."""
    needs_pixel_size: bool = False
    """Whether :attr:`ScoredImage.pixel_size` is needed. Not a ClassVar: an option may decide it."""

    def __init__(self, mode: Mode, num_classes: int) -> None:
        self.mode, self.num_classes = mode, num_classes

    @abstractmethod
    def count(self, image: ScoredImage) -> NDArray[np.float64]:
        """Count one image: an array whose shape is the same for every image."""

    @abstractmethod
    def score(self, sums: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64]]:
        """The scores of sums of counts (..., K): arrays (...) by name, NaN if undefined."""

    def score_classes(self, sums: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64]]:
        """The scores that each class has: arrays (..., C) by name, the name of their mean.

        C is the number of classes that are reported: the foreground alone for binary, else all.
        They become columns of the table of classes. None by default.
        """
        return {}


def build_metrics(
    wanted: Iterable[str | Mapping[str, Any]], mode: Mode, num_classes: int
) -> list[Metric]:
    """Build the metrics of a config, each once: names, or mappings of a name and its options.

    Raises:
        SegkitError: A name or an option is not known.

    Example:
        >>> found = build_metrics([{"name": "surface_dice", "tolerance": 3}], "binary", 2)
        >>> found[0].tolerance
        3.0
    """
    built: dict[str, Metric] = {}
    given: dict[str, dict[str, Any]] = {}
    for entry in wanted:
        options = {"name": entry} if isinstance(entry, str) else dict(entry)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise SegkitError(
                f"{dict(options)} has no name: give one, as in"
                " metrics=[{name: surface_dice, tolerance: 3}]."
            )
        if own := sorted({"mode", "num_classes"} & options.keys()):
            raise SegkitError(
                f"metric '{name}': {' and '.join(own)} cannot be chosen: the model has its own."
            )
        if given.setdefault(name, options) != options:
            raise SegkitError(f"metric '{name}' is given twice, with different options: keep one.")
        built[name] = Metric.build(name, mode=mode, num_classes=num_classes, **options)
    return list(built.values())


def check_classes(mode: Mode, num_classes: int) -> None:
    """Raise SegkitError if the mode is unknown or cannot have that many classes."""
    if mode not in MODES:
        raise SegkitError(f"mode '{mode}' is unknown: use {', '.join(MODES)}.")
    fits, allowed = {
        "binary": (num_classes in (1, 2), "1 or 2"),
        "multiclass": (num_classes >= 2, "2 or more"),
        "multilabel": (num_classes >= 1, "1 or more"),
    }[mode]
    if not fits:
        raise SegkitError(
            f"num_classes is {num_classes}, but mode '{mode}' has {allowed}: give their number."
        )


def name_entries(names: tuple[str, ...], counts: NDArray[np.float64]) -> Sums:
    """Split counts (..., K) along the last axis into K entries (...) by name."""
    return dict(zip(names, np.moveaxis(np.asarray(counts, np.float64), -1, 0), strict=True))


def divide(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole, and NaN (no value) where the whole is 0."""
    nothing = np.full(np.shape(whole), np.nan)
    return np.divide(part, whole, out=nothing, where=np.asarray(whole) != 0)


def average_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last axis, leaving out NaN; NaN if nothing is left."""
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0).sum(-1), defined.sum(-1))
