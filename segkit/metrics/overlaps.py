"""The sparse contingency table of two maps of ids: which objects share how many pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX


@dataclass(frozen=True, eq=False)
class Overlaps:
    """The objects of a reference and of a prediction, and the pixels that they share.

    Created by :func:`count_overlaps`. Objects are numbered from 0 in the order of their first
    pixel, row by row, so nothing depends on their ids. Pixels that the reference ignores are left
    out of every number.

    Attributes:
        reference_areas: (R,) pixels of each reference object, int64.
        predicted_areas: (P,) pixels of each predicted object, int64; 0 if all are ignored.
        spared: (P,) whether more than half of a predicted object lies in ignored pixels. Such an
            object is no false positive if it has no match (as in COCO's panoptic evaluation).
        reference: (M,) the reference object of each pair of objects that share a pixel.
        predicted: (M,) the predicted object of each pair.
        shared: (M,) the pixels that the pair shares, int64.
    """

    reference_areas: NDArray[np.int64]
    predicted_areas: NDArray[np.int64]
    spared: NDArray[np.bool_]
    reference: NDArray[np.intp]
    predicted: NDArray[np.intp]
    shared: NDArray[np.int64]

    @cached_property
    def union(self) -> NDArray[np.int64]:
        """(M,) pixels of either object of each pair."""
        areas = self.reference_areas[self.reference] + self.predicted_areas[self.predicted]
        return areas - self.shared

    @cached_property
    def iou(self) -> NDArray[np.float64]:
        """(M,) intersection over union of each pair (Jaccard 1912)."""
        return self.shared / self.union

    @cached_property
    def missed(self) -> NDArray[np.int64]:
        """(R,) pixels of each reference object that are background in the prediction."""
        found = np.bincount(self.reference, self.shared, self.reference_areas.size)
        return self.reference_areas - found.astype(np.int64)

    @cached_property
    def inside(self) -> NDArray[np.int64]:
        """(P,) pixels of each predicted object that belong to a reference object."""
        found = np.bincount(self.predicted, self.shared, self.predicted_areas.size)
        return found.astype(np.int64)


def count_overlaps(
    truth: NDArray[Any], predicted: NDArray[Any], ignore_index: int | None = IGNORE_INDEX
) -> Overlaps:
    """Count the pixels that the objects of two maps of ids share.

    In both maps (H, W) 0 is background and every other value an object, which need not be
    connected; ids need not be contiguous. ``ignore_index`` marks pixels of the truth that do not
    count (None: all count), and is an ordinary id in the prediction.

    Example:
        >>> truth, predicted = np.array([[1, 1, 0], [2, 2, 255]]), np.array([[7, 7, 7], [0, 7, 7]])
        >>> found = count_overlaps(truth, predicted)
        >>> found.reference_areas, found.predicted_areas, found.shared
        (array([2, 2]), array([4]), array([2, 1]))
    """
    check_ids("the truth", truth)
    check_ids("the prediction", predicted)
    if truth.shape != predicted.shape:
        raise SegkitError(
            f"the truth is {truth.shape[0]} x {truth.shape[1]} pixels and the prediction"
            f" {predicted.shape[0]} x {predicted.shape[1]}: compare maps of the same image."
        )
    ignored = np.zeros(truth.shape, bool) if ignore_index is None else truth == ignore_index
    rows, R = _number_objects(np.where(ignored, 0, truth))
    columns, P = _number_objects(predicted)
    rows[ignored.ravel()] = R + 1
    pixels = np.ones(rows.size, np.int64)
    # the conversion adds up the pixels that share row and column
    table = sparse.coo_array((pixels, (rows, columns)), shape=(R + 2, P + 1)).tocsr()
    areas = np.asarray(table.sum(axis=0)).ravel()[1:]
    ignored_areas = table[[R + 1]].toarray().ravel()[1:]
    pairs = table[1 : R + 1, 1:].tocoo()
    return Overlaps(
        reference_areas=np.asarray(table.sum(axis=1)).ravel()[1 : R + 1],
        predicted_areas=areas - ignored_areas,
        spared=2 * ignored_areas > areas,
        reference=pairs.row.astype(np.intp),
        predicted=pairs.col.astype(np.intp),
        shared=pairs.data,
    )


def check_ids(what: str, ids: NDArray[Any]) -> None:
    """Raise SegkitError unless an array is a map of ids: (H, W) integers >= 0."""
    if ids.ndim != 2:
        raise SegkitError(f"{what} has the shape {ids.shape}: give the ids of one image, (H, W).")
    if not np.issubdtype(ids.dtype, np.integer):
        raise SegkitError(
            f"{what} is {ids.dtype}: give integer ids, one per object, such as"
            " scipy.ndimage.label(mask) makes of a mask."
        )
    if ids.size and ids.min() < 0:
        raise SegkitError(
            f"{what} contains the id {ids.min()}: ids are 0 (background), 1, 2, ...; if -1 means"
            f" 'not labelled', replace it with {IGNORE_INDEX} in the truth."
        )


def _number_objects(ids: NDArray[Any]) -> tuple[NDArray[np.int32], int]:
    """Number the objects 1 ... n by first appearance: numbers (H * W,), and n."""
    flat = ids.ravel()
    size = flat.size
    if size == 0:
        return np.zeros(0, np.int32), 0
    if int(flat.max()) > 4 * size + 2**16:  # a table of all ids would be larger than the image
        flat = np.unique(flat, return_inverse=True)[1].ravel() + (flat.min() > 0)
    first = np.full(int(flat.max()) + 1, size)
    first[flat[::-1]] = np.arange(size)[::-1]  # the last value written to an index stays
    first[0] = -1  # the background is 0, present or not
    present = np.flatnonzero(first < size)
    numbers = np.zeros(first.size, np.int32)
    numbers[present[np.argsort(first[present])]] = np.arange(present.size)
    return numbers[flat], present.size - 1


def sum_squares(sizes: NDArray[Any]) -> int:
    """The sum of the squares, in int64."""
    return int((sizes.astype(np.int64) ** 2).sum())
