"""Scores of objects: tracking challenge, average precision, panoptic quality, AJI, Rand error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric as Accumulator

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX
from segkit.metrics.base import Metric, ScoredImage, Sums, divide, name_entries
from segkit.metrics.overlaps import Overlaps, check_ids, count_overlaps, sum_squares

PERCENTS = tuple(range(50, 100, 5))
"""The thresholds of the IoU, in per cent: 50, 55, ..., 95."""

SPLIT, MISSED, SPURIOUS = 5, 10, 1
"""Weights of DET: a needed split, a false negative, a false positive (Matula et al. 2015)."""

OBJECT_COUNTS = (
    "images",
    *("references", "seg_iou", "markers", "det_splits", "det_missed", "det_spurious"),
    *("predictions", *(f"{kind}{percent}" for percent in PERCENTS for kind in ("tp", "fp"))),
    *("iou", "aji_shared", "aji_union"),
    *("rand_together", "rand_reference", "rand_predicted"),
)
"""The names of the K entries of :func:`count_objects`."""

_FRACTIONS = 2**40


class InstanceScores(Accumulator):
    """The scores of objects over all images and processes.

    The sums depend neither on the order of the images nor on the number of processes: fractions are
    kept in whole steps of 2^-40. So the state is int64, which every device supports.

    Example:
        >>> metric = InstanceScores()
        >>> metric.update(count_objects(np.array([[0, 1, 1]]), np.array([[1, 1, 1]])))
        >>> round(metric.compute()["seg"], 3)
        0.667
    """

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        # whole numbers, and fractions in steps of 2^-40
        zeros = torch.zeros((2, len(OBJECT_COUNTS)), dtype=torch.int64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")

    def update(self, counts: NDArray[np.float64]) -> None:
        """Add the :func:`count_objects` of one image, (K,), or of many, (B, K)."""
        whole = np.floor(counts)
        parts = np.stack([whole, np.rint((counts - whole) * _FRACTIONS)]).astype(np.int64)
        parts = parts.reshape(2, -1, len(OBJECT_COUNTS)).sum(axis=1)
        # not in place, which torch forbids after a reset in inference mode
        self.sums = self.sums + torch.from_numpy(parts).to(self.sums.device)

    def compute(self) -> dict[str, float]:
        """:func:`score_objects` of the sums; NaN where a score has no value."""
        whole, fractions = self.sums.cpu().numpy().astype(np.float64)
        scores = score_objects(whole + fractions / _FRACTIONS)
        return {name: float(value) for name, value in scores.items()}


def count_objects(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    markers: NDArray[Any] | None = None,
    ignore_index: int | None = None,
) -> NDArray[np.float64]:
    """Count what the scores of objects need from one image.

    Add the counts of images, weighted or not, and pass the sums to :func:`score_objects`.

    Pixels that the truth ignores are left out everywhere. A predicted object with more than half of
    its pixels there is no false positive; others are cut to the pixels that count.

    Args:
        truth: (H, W) ids of the reference, any integer dtype: 0 is background, every other value an
            object.
        predicted: (H, W) ids of the prediction, in which ``ignore_index`` is an ordinary id.
        markers: (H, W) ids of the reference markers for DET, if they are not the truth; they mark
            all objects, including those without an outline in the truth. SEG and DET are then
            exactly those of the challenge, which knows no ignored pixels: SEG compares with whole
            predicted objects, DET with all markers, and only a predicted object without a marker
            may lie in ignored pixels at no cost.
        ignore_index: The id of pixels in the truth that do not count. None (all count) is the
            default, as files may contain an object 255.

    Returns:
        (K,) float64, in the order of ``OBJECT_COUNTS``.
    """
    objects = count_overlaps(truth, predicted, ignore_index)
    outlined = marked = objects
    if markers is not None:
        check_ids("the map of markers", markers)
        if markers.shape != truth.shape:
            raise SegkitError(
                f"the map of markers has the shape {markers.shape} and the truth {truth.shape}:"
                " give the markers of the same image."
            )
        marked = replace(count_overlaps(markers, predicted, None), spared=objects.spared)
        whole = truth if ignore_index is None else np.where(truth == ignore_index, 0, truth)
        outlined = count_overlaps(whole, predicted, None)
    counts = {
        "images": 1,
        **_count_tracking(outlined, marked),
        **_count_matches(objects),
        **_count_rand_pairs(objects),
    }
    return np.array([counts[name] for name in OBJECT_COUNTS], np.float64)


def score_objects(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The scores of summed :func:`count_objects`.

    All scores pool the objects of the images, so that an image weighs as much as it has objects; a
    score of one image is that of its own counts. R is a reference object, S a predicted one.

    ``seg``, of the Cell Tracking Challenge (Maska et al. 2014): S matches R if it covers more than
    half of R (exactly half is not enough), so R has one match at most::

        |R and S| > 0.5 |R|        seg = mean over all R of |R and S| / |R or S|, or 0 without S

    ``det`` (Matula et al. 2015): the same matching, with the markers as R. AOGM-D is the cost of
    correcting the prediction, AOGM-D0 that of adding every marker to an empty one::

        AOGM-D = 5 splits + 10 missed + 1 spurious        AOGM-D0 = 10 markers
        det = 1 - min(AOGM-D, AOGM-D0) / AOGM-D0

    An S that matches n > 1 markers needs n - 1 splits; a marker without a match is missed; an S
    without a marker is spurious.

    ``ap``: R and S match at the threshold t if IoU > t; as t >= 0.5, each has one match at most
    (Kirillov et al. 2019)::

        AP_t = TP / (TP + FP + FN)        ap = mean of AP_t over t = 0.50, 0.55, ..., 0.95

    This is the AP of the 2018 Data Science Bowl (which averages the APs of single images) and of
    StarDist (which also accepts IoU = t), not that of COCO: predictions have no confidence here, so
    there is no ranking and no area under a curve. ``ap50`` and ``ap75`` are AP_t at 0.50 and 0.75.

    ``pq`` ``sq`` ``rq``, panoptic quality (Kirillov et al. 2019), from the matches at 0.5::

        sq = mean IoU of the matches        rq = TP / (TP + FP / 2 + FN / 2)        pq = sq rq

    ``aji``, the aggregated Jaccard index (Kumar et al. 2017), takes for each R the S with the
    largest IoU, however small, and may take an S more than once; among equals the larger overlap
    wins, then the S that comes first in the image::

        aji = sum |R and S| / (sum |R or S| + pixels of R without any S + pixels of the S not taken)

    ``arand``, the adapted Rand error (0 is best), of the pairs of pixels of an image that lie in
    reference objects (Arganda-Carreras et al. 2015; scikit-image's ``adapted_rand_error``)::

        precision = pairs in one object in both / pairs in one predicted object
        recall    = pairs in one object in both / pairs in one reference object
        arand     = 1 - 2 precision recall / (precision + recall)

    The predicted background counts as one object, which weighs heavily where it reaches into many
    reference objects.

    ``objects`` and ``predicted_objects`` are numbers of objects, the latter without those that lie
    mostly in ignored pixels.

    A score without a value is NaN. Without reference objects and predictions that is all of them.
    Predictions without reference objects give ap, pq, rq and aji of 0; seg, det, sq and arand have
    no value. Reference objects without predictions give 0, their arand, and no value of sq.

    Args:
        counts: (..., K): the sums over images, or many such sums at once, as in a bootstrap.

    Returns:
        Each score, (...), float64; for one vector of counts an array without axes.

    Example:
        >>> truth, predicted = np.array([[1, 1, 0], [2, 2, 2]]), np.array([[5, 5, 5], [6, 6, 0]])
        >>> counts = count_objects(truth, predicted)
        >>> {name: round(float(value), 2) for name, value in score_objects(counts).items()}
        ... # doctest: +ELLIPSIS
        {'seg': 0.67, 'det': 1.0, 'ap': 0.4, 'ap50': 1.0, 'ap75': 0.0, 'pq': 0.67, ...}
    """
    sums = name_entries(OBJECT_COUNTS, counts)
    aogm = sum(
        cost * sums[f"det_{error}"]
        for error, cost in (("splits", SPLIT), ("missed", MISSED), ("spurious", SPURIOUS))
    )
    aogm_0 = MISSED * sums["markers"]
    return {
        "seg": divide(sums["seg_iou"], sums["references"]),
        "det": 1 - divide(np.minimum(aogm, aogm_0), aogm_0),
        **_score_matches(sums),
        "aji": divide(sums["aji_shared"], sums["aji_union"]),
        "arand": 1
        - divide(2 * sums["rand_together"], sums["rand_reference"] + sums["rand_predicted"]),
        "objects": sums["references"],
        "predicted_objects": sums["predictions"],
    }


class ObjectMetric(Metric, name="objects"):
    """The scores of separate objects; see :func:`score_objects`."""

    needs_ids = True
    totals = ("objects", "predicted_objects")

    def count(self, image: ScoredImage) -> NDArray[np.float64]:
        """:func:`count_objects`, (K,)."""
        if image.ids is None or image.instances is None:
            raise SegkitError(
                "metrics=[objects] needs separate objects: give instances=components, or another"
                " way to tell them apart."
            )
        return count_objects(image.ids, image.instances, image.markers, IGNORE_INDEX)

    def score(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """:func:`score_objects`."""
        return score_objects(sums)


def _count_tracking(objects: Overlaps, markers: Overlaps) -> dict[str, float]:
    """For SEG, from reference masks, and DET, from markers: those of cells without outlines too."""

    def covered(found: Overlaps) -> NDArray[np.bool_]:
        return np.asarray(2 * found.shared > found.reference_areas[found.reference])

    matches = np.bincount(markers.predicted[covered(markers)], minlength=markers.spared.size)
    return {
        "references": objects.reference_areas.size,
        "seg_iou": float(objects.iou[covered(objects)].sum()),
        "markers": markers.reference_areas.size,
        "det_splits": int(np.maximum(matches - 1, 0).sum()),
        "det_missed": markers.reference_areas.size - int(matches.sum()),
        "det_spurious": int(((matches == 0) & ~markers.spared).sum()),
    }


def _count_matches(objects: Overlaps) -> dict[str, float]:
    """For AP, PQ and AJI."""
    counts: dict[str, float] = {"predictions": int((~objects.spared).sum())}
    # in integers, which makes equality exact
    matches = 100 * objects.shared > np.asarray(PERCENTS)[:, None] * objects.union  # (T, pairs)
    spared = objects.spared[objects.predicted]
    for percent, match in zip(PERCENTS, matches, strict=True):
        counts[f"tp{percent}"] = int(match.sum())
        counts[f"fp{percent}"] = counts["predictions"] - int((match & ~spared).sum())
    # AJI: the best pair of each reference comes first among its pairs
    order = np.lexsort((objects.predicted, -objects.shared, -objects.iou, objects.reference))
    best = order[np.unique(objects.reference[order], return_index=True)[1]]
    taken = objects.spared.copy()
    taken[objects.predicted[best]] = True
    alone = np.ones(objects.reference_areas.size, bool)
    alone[objects.reference] = False
    union = (
        objects.union[best].sum()
        + objects.reference_areas[alone].sum()
        + objects.predicted_areas[~taken].sum()
    )
    return {
        **counts,
        "iou": float(objects.iou[matches[0]].sum()),
        "aji_shared": int(objects.shared[best].sum()),
        "aji_union": int(union),
    }


def _score_matches(sums: Sums) -> dict[str, NDArray[np.float64]]:
    tp = np.stack([sums[f"tp{percent}"] for percent in PERCENTS])
    fp = np.stack([sums[f"fp{percent}"] for percent in PERCENTS])
    ap = divide(tp, sums["references"] + fp)  # TP + FN are the references
    rq = divide(2 * tp[0], sums["references"] + tp[0] + fp[0])
    sq = divide(sums["iou"], tp[0])
    return {
        "ap": ap.mean(axis=0),
        "ap50": ap[PERCENTS.index(50)],
        "ap75": ap[PERCENTS.index(75)],
        "pq": np.where(tp[0] > 0, sq * rq, rq),
        "sq": sq,
        "rq": rq,
    }


def _count_rand_pairs(objects: Overlaps) -> dict[str, float]:
    """For the adapted Rand error: twice the numbers of pairs of pixels."""
    pixels = int(objects.reference_areas.sum())
    missed = objects.missed
    predicted = sum_squares(objects.inside) + int(missed.sum()) ** 2
    return {
        "rand_together": sum_squares(objects.shared) + sum_squares(missed) - pixels,
        "rand_reference": sum_squares(objects.reference_areas) - pixels,
        "rand_predicted": predicted - pixels,
    }
