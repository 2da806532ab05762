"""Boundary F1 and the 95 % Hausdorff distance, per class and image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.metrics.base import (
    Metric,
    ScoredImage,
    average_defined,
    check_classes,
    divide,
    name_entries,
)

TOLERANCE = 0.0075
"""The default tolerance as a share of the image's diagonal (Csurka et al. 2013)."""

BOUNDARY_COUNTS = ("near", "predicted", "found", "true", "distance", "finite", "missed")
"""The names of the 7 entries of :func:`count_boundaries`."""

_PERCENTILE = 95

Map = NDArray[np.integer[Any]] | NDArray[np.bool_]


def count_boundaries(
    labels: Map,
    truth: Map,
    mode: Mode,
    num_classes: int,
    tolerance: float | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> NDArray[np.float64]:
    """Count what the scores of boundaries need from one image; add the counts of images.

    A pixel is on the boundary of its class if one of its four neighbours has another class. The
    border of the image is no boundary. Pixels that the truth ignores are removed
    from both maps: there is no boundary in them or against them.

    Args:
        labels: The decided labels (H, W), or 0/1 per class (N, H, W) for multilabel.
        truth: The true labels, same shape; for multilabel also (H, W), which means exactly one
            class per pixel.
        mode: The mode in which the labels were decided.
        num_classes: N. Binary: 2 or 1, with the same meaning.
        tolerance: Accepted distance between boundaries, at least 0, in the unit of ``spacing``;
            None: 0.75 % of the image's diagonal.
        spacing: Height and width of a pixel. 1 measures all distances in pixels.

    Returns:
        (C, 7), with C = N classes, or for binary the foreground alone. The last axis follows
        :data:`BOUNDARY_COUNTS`: predicted boundary pixels within the tolerance, all predicted ones,
        true ones within the tolerance, all true ones; the 95 % Hausdorff distance, or 0; 1 if it is
        defined; 1 if only one of the two boundaries exists.
    """
    labels, truth = _check_labels(labels, truth, mode, num_classes)
    if tolerance is None:
        height, width = truth.shape[-2:]
        tolerance = TOLERANCE * math.hypot(height * spacing[0], width * spacing[1])
    tolerance *= 1 + 1e-9  # multiples of a spacing are rounded
    rows = []
    for predicted, true in zip(labels, truth, strict=True):  # (H, W) each
        valid = true != IGNORE_INDEX
        ours, theirs = _find_boundary(predicted, valid), _find_boundary(true, valid)
        classes = range(num_classes) if mode == "multiclass" else (1,)
        rows += _count_classes(ours, theirs, classes, tolerance, spacing)
    return np.array(rows, dtype=np.float64)


def score_boundaries(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Score :func:`count_boundaries` (..., C, 7), or their sums over images, per class: (..., C).

    With the predicted and true boundary pixels of a class in all images, and t the tolerance::

        precision = share of the predicted ones that are at most t away from a true one
        recall = share of the true ones that are at most t away from a predicted one
        f1 = 2 precision recall / (precision + recall)

    ``f1`` is the boundary F1 (Csurka et al., "What is a good evaluation measure for semantic
    segmentation?", 2013; theirs is the mean over single images). ``hd95`` is the 95 % Hausdorff
    distance in pixels (Huttenlocher et al. 1993): the larger of two 95th percentiles, of the
    distances from each predicted boundary pixel to the nearest true one, and the other way round.
    It is computed per image and averaged over the images that have it.

    A class without predicted and true boundary has no value: NaN; neither has precision without
    predicted boundary, nor recall without true boundary. If only one of the two exists in an image,
    f1 is 0 and no distance is defined: the image is left out of the mean distance and counted in
    ``missed``, so look at both. If that is so in all images, the distance is infinite.

    Example:
        >>> truth = np.zeros((64, 64), int)
        >>> truth[20:40, 20:40] = 1
        >>> one = count_boundaries(np.roll(truth, 2, 0), truth, "binary", 2, tolerance=1)
        >>> result = score_boundaries(one)
        >>> result["f1"].round(4), result["hd95"]
        (array([0.5263]), array([2.]))
    """
    sums = name_entries(BOUNDARY_COUNTS, counts)
    near, predicted, found, true, distance, finite, missed = sums.values()
    # 2 P R / (P + R) without dividing by 0 where a boundary is missing or nothing is near
    product = near * found
    f1 = np.where(
        product > 0,
        divide(2 * product, near * true + found * predicted),
        np.where(predicted + true > 0, 0.0, np.nan),
    )
    return {
        "f1": f1,
        "precision": divide(near, predicted),
        "recall": divide(found, true),
        "hd95": np.where((finite == 0) & (missed > 0), np.inf, divide(distance, finite)),
        "missed": missed,
    }


class BoundaryMetric(Metric, name="boundary"):
    """Boundary F1 and 95 % Hausdorff distance; see :func:`score_boundaries`."""

    totals = ("hd95_missed",)

    def count(self, image: ScoredImage) -> NDArray[np.float64]:
        """:func:`count_boundaries`, (C, 7)."""
        return count_boundaries(image.labels, image.target, self.mode, self.num_classes)

    def score(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The means of ``f1`` and ``hd95`` over the classes, and the sum of ``missed``.

        Classes without a finite value are left out; ``hd95`` is infinite if there are only infinite
        ones.
        """
        scores = score_boundaries(sums)
        infinite = np.isinf(scores["hd95"])
        hd95 = average_defined(np.where(infinite, np.nan, scores["hd95"]))
        return {
            "boundary_f1": average_defined(scores["f1"]),
            "hd95": np.where(np.isnan(hd95) & infinite.any(-1), np.inf, hd95),
            "hd95_missed": scores["missed"].sum(-1),
        }


def _check_labels(labels: Map, truth: Map, mode: Mode, num_classes: int) -> tuple[Map, Map]:
    """Check the prediction and the truth; returns them as (1, H, W) or for multilabel (N, H, W)."""
    check_classes(mode, num_classes)
    if mode == "multilabel" and truth.ndim == 2:
        numbers = np.arange(num_classes).reshape(-1, 1, 1)
        truth = np.where(truth == IGNORE_INDEX, IGNORE_INDEX, truth == numbers)  # (N, H, W)
    layers = (num_classes,) if mode == "multilabel" else ()
    if labels.shape != (*layers, *labels.shape[-2:]) or truth.shape != labels.shape:
        form = f"({num_classes}, H, W)" if mode == "multilabel" else "(H, W)"
        raise SegkitError(
            f"the prediction has the shape {labels.shape} and the truth {truth.shape}; mode"
            f" '{mode}' takes {form} for both: give the labels of one image."
        )
    highest = num_classes - 1 if mode == "multiclass" else 1
    valid = truth != IGNORE_INDEX
    for what, values in (("prediction", labels), ("truth", truth)):
        if values.dtype.kind not in "iub":
            raise SegkitError(f"the {what} is {values.dtype}: give the decided labels.")
        wrong = values[valid & ((values < 0) | (values > highest))]
        if wrong.size:
            raise SegkitError(
                f"the {what} contains the label {wrong[0]}, but the classes are 0 to {highest}: map"
                " the labels to the classes."
            )
    return labels.reshape(-1, *labels.shape[-2:]), truth.reshape(-1, *truth.shape[-2:])


def _find_boundary(labels: Map, valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The label plus 1 at boundary pixels, else 0, (H, W)."""
    below = (labels[1:] != labels[:-1]) & valid[1:] & valid[:-1]  # (H - 1, W)
    right = (labels[:, 1:] != labels[:, :-1]) & valid[:, 1:] & valid[:, :-1]  # (H, W - 1)
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:-1] |= below
    edge[1:] |= below
    edge[:, :-1] |= right
    edge[:, 1:] |= right
    return np.where(edge, labels.astype(np.int64) + 1, 0)


def _count_classes(
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    classes: Iterable[int],
    tolerance: float,
    spacing: tuple[float, float],
) -> list[tuple[float, ...]]:
    """The counts of each class, from the boundaries of the prediction and of the truth."""
    sizes = [np.bincount(each.ravel()) for each in (ours, theirs)]
    boxes = [ndimage.find_objects(each) for each in (ours, theirs)]
    rows: list[tuple[float, ...]] = []
    for number in (c + 1 for c in classes):
        predicted, true = (int(n[number]) if number < len(n) else 0 for n in sizes)
        if not predicted or not true:
            missed = float(predicted + true > 0)
            rows.append((0, predicted, 0, true, 0, 0, missed))
            continue
        a, b = (box[number - 1] for box in boxes)
        crop = tuple(
            slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True)
        )
        mine, yours = ours[crop] == number, theirs[crop] == number
        to_true = _measure_distance(yours, spacing)[mine]
        to_predicted = _measure_distance(mine, spacing)[yours]
        near = int(np.count_nonzero(to_true <= tolerance))
        found = int(np.count_nonzero(to_predicted <= tolerance))
        hd95 = max(np.percentile(to_true, _PERCENTILE), np.percentile(to_predicted, _PERCENTILE))
        rows.append((near, predicted, found, true, float(hd95), 1, 0))
    return rows


def _measure_distance(
    marked: NDArray[np.bool_], spacing: tuple[float, float]
) -> NDArray[np.float64]:
    """Euclidean distance of each pixel to the nearest marked one; there must be at least one."""
    if spacing[0] != spacing[1]:  # OpenCV knows square pixels only
        exact: NDArray[np.float64] = ndimage.distance_transform_edt(~marked, sampling=spacing)
        return exact
    distance = cv2.distanceTransform(
        (~marked).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    ).astype(np.float64)
    # OpenCV is ten times as fast as SciPy, but float32: squared distances are integers
    return spacing[0] * np.sqrt(np.rint(np.square(distance)))
