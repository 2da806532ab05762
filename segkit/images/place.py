"""Where pixels lie in the world: for the files of predictions, and to compare image and mask."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MICROMETRES = {
    "nm": 1e-3,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "millimetre": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "centimetre": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "metre": 1e6,
    "inch": 25400.0,
}
"""Units of length by their names in lower case."""

FARTHEST = 0.5
"""How many pixels images that belong together may lie apart: headers are rounded."""
GDAL_NODATA = 42113
"""The tag of the value of pixels without data."""
PIXEL_SCALE, TIE_POINTS, MATRIX, GEO_KEYS = 33550, 33922, 34264, 34735
"""Tags of GeoTIFF."""

Tag = tuple[int, int, int, Any, bool]
"""A tag as an item of tifffile's extratags."""
Transform = tuple[float, float, float, float, float, float]
Vector = tuple[float, float, float]
Slice = tuple[Vector, Vector, Vector]
"""Of a slice of a volume, in millimetres to the right, the front and the top: the corner of its
first pixel, and the steps to the next column and to the next row."""
Size = tuple[int, int]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """Where the pixels of an image lie, as far as its file says so.

    Attributes:
        transform: (a, b, c, d, e, f) of GDAL and rasterio, for corners of pixels: x = a * column +
            b * row + c, y = d * column + e * row + f. None if unknown.
        crs: The coordinate system of x and y, such as "EPSG:32633"; None if it is unknown or has no
            number.
        slice: Where a slice of a volume lies; None if unknown.
        pixel_size: Height and width of a pixel in micrometres; None if unknown.
        tags: The GeoTIFF tags, to be copied unchanged to files with the same pixels.
        nodata: The value of pixels without data. It is the image's, and not one of masks.
    """

    transform: Transform | None = None
    crs: str | None = None
    slice: Slice | None = None
    pixel_size: tuple[float, float] | None = None
    tags: tuple[Tag, ...] = ()
    nodata: float | None = None


def measure_pixel(sizes: tuple[float, float], units: tuple[str, str]) -> Place | None:
    """The place of pixels of that height and width; None if a size or a unit tells nothing."""
    factors = [MICROMETRES.get(unit.strip().lower().replace("μ", "µ")) for unit in units]
    height, width = (size * (factor or 0) for size, factor in zip(sizes, factors, strict=True))
    # not infinite, and not NaN
    if not (0 < height < 1e12 and 0 < width < 1e12):
        return None
    return Place(pixel_size=(height, width))


def outline_slice(centre: Points, across: Points, down: Points) -> Slice:
    """A slice by the centre of its first pixel and its two steps, (3,) each."""
    corner, right, below = np.array([centre - (across + down) / 2, across, down]).tolist()
    return (*corner,), (*right,), (*below,)


def find_shift(places: tuple[Place, Place], sizes: tuple[Size, Size]) -> float | None:
    """How far the corners of two images lie apart, in pixels of the image with the larger ones.

    Infinite if their coordinate systems differ; None unless both files say where they lie.

    Args:
        places: Their places.
        sizes: Their heights and widths in pixels.
    """
    (one, steps), (other, other_steps) = (
        _find_corners(place, size) for place, size in zip(places, sizes, strict=True)
    )
    if one is None or other is None or one.shape != other.shape:
        return None
    if places[0].crs and places[1].crs and places[0].crs != places[1].crs:
        return math.inf
    pixel = max(steps, other_steps)
    return float(np.sqrt(((one - other) ** 2).sum(axis=1)).max() / pixel) if pixel else None


def describe_shift(shift: float) -> str:
    """A distance of :func:`find_shift` in words, for messages."""
    near = math.isfinite(shift)
    return f"up to {shift:.3g} pixels apart" if near else "in other coordinate systems"


def _find_corners(place: Place, size: Size) -> tuple[Points | None, float]:
    """Three corners of an image, (3, 2) or (3, 3), and the longer side of a pixel."""
    if place.slice is not None:
        first, across, down = np.array(place.slice)
    elif place.transform is not None:
        across, down, first = np.array(place.transform).reshape(2, 3).T
    else:
        return None, 0.0
    corners = np.stack([first, first + size[1] * across, first + size[0] * down])
    return corners, float(np.sqrt(max((across**2).sum(), (down**2).sum())))


def to_tiff_options(place: Place | None, nodata: int | None = None) -> dict[str, Any]:
    """The arguments of tifffile.TiffWriter.write that put a place into a file.

    These are the tags of GeoTIFF, unchanged, and the size of a pixel as resolution. ``nodata`` is
    the new file's value of pixels without data, which is stated only in a GeoTIFF.
    """
    options: dict[str, Any] = {}
    if place is None:
        return options
    if place.tags:
        options["extratags"] = list(place.tags)
        if nodata is not None:
            text = str(nodata)
            options["extratags"].append((GDAL_NODATA, 2, len(text) + 1, text, True))
    if place.pixel_size:
        height, width = place.pixel_size
        per_centimetre = MICROMETRES["cm"]
        options["resolution"] = per_centimetre / width, per_centimetre / height
        options["resolutionunit"] = "CENTIMETER"
    return options


def subsample_place(place: Place, step: int) -> Place:
    """The place of an image of every ``step``-th row and column, whose pixels are as much larger.

    Coordinates are those of corners, so that the first corner stays.
    """
    tags: list[Tag] = []
    for code, kind, count, value, once in place.tags:
        if code == PIXEL_SCALE:
            value = (value[0] * step, value[1] * step, *value[2:])
        elif code == TIE_POINTS:
            value = tuple(v / step if i % 6 < 2 else v for i, v in enumerate(value))
        elif code == MATRIX:
            value = tuple(v * step if i % 4 < 2 else v for i, v in enumerate(value))
        tags.append((code, kind, count, value, once))
    transform, of_slice = place.transform, place.slice
    if of_slice is not None:
        first, *steps = of_slice
        across, down = ((x * step, y * step, z * step) for x, y, z in steps)
        of_slice = first, across, down
    if transform is not None:
        a, b, c, d, e, f = transform
        transform = (a * step, b * step, c, d * step, e * step, f)
    size = place.pixel_size
    return replace(
        place,
        transform=transform,
        slice=of_slice,
        pixel_size=size and (size[0] * step, size[1] * step),
        tags=tuple(tags),
    )
