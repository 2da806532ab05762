"""What is read from a large image and its mask, band by band; numbers are kept, thinned arrays."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.values import find_empty, find_missing
from segkit.core.errors import SegkitError
from segkit.data.layout.blocks import list_bands, take_part
from segkit.data.sources.base import DataSource, Large, Sample

MOST_PIXELS = 2**30
"""Pixels of an image above which only a sample of its bands is read."""
SPARE = 8
"""How many times more pixels are drawn from images in which data can be missing."""
EXACT_COUNTS = 2**24
"""Pixels that OpenCV counts exactly, because its histograms are float32."""


class Parts(NamedTuple):
    """Properties of an image and its mask.

    Attributes:
        share: The fraction of the image that was read; numbers of pixels are those of the whole.
        image: The image (h, w, C), thinned to every n-th row and column.
        empty: Number of pixels without data.
        pixels: Pixels at random places (n, C) that have data.
        mask_shape: (H, W) or (H, W, N).
        masks: The mask, thinned; in pieces if not all was read.
        layers: Number of pixels of each value where the image has data, for each layer.
    """

    share: float
    image: NDArray[Any]
    empty: int
    pixels: NDArray[Any]
    mask_shape: tuple[int, ...]
    masks: list[NDArray[Any]]
    layers: list[dict[int, int]]


def scan_parts(
    source: DataSource,
    sample: Sample,
    large: Large,
    most_pixels: int,
    steps: tuple[int, int],
) -> Parts:
    """Read all bands of a sample, or of a huge one some at random places.

    Args:
        source: Where the sample comes from.
        sample: The sample.
        large: Its shapes.
        most_pixels: How many of its pixels to keep.
        steps: Every how many rows and columns of the image, and of the mask, to keep.

    Raises:
        SegkitError: It cannot be read, or has infinite values.
    """
    height, width, channels = large.shape
    bands, share = _choose_bands(large)
    rng = np.random.default_rng(0)
    drawn = math.ceil(most_pixels * (SPARE if large.may_lack_data else 1) / share)
    places = rng.integers(height * width, size=drawn)
    pixels, is_known = np.zeros((drawn, channels), large.dtype), np.zeros(drawn, np.bool_)
    whole_mask = source.read_mask(sample) if large.mask_shape is None else None
    mask_shape = large.mask_shape if whole_mask is None else whole_mask.shape
    assert mask_shape is not None
    fits = mask_shape[:2] == (height, width)
    # A mask of another size is reported by its shape.
    counts = [Counter[int]() for _ in range(math.prod(mask_shape[2:]) if fits else 0)]
    images, masks, empty_pixels = [], [], 0
    for top, rows in bands:
        part = take_part(sample, (top, 0, rows, width))
        image = source.read_image(part)
        missing, empty = find_missing(image), find_empty(image)
        image = np.ma.getdata(image)
        known = image if missing is None else image[~missing]
        if image.dtype == np.float32 and np.isinf(known).any():
            raise SegkitError("the image has infinite values")
        empty_pixels += 0 if empty is None else int(empty.sum())
        here = np.flatnonzero((places >= top * width) & (places < (top + rows) * width))
        at = divmod(places[here] - top * width, width)
        pixels[here], is_known[here] = image[at], True
        if missing is not None:
            is_known[here] = ~missing[at].any(axis=1)
        marked = image if missing is None else np.ma.MaskedArray(image, missing)
        images.append(_thin(marked, top, steps[0]))
        if fits:
            mask = whole_mask[top : top + rows] if whole_mask is not None else None
            mask = source.read_mask(part) if mask is None else mask
            masks.append(_thin(mask, top, steps[1]))
            for layer, count in zip(np.moveaxis(np.atleast_3d(mask), 2, 0), counts, strict=True):
                count.update(count_values(layer if empty is None else layer[~empty]))
    return Parts(
        share,
        np.ma.concatenate(images),  # type: ignore[no-untyped-call]  # numpy has no types of it
        round(empty_pixels / share),
        pixels[is_known][:most_pixels],
        mask_shape,
        masks if share < 1 or not masks else [np.concatenate(masks)],
        [{v: round(n / share) for v, n in sorted(count.items())} for count in counts],
    )


def _choose_bands(large: Large) -> tuple[list[tuple[int, int]], float]:
    """The bands to read, and their share of the image."""
    height, width, channels = large.shape
    bands = list_bands((height, width, channels * large.dtype.itemsize))
    count = max(1, MOST_PIXELS // (bands[0][1] * width))
    if height * width <= MOST_PIXELS or count >= len(bands):
        return bands, 1.0
    chosen = np.random.default_rng(1).choice(len(bands), count, replace=False)
    found = [bands[number] for number in sorted(chosen.tolist())]
    return found, sum(rows for _, rows in found) / height


def _thin(array: NDArray[Any], top: int, step: int) -> NDArray[Any]:
    """Every n-th row and column, counted from the top of the image."""
    return array[-top % step :: step, ::step].copy()


def count_values(array: NDArray[Any]) -> dict[int, int]:
    """Count the pixels of each value of integers or bool, by value in ascending order."""
    if array.dtype not in (np.uint8, np.bool_):  # up to 2^16 bins take longer than sorting
        values, counts = np.unique(array, return_counts=True)
    else:
        flat = np.ascontiguousarray(array).view(np.uint8).ravel()
        counts = np.zeros(256, np.int64)
        for first in range(0, len(flat), EXACT_COUNTS):
            part = flat[first : first + EXACT_COUNTS].reshape(1, -1)
            found = cv2.calcHist([part], [0], None, [256], [0, 256])
            counts += found.ravel().astype(np.int64)
        values = np.flatnonzero(counts)
        counts = counts[values]
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
