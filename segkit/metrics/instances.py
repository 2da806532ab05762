"""The scores of objects: what is counted of one image, and the scores of summed counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.metrics.counts import SummedCounts, named
from segkit.metrics.matching import PERCENTS, matching_counts, matching_scores
from segkit.metrics.overlaps import check_ids, overlaps
from segkit.metrics.rand import rand_counts, rand_scores
from segkit.metrics.tracking_challenge import tracking_counts, tracking_scores

OBJECT_COUNTS = (
    "images",
    *("references", "seg_iou", "markers", "det_splits", "det_missed", "det_spurious"),
    *("predictions", *(f"{kind}{percent}" for percent in PERCENTS for kind in ("tp", "fp"))),
    *("iou", "aji_shared", "aji_union"),
    *("rand_together", "rand_reference", "rand_predicted"),
)
"""The names of the K entries of :func:`object_counts`."""


def object_counts(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    markers: NDArray[Any] | None = None,
    ignore_index: int | None = None,
) -> NDArray[np.float64]:
    """Count what the scores of objects need of one image.

    The counts of images are added, weighted or not, and :func:`instance_scores` scores the sums.

    Pixels that the truth ignores are left out of everything. A predicted object of which more than
    half lies there is no false positive; the others are cut to the pixels that count.

    Args:
        truth: (H, W) ids of the reference, of any integer dtype: 0 is background, every other value
            an object.
        predicted: (H, W) ids of the prediction. Here ``ignore_index`` is an id like any other.
        markers: (H, W) ids of the reference markers for DET, where they are not the truth; they
            mark all objects, also those that the truth does not outline. SEG and DET are then the
            challenge's own, which knows no ignored pixels: SEG compares with whole predicted
            objects, DET with all markers, and only a predicted object without a marker may lie in
            ignored pixels for nothing.
        ignore_index: The id of the truth's pixels that do not count; None: all count. Files may
            have an object 255, so that it must be asked for.

    Returns:
        (K,) float64, in the order of ``OBJECT_COUNTS``.

    Raises:
        SegkitError: The maps are no (H, W) integers >= 0, or differ in size.
    """
    objects = overlaps(truth, predicted, ignore_index)
    outlined = marked = objects
    if markers is not None:
        check_ids("the map of markers", markers)
        if markers.shape != truth.shape:
            raise SegkitError(
                f"the map of markers has the shape {markers.shape} and the truth {truth.shape}:"
                " give the markers of the same image."
            )
        marked = replace(overlaps(markers, predicted, None), spared=objects.spared)
        whole = truth if ignore_index is None else np.where(truth == ignore_index, 0, truth)
        outlined = overlaps(whole, predicted, None)
    counts = {
        "images": 1,
        **tracking_counts(outlined, marked),
        **matching_counts(objects),
        **rand_counts(objects),
    }
    return np.array([counts[name] for name in OBJECT_COUNTS], np.float64)


def instance_scores(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The scores of summed :func:`object_counts`.

    ========================= ======================================================================
    ``seg`` ``det``           Cell Tracking Challenge, see :func:`~.tracking_scores`
    ``ap`` ``ap50`` ``ap75``  average precision, see :func:`~.matching_scores`
    ``pq`` ``sq`` ``rq``      panoptic quality, see :func:`~.matching_scores`
    ``aji``                   aggregated Jaccard index, see :func:`~.matching_scores`
    ``arand``                 adapted Rand error (0 is best), see :func:`~.rand_scores`
    ``objects``               the number of reference objects
    ``predicted_objects``     the number of predicted objects, those mostly in ignored pixels aside
    ========================= ======================================================================

    All pool the objects of the images, so that an image weighs as much as it has objects. The score
    of a single image is that of its own counts.

    A score that has no value is NaN. Without reference objects and without predictions none of them
    has one. Predictions without any reference object give AP, PQ, RQ and AJI of 0, and no value of
    SEG, DET, SQ and arand. References without any prediction give 0, an arand of their own, and no
    value of SQ.

    Args:
        counts: (..., K): the sums over images, or many such sums at once, as a bootstrap draws.

    Returns:
        Each score, (...), float64: of one vector of counts, an array without axes.

    Raises:
        SegkitError: The last axis is not K long.

    Example:
        >>> truth, predicted = np.array([[1, 1, 0], [2, 2, 2]]), np.array([[5, 5, 5], [6, 6, 0]])
        >>> counts = object_counts(truth, predicted)
        >>> {name: round(float(value), 2) for name, value in instance_scores(counts).items()}
        ... # doctest: +ELLIPSIS
        {'seg': 0.67, 'det': 1.0, 'ap': 0.4, 'ap50': 1.0, 'ap75': 0.0, 'pq': 0.67, ...}
    """
    sums = named(OBJECT_COUNTS, counts)
    return {
        **tracking_scores(sums),
        **matching_scores(sums),
        **rand_scores(sums),
        "objects": sums["references"],
        "predicted_objects": sums["predictions"],
    }


class InstanceScores(SummedCounts):
    """The scores of objects over all images and processes.

    ``update`` takes what :func:`object_counts` gives, ``compute`` gives :func:`instance_scores`.

    Example:
        >>> metric = InstanceScores()
        >>> metric.update(object_counts(np.array([[0, 1, 1]]), np.array([[1, 1, 1]])))
        >>> round(metric.compute()["seg"], 3)
        0.667
    """

    def __init__(self) -> None:
        super().__init__(len(OBJECT_COUNTS))

    def score(self, total: NDArray[np.float64]) -> dict[str, Any]:
        """:func:`instance_scores` of the sums."""
        return instance_scores(total)
