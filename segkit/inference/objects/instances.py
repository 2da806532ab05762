"""Objects out of what a model says: one id for each, found in the whole map, never tile by tile.

Each target has a decoder that goes with it; see :attr:`Target.decoders`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from segkit.config.settings import WAIST
from segkit.core.errors import SegkitError
from segkit.core.labels import Decoder as Decoder
from segkit.core.labels import Mode
from segkit.inference.objects.regions import (
    close_gaps,
    close_holes,
    merge_small,
    merge_waists,
    renumbered,
)
from segkit.targets.distance import measure_distance
from segkit.targets.objects import label_regions

BY_WAIST = ("watershed", "distance")
"""The decoders that cut objects at their waists."""


class Maps(NamedTuple):
    """What decoders look at.

    Attributes:
        probabilities: (C, H, W) float32.
        labels: Decided from them, (H, W), of a multilabel model (N, H, W).
        waist: See :func:`decode`.
        min_size: See :func:`decode`.
    """

    probabilities: NDArray[np.float32]
    labels: NDArray[Any]
    waist: float
    min_size: int


def decode(
    name: Decoder,
    probabilities: NDArray[np.float32],
    labels: NDArray[Any],
    mode: Mode,
    *,
    gap: int = 0,
    min_size: int = 0,
    waist: float = WAIST,
    fill_holes: bool = False,
) -> NDArray[np.int32]:
    """Tell objects apart in a prediction.

    - ``components``: the connected regions of each class but 0. For objects that do not touch, or
      with a gap that was drawn in training.
    - ``watershed``: the regions of ``components``, cut at their waists. Flooded from the maxima of
      the distance to the contour. For objects that touch, with any target of one class.
    - ``border_core``: grown from the connected regions of class 1, the cores, over class 2, the
      borders. For the target ``border_core``.
    - ``distance``: flooded from the maxima of the normalised distance, the mean of the
      probabilities, over layer 0. For the target ``distance``.

    Connected means by an edge, not by a corner. Where objects are flooded and no seed is in a
    connected region, it is an object of its own.

    Args:
        name: The decoder.
        probabilities: (C, H, W) float32, of the whole image.
        labels: What was decided from them, (H, W), of a multilabel model (N, H, W).
        mode: The mode of the head that gave them.
        gap: Pixels between touching objects that training took. Objects grow back over them, see
            :func:`segkit.inference.objects.regions.close_gaps`.
        min_size: Objects of fewer pixels, counted after growing, are dropped. ``watershed``,
            ``border_core`` and ``distance`` give one that touches others to that from which it is
            least divided, for it is more often a wrong seed than an object. ``watershed`` does not
            see holes of fewer pixels either, which would make many small maxima of a large one.
        waist: For ``watershed`` and ``distance``: two parts are one object where the waist between
            them is at least this share as wide (as high, in the normalised distance) as the smaller
            one. Towards 1 more is cut, towards 0 less.
        fill_holes: Whether background that one object encloses becomes part of it.

    Returns:
        (H, W) ids 1, 2, ... without gaps, 0 the background.

    Raises:
        SegkitError: The decoder is not known, or cannot be used on predictions like these.
    """
    _check(name, probabilities, labels, mode)
    if not 0 < waist <= 1:
        raise SegkitError(f"waist is {waist}: give a share above 0, up to 1.")
    ids = DECODERS[name](Maps(probabilities, labels, waist, min_size))
    if gap > 0:
        ids = close_gaps(ids, gap)
    if fill_holes:
        ids = close_holes(ids)
    return renumbered(ids, min_size)


def _components(maps: Maps) -> NDArray[np.int32]:
    return label_regions(maps.labels)


def _watershed(maps: Maps) -> NDArray[np.int32]:
    found = np.zeros(maps.labels.shape, np.int32)
    for label in range(1, int(maps.labels.max(initial=0)) + 1):
        inside = maps.labels == label
        if inside.any():
            solid = close_holes(label_regions(inside.astype(np.uint8)), maps.min_size) > 0
            depth = measure_distance(~solid)
            depth[np.isinf(depth)] = 1  # all of the image, no contour in sight
            regions = _flood(depth, inside, maps)
            found = np.where(inside, regions + found.max(), found)
    return found


def _border_core(maps: Maps) -> NDArray[np.int32]:
    inside = maps.labels > 0
    cores = label_regions((maps.labels == 1).astype(np.uint8))
    height = maps.probabilities[1]
    regions = watershed(-height, cores, mask=inside).astype(np.int32)
    coreless = label_regions((inside & (regions == 0)).astype(np.uint8))
    regions = np.where(coreless > 0, coreless + regions.max(), regions)
    return merge_small(regions, height, maps.min_size)


def _distance(maps: Maps) -> NDArray[np.int32]:
    return _flood(maps.probabilities.mean(0), maps.labels[0] > 0, maps)


def _flood(height: NDArray[np.float32], inside: NDArray[np.bool_], maps: Maps) -> NDArray[np.int32]:
    """Flood from the maxima, then undo what does not divide objects."""
    # Noise makes maxima of single pixels: it costs time, and waists between them say nothing.
    height = np.where(inside, cv2.GaussianBlur(height, (0, 0), 1), 0)  # (H, W)
    ringed = np.pad(height, 1)  # so that there is something lower everywhere
    seeds = label_regions(local_maxima(ringed, connectivity=1)[1:-1, 1:-1].astype(np.uint8))
    regions = watershed(-height, seeds, mask=inside).astype(np.int32)
    return merge_small(merge_waists(regions, height, maps.waist), height, maps.min_size)


DECODERS: dict[Decoder, Callable[[Maps], NDArray[np.int32]]] = {
    "components": _components,
    "watershed": _watershed,
    "border_core": _border_core,
    "distance": _distance,
}


def _check(name: str, probabilities: NDArray[np.float32], labels: NDArray[Any], mode: Mode) -> None:
    if name not in DECODERS:
        raise SegkitError(f"instances is '{name}', which is none of {', '.join(DECODERS)}.")
    channels = len(probabilities)
    if name == "distance":
        if mode != "multilabel" or channels < 2:
            raise SegkitError(
                "instances=distance reads the layers of a normalised distance: train with"
                " target=distance and head=multilabel, or use another decoder."
            )
    elif mode == "multilabel":
        raise SegkitError(
            f"instances={name} needs one label for each pixel, not those of a multilabel head: use"
            " instances=distance for a model of target=distance."
        )
    elif name == "border_core" and (mode != "multiclass" or channels != 3):
        raise SegkitError(
            "instances=border_core reads the classes background, core and border: train with"
            " target=border_core and head=multiclass, or use instances=watershed."
        )
    expected = probabilities.shape if mode == "multilabel" else probabilities.shape[1:]
    if probabilities.ndim != 3 or labels.shape != expected:
        raise SegkitError(
            f"probabilities (C, H, W) and the labels decided from them do not fit: they are"
            f" {probabilities.shape} and {labels.shape}."
        )
