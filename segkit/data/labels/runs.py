"""Run lengths of masks: of COCO down the columns, and of other programs along the rows.

A mask is given by the first pixel of each run and the one after its last, in an image whose pixels
are counted down the columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from segkit.core.errors import SegkitError
from segkit.data.labels.base import Rle

Ends = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The starts and stops of runs."""

MOST_PIXELS = 2**32 - 1
"""Of an image in COCO's format."""


def check_size(size: tuple[int, int]) -> None:
    """Raise SegkitError for an image that COCO's format cannot describe."""
    if size[0] * size[1] > MOST_PIXELS:
        raise SegkitError(
            f"outlines are drawn into images of at most {MOST_PIXELS} pixels, not {size[1]} x"
            f" {size[0]}: cut it into smaller images."
        )


def decode_counts(packed: bytes) -> NDArray[np.int64]:
    """The numbers in COCO's compressed string: background first, then in turns.

    Each character holds five bits, the lowest first, and whether more follow. From the fourth
    number on they are differences to the number two before.

    Raises:
        SegkitError: It is not such a string, as the end of a sentence.
    """
    if not packed:
        return np.zeros(0, np.int64)
    digits = np.frombuffer(packed, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)
    if digits.min() < 0 or digits.max() > 63 or not len(ends) or ends[-1] != len(digits) - 1:
        raise SegkitError("its run lengths are not a compressed string of COCO")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 7:  # more than 32 bits
        raise SegkitError("its run lengths are not a compressed string of COCO")
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    values = np.add.reduceat((digits & 31) << (5 * places), starts)
    values -= np.where(digits[ends] & 16, 1 << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def find_runs(counts: NDArray[np.int64]) -> Ends:
    """The foreground of counts: background first, then in turns."""
    ends = np.cumsum(counts)
    return ends[0::2][: len(ends) // 2], ends[1::2]


def check_counts(counts: NDArray[np.int64], size: tuple[int, int]) -> None:
    """Check that counts fill an image exactly.

    Raises:
        SegkitError: They do not, as the end of a sentence.
    """
    total = int(counts.sum())
    if len(counts) and counts.min() < 0:
        raise SegkitError("a run length is negative")
    if total != size[0] * size[1]:
        raise SegkitError(
            f"its run lengths cover {total} pixels, but {size[1]} x {size[0]} are"
            f" {size[0] * size[1]}"
        )


def read_counts(values: Any) -> NDArray[np.int64]:
    """The numbers of a list of run lengths.

    Raises:
        SegkitError: They are not whole numbers, as the end of a sentence.
    """
    try:
        found = np.array(values, np.float64)
        whole = found.ndim == 1 and bool((found == np.trunc(found)).all())
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or (found.size and np.abs(found).max() > MOST_PIXELS):
        raise SegkitError("its run lengths are not a list of whole numbers")
    return found.astype(np.int64)


def encode_counts(counts: NDArray[np.int64], size: tuple[int, int]) -> Rle:
    """Compress counts that fill the image."""
    check_size(size)
    packed = coco.frPyObjects({"size": list(size), "counts": counts}, *size)
    return Rle(size, packed["counts"])


def encode_runs(runs: Ends, size: tuple[int, int]) -> Rle:
    """Compress runs that are sorted and do not overlap."""
    starts, stops = runs
    if len(starts):
        apart = starts[1:] != stops[:-1]
        starts = starts[np.concatenate(([True], apart))]
        stops = stops[np.concatenate((apart, [True]))]
    ends = np.column_stack((starts, stops)).ravel()
    counts = np.diff(ends, prepend=0, append=size[0] * size[1])
    return encode_counts(counts if counts[-1] else counts[:-1], size)


def encode_mask(mask: NDArray[Any], size: tuple[int, int], top: int = 0, left: int = 0) -> Rle:
    """Compress a mask (h, w), not 0 in the region, that lies at a place of the image.

    What is outside of the image is cut off.
    """
    height, width = size
    inside = mask[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    top, left = max(top, 0), max(left, 0)
    # a row of background below, so that no run goes on in the next column
    padded = np.zeros((inside.shape[1], inside.shape[0] + 1), np.int8)
    padded[:, :-1] = (inside != 0).T
    changes = np.flatnonzero(np.diff(padded.ravel(), prepend=np.int8(0)))
    columns, rows = np.divmod(changes, padded.shape[1])
    places = (columns + left) * height + rows + top
    return encode_runs((places[0::2], places[1::2]), size)


def find_mask_runs(mask: NDArray[np.bool_]) -> Ends:
    """The runs of a mask (H, W) down its columns."""
    flat = mask.T.ravel().view(np.int8)
    zero = np.int8(0)
    changes = np.flatnonzero(np.diff(flat, prepend=zero, append=zero))
    return changes[0::2], changes[1::2]
