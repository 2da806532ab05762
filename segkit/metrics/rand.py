"""Segmentations as clusterings of pixels: the Rand index and mutual information."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.metrics.counts import Sums, ratio
from segkit.metrics.overlaps import Overlaps


def rand_counts(objects: Overlaps) -> dict[str, float]:
    """What the adapted Rand error needs of one image: twice the numbers of pairs of pixels."""
    pixels = int(objects.reference_areas.sum())
    missed = objects.missed
    together = _squares(objects.shared) + _squares(missed)
    predicted = _squares(objects.inside) + int(missed.sum()) ** 2
    return {
        "rand_together": together - pixels,
        "rand_reference": _squares(objects.reference_areas) - pixels,
        "rand_predicted": predicted - pixels,
    }


def rand_scores(sums: Sums) -> dict[str, NDArray[np.float64]]:
    """The adapted Rand error ``arand`` from sums over images: 0 is best, 1 is worst.

    Of all pairs of pixels of an image that lie in reference objects (Arganda-Carreras et al. 2015;
    scikit-image's ``adapted_rand_error``)::

        precision = pairs in one object in both / pairs in one predicted object
        recall    = pairs in one object in both / pairs in one reference object
        arand     = 1 - 2 precision recall / (precision + recall)

    The predicted background counts as one object, which weighs heavily where it reaches into many
    reference objects. Pairs are counted within images and summed over them. The error has no value
    where there are no such pairs.
    """
    return {
        "arand": 1
        - ratio(2 * sums["rand_together"], sums["rand_reference"] + sums["rand_predicted"])
    }


def v_rand_counts(objects: Overlaps) -> tuple[int, int, int]:
    """The squared sizes that V_rand is made of (Arganda-Carreras et al. 2015).

    Of the pixels that lie in reference objects, with s_i of them in the predicted object i, t_j in
    the reference object j and p_ij in both::

        V_rand = sum p_ij^2 / (0.5 sum s_i^2 + 0.5 sum t_j^2)

    Unlike in the adapted Rand error above, each pixel that is background in the prediction is an
    object of its own.

    Returns:
        sum p_ij^2, sum t_j^2 and sum s_i^2.
    """
    single = int(objects.missed.sum())
    return (
        _squares(objects.shared) + single,
        _squares(objects.reference_areas),
        _squares(objects.inside) + single,
    )


def v_info(objects: Overlaps) -> float:
    """V_info (Arganda-Carreras et al. 2015), of the clusterings that V_rand takes.

    With the mutual information I and the entropies H of the prediction S and the reference T::

        V_info = I(S; T) / (0.5 H(S) + 0.5 H(T))

    It is 1 where both are one single object, and has no value (NaN) without reference pixels.
    """
    pixels = int(objects.reference_areas.sum())
    if pixels == 0:
        return float("nan")
    single = objects.missed.sum() * np.log(pixels) / pixels
    reference = _entropy(objects.reference_areas, pixels)
    predicted = _entropy(objects.inside, pixels) + single
    joint = _entropy(objects.shared, pixels) + single
    if reference + predicted == 0:
        return 1.0
    return float(max(0.0, 2 * (reference + predicted - joint) / (reference + predicted)))


def _squares(sizes: NDArray[Any]) -> int:
    return int((sizes.astype(np.int64) ** 2).sum())


def _entropy(sizes: NDArray[np.int64], pixels: int) -> float:
    sizes = sizes[sizes > 0]
    return float((sizes / pixels * np.log(pixels / sizes)).sum())
