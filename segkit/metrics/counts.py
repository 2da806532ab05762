"""Counts that add up over images and processes: an accumulator, and ratios of the sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from segkit.core.errors import SegkitError

Sums = Mapping[str, NDArray[np.float64]]
"""Sums over images by name, each of the same shape (...): one set of sums, or many at once."""

_FRACTIONS = 2**40


class SummedCounts(Metric, ABC):
    """Base of metrics that add counts over images and processes, and score the sums.

    The sums do not depend on the order of the images or the number of processes: fractions are kept
    in whole steps of 2^-40. So the state is int64, which every device supports.

    Args:
        shape: The shape of the counts of one image.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape
        # whole numbers, and fractions in steps of 2^-40: (2, *shape)
        self.add_state("sums", torch.zeros((2, *shape), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, counts: NDArray[np.float64]) -> None:
        """Add the counts of one image, in this metric's shape, or of B images, (B, ...).

        Raises:
            SegkitError: The shape differs.
        """
        counts = np.asarray(counts, np.float64)
        if counts.shape[-len(self.shape) :] != self.shape or counts.ndim > len(self.shape) + 1:
            raise SegkitError(
                f"{type(self).__name__} takes counts of the shape {self.shape} or"
                f" (B, {', '.join(map(str, self.shape))}), not {counts.shape}."
            )
        whole = np.floor(counts)
        parts = np.stack([whole, np.rint((counts - whole) * _FRACTIONS)]).astype(np.int64)
        if counts.ndim > len(self.shape):
            parts = parts.sum(axis=1)
        # not in place, which torch forbids after a reset in inference mode
        self.sums = self.sums + torch.from_numpy(parts).to(self.sums.device)

    @property
    def total(self) -> NDArray[np.float64]:
        """The sums so far, of this process or, within :meth:`compute`, of all."""
        whole, fractions = self.sums.cpu().numpy().astype(np.float64)
        return np.asarray(whole + fractions / _FRACTIONS)

    def compute(self) -> dict[str, float]:
        """The scores of the sums; NaN where one has no value."""
        return {name: float(value) for name, value in self.score(self.total).items()}

    @abstractmethod
    def score(self, total: NDArray[np.float64]) -> dict[str, Any]:
        """The scores of summed counts, of this metric's shape."""


def name_entries(names: tuple[str, ...], counts: NDArray[np.float64]) -> Sums:
    """Split counts (..., K) along the last axis into K entries (...) by name.

    Raises:
        SegkitError: The last axis does not have K entries.
    """
    counts = np.asarray(counts, np.float64)
    if counts.ndim == 0 or counts.shape[-1] != len(names):
        raise SegkitError(
            f"the counts have the shape {counts.shape}, but their last axis needs {len(names)}"
            " entries: give sums of what the counting function returned."
        )
    return dict(zip(names, np.moveaxis(counts, -1, 0), strict=True))


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole, and NaN (no value) where the whole is 0."""
    nothing = np.full(np.shape(whole), np.nan)
    return np.divide(part, whole, out=nothing, where=np.asarray(whole) != 0)


def mean_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last axis, leaving out NaN; NaN if nothing is left."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(-1), defined.sum(-1))
