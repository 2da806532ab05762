"""Scores of objects that are matched by their IoU: AP, panoptic quality, aggregated Jaccard."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segkit.metrics.counts import Sums, ratio
from segkit.metrics.overlaps import Overlaps

PERCENTS = tuple(range(50, 100, 5))
"""The thresholds of the IoU, in per cent: 50, 55, ..., 95."""


def matching_counts(objects: Overlaps) -> dict[str, float]:
    """What AP, PQ and AJI need of one image."""
    counts: dict[str, float] = {"predictions": int((~objects.spared).sum())}
    unions = np.asarray(PERCENTS)[:, None] * objects.union
    # Integers, so that equality is equality.
    matches = 100 * objects.shared > unions  # (thresholds, pairs)
    spared = objects.spared[objects.predicted]
    for percent, match in zip(PERCENTS, matches, strict=True):
        counts[f"tp{percent}"] = int(match.sum())
        counts[f"fp{percent}"] = counts["predictions"] - int((match & ~spared).sum())
    shared, union = _aggregated(objects)
    return {
        **counts,
        "iou": float(objects.iou[matches[0]].sum()),
        "aji_shared": shared,
        "aji_union": union,
    }


def matching_scores(sums: Sums) -> dict[str, NDArray[np.float64]]:
    """AP, PQ and AJI from sums over images, which also hold ``references``, their objects.

    At the threshold t a reference and a predicted object match where IoU > t: as t >= 0.5, each has
    one match at most (Kirillov et al. 2019), and an overlap of exactly one half is none::

        AP_t = TP / (TP + FP + FN)        ap = mean of AP_t over t = 0.50, 0.55, ..., 0.95

    This is the AP of the 2018 Data Science Bowl and of StarDist (which also takes IoU = t). It is
    not COCO's: predictions have no confidence here, so there is no ranking and no area under a
    curve. The objects of all images are pooled; the Bowl takes the mean over the images of their
    single APs. ``ap50`` and ``ap75`` are AP_t at 0.50 and 0.75.

    Panoptic quality (Kirillov et al. 2019), over the matches at 0.5::

        sq = mean IoU of the matches        rq = TP / (TP + FP / 2 + FN / 2)        pq = sq rq

    The aggregated Jaccard index (Kumar et al. 2017) takes for each reference object R the predicted
    object S of the largest IoU, whatever it is, and may take an S more than once; of equals the one
    with the larger overlap, then the one that comes first in the image::

        aji = sum |R and S| / (sum |R or S| + pixels of R without any S + pixels of the S not taken)

    Without reference objects and predictions none of them has a value; with either but not both
    they are 0, except that sq has no value without a match.
    """
    tp = np.stack([sums[f"tp{percent}"] for percent in PERCENTS])
    fp = np.stack([sums[f"fp{percent}"] for percent in PERCENTS])
    ap = ratio(tp, sums["references"] + fp)  # TP + FN are the references
    rq = ratio(2 * tp[0], sums["references"] + tp[0] + fp[0])
    sq = ratio(sums["iou"], tp[0])
    return {
        "ap": ap.mean(axis=0),
        "ap50": ap[PERCENTS.index(50)],
        "ap75": ap[PERCENTS.index(75)],
        "pq": np.where(tp[0] > 0, sq * rq, rq),
        "sq": sq,
        "rq": rq,
        "aji": ratio(sums["aji_shared"], sums["aji_union"]),
    }


def _aggregated(objects: Overlaps) -> tuple[int, int]:
    """The sums above and below the bar of the aggregated Jaccard index."""
    # The best pair of each reference comes first among its pairs.
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
    return int(objects.shared[best].sum()), int(union)
