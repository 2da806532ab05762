"""Shapes to masks: labels, layers of overlapping classes, or object ids.

Polygons are filled as pycocotools fills them. Later shapes cover earlier ones. A mask is painted
run by run down its columns, so that a small shape costs little in a large image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX
from segkit.data.labels.base import (
    BACKGROUND,
    Polygon,
    Polygons,
    Region,
    Ring,
    Rle,
    Runs,
    Segment,
    Shape,
)
from segkit.data.labels.outlines import clip_ring
from segkit.data.labels.runs import (
    Ends,
    check_counts,
    check_size,
    decode_counts,
    find_mask_runs,
    find_runs,
)
from segkit.data.mask_files import TRANSPARENT, UNLABELLED, MaskDecoder
from segkit.images.reading import ImageReader, render, wrap_errors

IGNORED_ID = -1
"""The id of pixels that are not labelled."""

_BY_COLOR = MaskDecoder(by_color=True)
"""Of single objects only black tells the background, also in palettes."""

_FAR = 10
"""Outlines that reach this many times the image's size out of it are clipped before they are drawn,
because pycocotools walks along every pixel of an edge."""


def find_ignored_label(categories: int) -> int:
    """The label of pixels that are not labelled: 255, but -1 if 255 is a class."""
    return IGNORE_INDEX if categories < IGNORE_INDEX else -1


def draw_labels(
    shapes: Sequence[Shape], size: tuple[int, int], categories: int
) -> NDArray[np.integer[Any]]:
    """Draw the classes: 0 the background, category + 1 a class.

    Args:
        shapes: In this order; ignored ones lie below all others.
        size: Height and width of the image.
        categories: The number of categories.

    Returns:
        (H, W), uint8 for up to 254 categories, else int32. What only ignored shapes cover has the
        label of :func:`find_ignored_label`.

    Raises:
        SegkitError: A shape does not fit the image, or its mask file cannot be read.
    """
    ignored = find_ignored_label(categories)
    dtype = np.uint8 if ignored == IGNORE_INDEX else np.int32
    canvas = _make_canvas(size, dtype)
    for shape in _order(shapes):
        _paint(canvas, shape, size, ignored if shape.ignored else shape.category + 1)
    return _to_rows(canvas, size)


def draw_layers(
    shapes: Sequence[Shape], size: tuple[int, int], categories: int
) -> NDArray[np.uint8]:
    """Draw classes that may overlap: (H, W, N) of 0 and 1, one layer a category.

    Pixels of ignored shapes are 255 in all layers, but for those in which a shape covers them. A
    shape of the background clears all layers. Arguments and errors as :func:`draw_labels`.
    """
    canvases = [_make_canvas(size, np.uint8) for _ in range(categories)]
    for shape in _order(shapes):
        if shape.ignored or shape.category == BACKGROUND:
            covered, value = canvases, IGNORE_INDEX if shape.ignored else 0
        else:
            covered, value = [canvases[shape.category]], 1
        starts, stops = find_region_runs(shape.region, size)
        for canvas in covered:
            _fill(canvas, (starts, stops), value)
    layers = [_to_rows(canvas, size) for canvas in canvases]
    return np.stack(layers, axis=2) if layers else np.zeros((*size, 0), np.uint8)


def draw_ids(shapes: Sequence[Shape], size: tuple[int, int]) -> NDArray[np.int32]:
    """Draw objects: (H, W), 0 the background, 1, 2, ... the objects in the order of the shapes.

    Shapes of one category and group are one object. A shape of the background has no id. What only
    ignored shapes cover is -1. Arguments and errors as :func:`draw_labels`.
    """
    canvas = _make_canvas(size, np.int32)
    ids: dict[tuple[int, int], int] = {}
    count = 0
    for shape in _order(shapes):
        if shape.ignored:
            value = IGNORED_ID
        elif shape.category == BACKGROUND:
            value = 0
        elif shape.group is not None and (shape.category, shape.group) in ids:
            value = ids[shape.category, shape.group]
        else:
            count += 1
            value = count
            if shape.group is not None:
                ids[shape.category, shape.group] = count
        _paint(canvas, shape, size, value)
    return _to_rows(canvas, size)


def find_region_runs(region: Region, size: tuple[int, int]) -> Ends:
    """The runs of a region in an image of a height and width, down its columns.

    Raises:
        SegkitError: It does not fit the image, or its mask file cannot be read.
    """
    height, width = size
    check_size(size)
    if isinstance(region, Polygons):
        scale = (width, height) if region.relative else None
        return _join([_fill_polygon(part, scale, size) for part in region.parts])
    if isinstance(region, Rle):
        if region.size != tuple(size):
            raise SegkitError(
                f"a mask was drawn for {region.size[1]} x {region.size[0]} pixels, but the image"
                f" has {width} x {height}: use the images that were annotated."
            )
        counts = decode_counts(region.counts)
        check_counts(counts, size)
        return find_runs(counts)
    if isinstance(region, Runs):
        stops = region.starts + region.lengths
        if len(stops) and stops.max() > height * width:
            raise SegkitError(
                f"a run ends at pixel {stops.max()}, but the image has {width} x {height} ="
                f" {height * width}: use the images that were annotated."
            )
        if region.along_rows:
            mask = np.zeros(height * width, bool)
            for start, stop in zip(region.starts, stops, strict=True):
                mask[start:stop] = True
            return find_mask_runs(mask.reshape(size))
        return region.starts, stops
    if isinstance(region, Segment):
        return _find_segment(region, size)
    return find_mask_runs(_read_object(region, size))


def _find_segment(segment: Segment, size: tuple[int, int]) -> Ends:
    starts, stops, ids, shape = _read_segments(segment.file, segment.file.stat().st_mtime_ns)
    if shape != tuple(size):
        raise SegkitError(
            f"{segment.file} has {shape[1]} x {shape[0]} pixels, but the image has {size[1]} x"
            f" {size[0]}: use the segments of this image."
        )
    if segment.others:
        unknown = np.setdiff1d(ids, (segment.id, *segment.others))
        if len(unknown):
            raise SegkitError(
                f"{segment.file} has a segment with the id {unknown[0]}, which is not among the"
                " 'segments_info' of its image: use the JSON file that was written with it."
            )
    inside = ids == segment.id
    return starts[inside], stops[inside]


@lru_cache(maxsize=8)
def _read_segments(
    file: Path, changed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], tuple[int, int]]:
    """The runs of all segments of a file, their ids, and its height and width.

    Args:
        file: The file, whose segments are asked for one after the other.
        changed: When it was changed, so that a new version is read.

    Raises:
        SegkitError: It has no exact colours of 8 bits.
    """
    with ImageReader(file) as reader:
        raster = reader.read()
    with wrap_errors(file):
        shown = np.ma.getdata(render(raster))
    if raster.is_lossy or shown.dtype != np.uint8 or shown.shape[2] not in (1, 3):
        raise SegkitError(
            f"{file} is no PNG of colours with 8 bits, which are the ids of segments: use the file"
            " that was written with the JSON file."
        )
    colors = np.broadcast_to(shown, (*shown.shape[:2], 3)).astype(np.int64)
    ids = (colors @ (1, 256, 65536)).T.ravel()
    starts = np.flatnonzero(np.diff(ids, prepend=-1))
    stops = np.append(starts[1:], ids.size)
    return starts, stops, ids[starts], shown.shape[:2]


def _read_object(file: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where the mask of one object or class is not black in a viewer, (H, W).

    Raises:
        SegkitError: It cannot be read, has another size, or more than two values.
    """
    with ImageReader(file) as reader:
        raster = reader.read()
    if raster.is_lossy:
        raise SegkitError(
            f"{file} is compressed with loss, as a JPEG, so that its outline is not the one that"
            " was drawn: save the masks of objects and classes as PNG."
        )
    with wrap_errors(file):
        mask = _BY_COLOR.read(raster)
    if mask.shape != tuple(size):
        raise SegkitError(
            f"{file} has the shape {mask.shape}, but the image has {size[0]} rows and {size[1]}"
            " columns: use the masks of this image, with one channel."
        )
    if (mask == UNLABELLED).any():
        raise SegkitError(
            f"{file} has pixels without data (nodata, or masked), but the mask of one object or"
            " class has only 0 and one other value: save it without them."
        )
    inside: NDArray[np.bool_] = (mask != 0) & (mask != TRANSPARENT)
    if inside.any() and (mask[inside] != mask[inside][0]).any():
        raise SegkitError(
            f"{file} has more than two values: the mask of one object or class has 0 and one"
            " other value. Save it without smoothing, and not as JPEG."
        )
    return inside


def _fill_polygon(polygon: Polygon, scale: tuple[int, int] | None, size: tuple[int, int]) -> Ends:
    rings = [polygon.outer, *polygon.holes]
    if scale is not None:
        rings = [ring * scale for ring in rings]
    filled = [find_runs(decode_counts(rle["counts"])) for rle in _fill_rings(rings, size)]
    if not polygon.holes or not filled:
        return _join(filled[:1])
    (starts, stops), *holes = filled
    if not len(starts):
        return starts, stops
    # only the columns that the outline covers are looked at
    first, last = starts[0], stops[-1]
    inside = np.zeros(last - first, np.bool_)
    _fill(inside, (starts - first, stops - first), True)
    for hole in holes:
        _fill(inside, (np.maximum(hole[0] - first, 0), np.maximum(hole[1] - first, 0)), False)
    starts, stops = find_mask_runs(inside[:, None])
    return starts + first, stops + first


def _fill_rings(rings: Iterable[Ring], size: tuple[int, int]) -> list[dict[str, bytes]]:
    height, width = size
    far = _FAR * max(size)
    drawn = []
    for ring in rings:
        if ring.min() < -far or ring.max() > far:
            ring = clip_ring(ring, (-1, -1), (width + 1, height + 1))
        # a list whose first polygon has two points would mean boxes
        drawn.append(ring.ravel() if len(ring) > 2 else np.zeros(6))
    found: list[dict[str, bytes]] = coco.frPyObjects(drawn, height, width)
    return found


def _order(shapes: Iterable[Shape]) -> list[Shape]:
    return sorted(shapes, key=lambda shape: not shape.ignored)


def _paint(canvas: NDArray[Any], shape: Shape, size: tuple[int, int], value: int) -> None:
    _fill(canvas, find_region_runs(shape.region, size), value)


def _fill(canvas: NDArray[Any], runs: Ends, value: int) -> None:
    for start, stop in zip(runs[0].tolist(), runs[1].tolist(), strict=True):
        canvas[start:stop] = value


def _join(runs: Sequence[Ends]) -> Ends:
    if len(runs) == 1:
        return runs[0]
    starts, stops = zip(*runs, strict=True) if runs else ((), ())
    none = np.zeros(0, np.int64)
    return np.concatenate((none, *starts)), np.concatenate((none, *stops))


def _make_canvas(size: tuple[int, int], dtype: type[np.generic]) -> NDArray[Any]:
    check_size(size)
    return np.zeros(size[0] * size[1], dtype)


def _to_rows(canvas: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    if not canvas.size:
        return canvas.reshape(size)
    return cv2.transpose(canvas.reshape(size[::-1]))  # twice as fast as a copy by numpy
