"""SEG and DET, the two measures of the Cell Tracking Challenge's segmentation benchmark."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segkit.metrics.counts import Sums, ratio
from segkit.metrics.overlaps import Overlaps

SPLIT, MISSED, SPURIOUS = 5, 10, 1
"""What DET weighs: a needed split, a false negative, a false positive (Matula et al. 2015)."""


def tracking_counts(objects: Overlaps, markers: Overlaps) -> dict[str, float]:
    """What SEG and DET need of one image.

    Args:
        objects: The overlaps of the reference masks and the prediction, for SEG.
        markers: Those of the reference markers and the prediction, for DET. The challenge marks
            every cell, but outlines only some.
    """
    matches = np.bincount(markers.predicted[_covers(markers)], minlength=markers.spared.size)
    return {
        "references": objects.reference_areas.size,
        "seg_iou": float(objects.iou[_covers(objects)].sum()),
        "markers": markers.reference_areas.size,
        "det_splits": int(np.maximum(matches - 1, 0).sum()),
        "det_missed": markers.reference_areas.size - int(matches.sum()),
        "det_spurious": int(((matches == 0) & ~markers.spared).sum()),
    }


def tracking_scores(sums: Sums) -> dict[str, NDArray[np.float64]]:
    """SEG and DET from sums over images.

    SEG (Maska et al. 2014): a reference object R is matched by the predicted object S that covers
    more than half of it, of which there is one at most; half is not enough::

        |R and S| > 0.5 |R|        SEG = mean over all R of |R and S| / |R or S|, or 0 without S

    So SEG asks nothing of predicted objects that match no R. It has no value without an R.

    DET (Matula et al. 2015): the same matching, of markers; AOGM-D weighs what must be mended, and
    AOGM-D0 is what it would cost to add every marker anew::

        AOGM-D = 5 splits + 10 missed + 1 spurious        AOGM-D0 = 10 markers
        DET = 1 - min(AOGM-D, AOGM-D0) / AOGM-D0

    A predicted object that matches n > 1 markers needs n - 1 splits; a marker without a match is
    missed; a predicted object without a marker is spurious. An object that was predicted in pieces
    is missed if no piece covers more than half of it. DET has no value without a marker.

    The challenge scores a whole sequence: the sums run over its frames, and so they do here.
    """
    aogm = (
        SPLIT * sums["det_splits"] + MISSED * sums["det_missed"] + SPURIOUS * sums["det_spurious"]
    )
    aogm_0 = MISSED * sums["markers"]
    return {
        "seg": ratio(sums["seg_iou"], sums["references"]),
        "det": 1 - ratio(np.minimum(aogm, aogm_0), aogm_0),
    }


def _covers(found: Overlaps) -> NDArray[np.bool_]:
    return np.asarray(2 * found.shared > found.reference_areas[found.reference])
