"""The ISBI 2012 challenge's scores of a membrane map: V_rand, V_info, pixel and Rand error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX
from segkit.metrics.counts import SummedCounts, named, ratio
from segkit.metrics.overlaps import check_ids, overlaps
from segkit.metrics.rand import v_info, v_rand_counts

THRESHOLDS = (*(step / 10 for step in range(10)), math.nextafter(1.0, 0.0))
"""The thresholds of the challenge: 0, 0.1, ..., 1. A pixel is inside above one of them; at the last
one so is a pixel of exactly 1, as the steps of the challenge's script add up to a little less."""

BORDER_COUNTS = (
    *("slices", "v_rand", "v_info"),
    *("rand_together", "rand_reference", "rand_predicted"),
    *("tp", "fp", "fn"),
)
"""The names of the C entries that :func:`border_counts` has for each threshold."""


def border_counts(
    truth: NDArray[Any], probability: NDArray[Any], ignore_index: int | None = IGNORE_INDEX
) -> NDArray[np.float64]:
    """Count what the scores of borders need of one image (a slice of a stack), per threshold.

    Above each threshold the regions that are connected by edges, not by corners, are the predicted
    objects. For V_rand and V_info they then grow until only lines of one pixel are left between
    them (a watershed), so that the width of the borders does not matter. Each pixel that is in none
    of them is an object of its own; where nothing is inside, that is every pixel. Ignored pixels
    can connect regions, but are not counted.

    Args:
        truth: (H, W) ids of the true cells, of any integer dtype; 0 is the membrane between them.
        probability: (H, W) probability of being inside a cell (1 - that of membrane), 0 ... 1.
        ignore_index: The id of the truth's pixels that do not count; None: all count.

    Returns:
        (T, C) float64, in the order of ``THRESHOLDS`` and ``BORDER_COUNTS``.

    Raises:
        SegkitError: The truth is no map of ids, the sizes differ, or the probabilities are none.
    """
    check_ids("the truth", truth)
    _check_probability(truth, probability)
    probability = probability.astype(np.float64)  # below it the last threshold would be 1
    cells = truth != 0
    valid = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    rows: list[list[float]] = []
    before = -1
    for threshold in THRESHOLDS:
        inside = probability > threshold
        size = int(inside.sum())
        if size != before:  # less and less is inside: as many pixels are the same pixels
            rows.append(_counts(truth, inside, cells & valid, ~cells & valid, ignore_index))
            before = size
        else:
            rows.append(rows[-1])
    return np.array(rows, np.float64)


def border_scores(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The scores of summed :func:`border_counts`, as the challenge has them.

    Each score is the best one over the thresholds, found for itself:

    - ``v_rand``, ``v_info``: the final measures, of thinned borders and of the pixels of true cells
      alone (Arganda-Carreras et al. 2015). They are the means over the slices at the threshold at
      which the mean is largest, and ``v_rand_threshold``, ``v_info_threshold`` is the first such.
    - ``rand_error``, ``pixel_error``: two of the first measures, which the challenge dropped since
      they depend on the width of the borders. Both are 1 - F-score, and pool the slices:
      ``rand_error`` of pairs of pixels of true cells, without thinning; ``pixel_error`` of pixels,
      with those inside the cells as the positives::

          pixel_error = 1 - 2 tp / (2 tp + fp + fn)

    Where no slice has a true cell none of them has a value (NaN). A slice without one is left out
    of the means.

    Args:
        counts: (..., T, C): the sums over slices, or many such sums at once, as a bootstrap draws.

    Returns:
        Each score, (...), float64: of one sum of counts, an array without axes.

    Raises:
        SegkitError: The last axes are not T and C long.
    """
    sums = named(BORDER_COUNTS, counts)
    if sums["slices"].shape[-1:] != (len(THRESHOLDS),):
        raise SegkitError(
            f"counts of the shape {np.shape(counts)} were given; there are {len(THRESHOLDS)}"
            f" thresholds with {len(BORDER_COUNTS)} counts each: give sums of border_counts()."
        )
    scores = {}
    for name in ("v_rand", "v_info"):
        means = ratio(sums[name], sums["slices"])  # (..., T)
        scores[name] = means.max(axis=-1)
        threshold = np.asarray(THRESHOLDS)[means.argmax(axis=-1)]
        scores[f"{name}_threshold"] = np.where(np.isnan(scores[name]), np.nan, threshold)
    rand = ratio(2 * sums["rand_together"], sums["rand_reference"] + sums["rand_predicted"])
    true = sums["tp"] + sums["fn"]
    pixel = np.where(true > 0, ratio(2 * sums["tp"], true + sums["tp"] + sums["fp"]), np.nan)
    return {
        **scores,
        "rand_error": 1 - rand.max(axis=-1),
        "pixel_error": 1 - pixel.max(axis=-1),
    }


class BorderScores(SummedCounts):
    """The scores of borders over all slices and processes.

    ``update`` takes what :func:`border_counts` gives, ``compute`` gives :func:`border_scores`.
    """

    def __init__(self) -> None:
        super().__init__(len(THRESHOLDS), len(BORDER_COUNTS))

    def score(self, total: NDArray[np.float64]) -> dict[str, Any]:
        """:func:`border_scores` of the sums."""
        return border_scores(total)


def _counts(
    truth: NDArray[Any],
    inside: NDArray[np.bool_],
    cells: NDArray[np.bool_],
    membrane: NDArray[np.bool_],
    ignore_index: int | None,
) -> list[float]:
    """The counts at one threshold."""
    from skimage.segmentation import watershed  # takes its time, and few score borders

    regions = ndimage.label(inside)[0]
    thinned = watershed(~inside, regions, connectivity=1, watershed_line=True)
    objects = overlaps(truth, thinned, ignore_index)
    together, reference, predicted = v_rand_counts(objects)
    some = reference > 0
    tp, fp = int((inside & cells).sum()), int((inside & membrane).sum())
    return [
        some,
        2 * together / (reference + predicted) if some else 0,
        v_info(objects) if some else 0,
        *v_rand_counts(overlaps(truth, regions, ignore_index)),
        *(tp, fp, int(cells.sum()) - tp),
    ]


def _check_probability(truth: NDArray[Any], probability: NDArray[Any]) -> None:
    if truth.shape != probability.shape:
        raise SegkitError(
            f"the truth has the shape {truth.shape} and the map of probabilities"
            f" {probability.shape}: give one (H, W) map for the same image."
        )
    if not np.issubdtype(probability.dtype, np.floating):
        raise SegkitError(
            f"the map of probabilities is {probability.dtype}: give floats from 0 to 1, the"
            " probability of being inside a cell."
        )
    low, high = (probability.min(), probability.max()) if probability.size else (0, 0)
    if not (low >= 0 and high <= 1):  # also where one is NaN
        raise SegkitError(
            f"the map of probabilities runs from {low} to {high}: give floats from 0 to 1, the"
            " probability of being inside a cell, not logits."
        )
