"""The ISBI 2012 challenge's scores of a membrane map: V_rand, V_info, pixel and Rand error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import entr

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.metrics.base import Metric, ScoredImage, divide, name_entries
from segkit.metrics.overlaps import Overlaps, check_ids, count_overlaps, sum_squares

THRESHOLDS = (*(step / 10 for step in range(10)), math.nextafter(1.0, 0.0))
"""The thresholds of the challenge: 0, 0.1, ..., 1. Pixels above it are inside cells. The last
one is just below 1, as the steps in the challenge's script add up to that."""

MEMBRANE_COUNTS = (
    *("slices", "v_rand", "v_info"),
    *("rand_together", "rand_reference", "rand_predicted"),
    *("tp", "fp", "fn"),
)
"""The names of the C entries of :func:`count_membranes` for each threshold."""


def count_membranes(truth: NDArray[Any], probability: NDArray[Any]) -> NDArray[np.float64]:
    """Count what the scores of borders need from one image (a slice of a stack), per threshold.

    The predicted objects are the regions above the threshold, connected by edges, not by corners.
    For V_rand and V_info they then grow (a watershed) until lines of one pixel are left between
    them, so that the width of borders does not matter. Each pixel in none of them is an object of
    its own; if nothing is inside, that is every pixel. Ignored pixels can connect regions, but are
    not counted.

    Args:
        truth: (H, W) ids of the true cells, any integer dtype; 0 is the membrane between them, and
            255 does not count.
        probability: (H, W) probability of being inside a cell (1 - that of membrane), 0 ... 1.

    Returns:
        (T, C) float64, in the order of ``THRESHOLDS`` and ``MEMBRANE_COUNTS``.
    """
    check_ids("the truth", truth)
    _check_probability(truth, probability)
    probability = probability.astype(np.float64)  # in a lower precision the last threshold is 1
    valid = truth != IGNORE_INDEX
    cells = (truth != 0) & valid
    rows = []
    for threshold in THRESHOLDS:
        inside = probability > threshold
        tp, fp, fn = inside & cells, inside & valid & ~cells, ~inside & cells
        rows.append([*_count_regions(truth, inside), tp.sum(), fp.sum(), fn.sum()])
    return np.array(rows, np.float64)


def score_membranes(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The scores of summed :func:`count_membranes`, as the challenge defines them.

    Each score is its own best one over the thresholds:

    - ``v_rand``, ``v_info``: the final measures, from thinned borders and the pixels of true cells
      alone (Arganda-Carreras et al. 2015). They are the means over the slices at the threshold with
      the largest mean; ``v_rand_threshold``, ``v_info_threshold`` is the first such threshold.
    - ``rand_error``, ``pixel_error``: two earlier measures, which the challenge dropped because
      they depend on the width of the borders. Both are 1 - F-score, and pool the slices:
      ``rand_error`` of pairs of pixels of true cells, without thinning; ``pixel_error`` of pixels,
      with those inside the cells as the positives::

          pixel_error = 1 - 2 tp / (2 tp + fp + fn)

    If no slice has a true cell, no score has a value (NaN). A slice without one is left out of the
    means.

    Args:
        counts: (..., T, C): the sums over slices, or many such sums at once, as in a bootstrap.

    Returns:
        Each score, (...), float64; for one sum of counts an array without axes.
    """
    sums = name_entries(MEMBRANE_COUNTS, counts)
    scores = {}
    for name in ("v_rand", "v_info"):
        means = divide(sums[name], sums["slices"])  # (..., T)
        scores[name] = means.max(axis=-1)
        threshold = np.asarray(THRESHOLDS)[means.argmax(axis=-1)]
        scores[f"{name}_threshold"] = np.where(np.isnan(scores[name]), np.nan, threshold)
    rand = divide(2 * sums["rand_together"], sums["rand_reference"] + sums["rand_predicted"])
    true = sums["tp"] + sums["fn"]
    pixel = np.where(true > 0, divide(2 * sums["tp"], true + sums["tp"] + sums["fp"]), np.nan)
    return scores | {"rand_error": 1 - rand.max(axis=-1), "pixel_error": 1 - pixel.max(axis=-1)}


class MembraneMetric(Metric, name="membranes"):
    """V_rand, V_info, pixel and Rand error of cells and the membranes between them.

    The probability of the last class is that of being inside a cell.
    """

    needs_ids = True
    needs_labels = True

    def __init__(self, mode: Mode, num_classes: int) -> None:
        if mode == "multilabel" or num_classes != 2:
            raise SegkitError(
                "metrics=[membranes] scores cells against the membranes between them and needs two"
                f" classes, not {num_classes} of mode {mode}: leave it out, or use head=binary, or"
                " head=multiclass with two classes."
            )
        super().__init__(mode, num_classes)

    def count(self, image: ScoredImage) -> NDArray[np.float64]:
        """:func:`count_membranes`, (T, C)."""
        assert image.ids is not None
        return count_membranes(image.ids, image.probabilities[-1])

    def score(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """:func:`score_membranes`."""
        return score_membranes(sums)


def count_v_rand(objects: Overlaps) -> tuple[int, int, int]:
    """Sum the squared sizes that V_rand is made of (Arganda-Carreras et al. 2015).

    Of the pixels that lie in reference objects, with s_i of them in the predicted object i, t_j in
    the reference object j and p_ij in both::

        V_rand = sum p_ij^2 / (0.5 sum s_i^2 + 0.5 sum t_j^2)

    Unlike in the adapted Rand error of :mod:`segkit.metrics.instances`, each pixel of the predicted
    background counts as one object.

    Returns:
        sum p_ij^2, sum t_j^2 and sum s_i^2.
    """
    single = int(objects.missed.sum())
    return (
        sum_squares(objects.shared) + single,
        sum_squares(objects.reference_areas),
        sum_squares(objects.inside) + single,
    )


def compute_v_info(objects: Overlaps) -> float:
    """V_info (Arganda-Carreras et al. 2015), of the same clusterings as V_rand.

    With the mutual information I and the entropies H of the prediction S and the reference T::

        V_info = I(S; T) / (0.5 H(S) + 0.5 H(T))

    It is 1 where both are one single object, and has no value (NaN) without reference pixels.
    """
    pixels = int(objects.reference_areas.sum())
    if pixels == 0:
        return float("nan")
    single = objects.missed.sum() * np.log(pixels) / pixels
    # terms of 0 are 0, not NaN
    reference = entr(objects.reference_areas / pixels).sum()
    predicted = entr(objects.inside / pixels).sum() + single
    joint = entr(objects.shared / pixels).sum() + single
    if reference + predicted == 0:
        return 1.0
    return float(max(0.0, 2 * (reference + predicted - joint) / (reference + predicted)))


def _count_regions(truth: NDArray[Any], inside: NDArray[np.bool_]) -> list[float]:
    """Count the slice, V_rand and V_info of thinned borders, and the pairs of the Rand error."""
    from skimage.segmentation import watershed  # slow to import, and few score membranes

    regions = ndimage.label(inside)[0]
    thinned = watershed(~inside, regions, connectivity=1, watershed_line=True)
    objects = count_overlaps(truth, thinned)
    pairs = count_v_rand(count_overlaps(truth, regions))
    together, reference, predicted = count_v_rand(objects)
    if not reference:
        return [0, 0, 0, *pairs]
    return [1, 2 * together / (reference + predicted), compute_v_info(objects), *pairs]


def _check_probability(truth: NDArray[Any], probability: NDArray[Any]) -> None:
    if truth.shape != probability.shape:
        raise SegkitError(
            f"the truth has the shape {truth.shape} and the map of probabilities"
            f" {probability.shape}: give one (H, W) map of the same image."
        )
    if not np.issubdtype(probability.dtype, np.floating):
        raise SegkitError(f"the map of probabilities is {probability.dtype}: give floats, 0 to 1.")
    low, high = (probability.min(), probability.max()) if probability.size else (0, 0)
    if not (low >= 0 and high <= 1):  # also if one is NaN
        raise SegkitError(
            f"the map of probabilities runs from {low} to {high}: give floats from 0 to 1, the"
            " probability of being inside a cell, not logits."
        )
