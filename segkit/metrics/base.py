"""The family of metrics, which score whole images, and arithmetic of counts that are summed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
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
    """

    target: NDArray[Any]
    labels: NDArray[Any]
    probabilities: NDArray[np.float32]
    ids: NDArray[Any] | None = None
    markers: NDArray[Any] | None = None
    instances: NDArray[np.int32] | None = None


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

    def __init__(self, mode: Mode, num_classes: int) -> None:
        self.mode, self.num_classes = mode, num_classes

    @abstractmethod
    def count(self, image: ScoredImage) -> NDArray[np.float64]:
        """Count one image: an array whose shape is the same for every image."""

    @abstractmethod
    def score(self, sums: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64]]:
        """The scores of sums of counts (..., K): arrays (...) by name, NaN if undefined."""


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
