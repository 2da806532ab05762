"""Arithmetic of counts that are summed over images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError

Sums = Mapping[str, NDArray[np.float64]]
"""Sums over images by name, each of the same shape (...): one set of sums, or many at once."""


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


def divide(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole, and NaN (no value) where the whole is 0."""
    nothing = np.full(np.shape(whole), np.nan)
    return np.divide(part, whole, out=nothing, where=np.asarray(whole) != 0)


def average_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last axis, leaving out NaN; NaN if nothing is left."""
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0).sum(-1), defined.sum(-1))
