"""Expected calibration error: whether predicted probabilities are how often they are right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segkit.core.labels import IGNORE_INDEX
from segkit.metrics.base import Metric, ScoredImage, divide

BINS = 15
"""Bins of equal width for the confidence, as in Guo et al."""


class Calibration(Metric, name="calibration"):
    """Expected calibration error (ECE) of the decisions, over all pixels that count.

    The confidence of a pixel is the probability of its decided class. With bins b of equal width,
    (0, 1/15] ... (14/15, 1], that hold n_b of n pixels::

        ece = sum_b n_b / n |share of the pixels in b that are right - their mean confidence|

    A sigmoid decides between a class and its absence, whose probability is 1 - p; with a threshold
    other than 0.5 it may decide with a confidence below 0.5. For multilabel each class of a pixel
    is a decision.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015; of
    networks: Guo et al., "On Calibration of Modern Neural Networks", 2017, eq. 3.
    """

    def count(self, image: ScoredImage) -> NDArray[np.float64]:
        """Pixels, right ones, and the sum of their confidences, of each bin, (15, 3)."""
        labels, target, p = image.labels, image.target, image.probabilities
        if self.mode == "multilabel" and target.ndim == 2:
            numbers = np.arange(self.num_classes).reshape(-1, 1, 1)
            target = np.where(target == IGNORE_INDEX, IGNORE_INDEX, target == numbers)
        valid = target != IGNORE_INDEX  # (H, W), or (N, H, W) for multilabel
        if self.mode == "multiclass":
            chosen = np.where(valid, labels, 0).astype(np.int64)  # labels may be 255 there
            confidence = np.take_along_axis(p, chosen[None], 0)[0]  # (H, W)
        else:
            p = p.reshape(labels.shape)
            confidence = np.where(labels == 1, p, 1 - p)
        confidence = confidence[valid].astype(np.float64)
        bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        columns = (None, (labels == target)[valid], confidence)
        return np.stack([np.bincount(bins, each, BINS) for each in columns], -1)

    def score(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The error, ``ece``, from 0 to 1."""
        pixels, right, confidence = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
        return {"ece": divide(np.abs(right - confidence).sum(-1), pixels.sum(-1))}


def list_bins(sums: NDArray[np.float64]) -> list[dict[str, float]]:
    """The bins of :meth:`Calibration.count`, or of a sum over images, as a table.

    The keys are low and high, the ends of the bin, pixels, accuracy (the share of the pixels that
    are right) and confidence (their mean). The last two are NaN in an empty bin.
    """
    accuracy, confidence = divide(sums[:, 1], sums[:, 0]), divide(sums[:, 2], sums[:, 0])
    return [
        {
            "low": b / BINS,
            "high": (b + 1) / BINS,
            "pixels": int(sums[b, 0]),
            "accuracy": float(accuracy[b]),
            "confidence": float(confidence[b]),
        }
        for b in range(BINS)
    ]
