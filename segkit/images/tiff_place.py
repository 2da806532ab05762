"""The place of a TIFF's pixels: by the tags of GeoTIFF, by OME's and ImageJ's metadata, or by dpi.

Tie points of a distorted image (ground control points) are not read. For files beside the image see
`segkit.images.place_files`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from segkit.images.place import (
    GEO_KEYS,
    MATRIX,
    PIXEL_SCALE,
    TIE_POINTS,
    Place,
    Tag,
    Transform,
    measure_pixel,
)

_GEO_TAGS = (PIXEL_SCALE, TIE_POINTS, MATRIX, GEO_KEYS, 34736, 34737)
_MODEL, _RASTER, _GEOGRAPHIC, _PROJECTED = 1024, 1025, 2048, 3072  # keys in the directory
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_INCH, _CENTIMETRE = 2, 3
_MEANINGLESS = (1, 72, 96, 100, 150, 200, 300, 600)
"""Dots per inch that programs write where they know nothing."""


def read_geo_place(page: Any, nodata: float | None) -> Place | None:
    """The place of a page of tifffile by its GeoTIFF tags; None if these do not give one."""
    transform = _read_transform(page)
    if transform is None:
        return None
    keys = _read_keys(page)
    a, b, c, d, e, f = transform
    if keys.get(_RASTER) == 2:  # the tags tell where centres of pixels are
        transform = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
    code = keys.get({1: _PROJECTED, 2: _GEOGRAPHIC}.get(keys.get(_MODEL, 0), 0), 0)
    tags: list[Tag] = []
    for number in _GEO_TAGS:
        if number in page.tags:
            tag = page.tags[number]
            tags.append((number, int(tag.dtype), tag.count, tag.value, False))
    return Place(
        transform=transform,
        # 32767 and above are systems that the file itself defines; numbers of EPSG are 4 digits up
        crs=f"EPSG:{code}" if 1024 <= code < 32767 else None,
        tags=tuple(tags),
        nodata=nodata,
    )


def read_ome_places(xml: str) -> list[Place | None]:
    """The places of the images that OME's metadata describe, in their order."""
    return [_read_ome_place(pixels) for pixels in re.findall(r"<[\w:]*Pixels\b[^>]*>", xml)]


def read_imagej_place(page: Any, metadata: dict[str, Any]) -> Place | None:
    """The place of a page of tifffile by the unit that ImageJ's metadata name."""
    unit = str(metadata.get("unit", "")).replace("\\u00B5", "µ")
    rows, columns = _read_resolution(page)
    return measure_pixel((1 / rows, 1 / columns), (unit, unit)) if rows and columns else None


def read_dpi_place(page: Any) -> Place | None:
    """The place of a page of tifffile by its resolution, unless it is one that tells nothing."""
    rows, columns = _read_resolution(page)
    unit = page.tags.valueof(_RESOLUTION_UNIT, _INCH)
    if unit not in (_INCH, _CENTIMETRE) or not (rows and columns):
        return None
    per_inch = 1 if unit == _INCH else 2.54
    if all(
        any(abs(dots * per_inch - default) < 0.5 for default in _MEANINGLESS)
        for dots in (rows, columns)
    ):
        return None
    name = "inch" if unit == _INCH else "cm"
    return measure_pixel((1 / rows, 1 / columns), (name, name))


def _read_transform(page: Any) -> Transform | None:
    """The affine of the tags, for what they mean by a pixel's position."""
    matrix = _read_numbers(page, MATRIX)
    if len(matrix) == 16 and any(matrix):
        return matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]
    scale, points = _read_numbers(page, PIXEL_SCALE), _read_numbers(page, TIE_POINTS)
    if len(scale) < 2 or not (scale[0] and scale[1]) or len(points) < 6:
        return None
    column, row, _, x, y, _ = points[:6]
    # y grows against the rows, whatever the sign says
    across, down = scale[0], -abs(scale[1])
    return across, 0.0, x - column * across, 0.0, down, y - row * down


def _read_numbers(page: Any, code: int) -> Sequence[float]:
    """The numbers of a tag; none if it is missing or damaged."""
    value = page.tags.valueof(code, ())
    if not isinstance(value, tuple) or not all(isinstance(n, int | float) for n in value):
        return ()
    return [float(n) for n in value] if all(map(math.isfinite, value)) else ()


def _read_keys(page: Any) -> dict[int, int]:
    """The keys of GeoTIFF whose values are in the directory itself."""
    values = [int(number) for number in _read_numbers(page, GEO_KEYS)]
    rows = (values[at : at + 4] for at in range(4, len(values) - 3, 4))
    return {key: value for key, place, _, value in rows if place == 0}


def _read_ome_place(pixels: str) -> Place | None:
    sizes, units = [], []
    for axis in "YX":
        size = re.search(rf'\bPhysicalSize{axis}="([^"]*)"', pixels)
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', pixels)
        sizes.append(_to_float(size[1]) if size else 0.0)
        units.append(re.sub("&#(?:181|xB5);", "µ", unit[1]) if unit else "µm")
    return measure_pixel((sizes[0], sizes[1]), (units[0], units[1]))


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _read_resolution(page: Any) -> tuple[float, float]:
    """Rows and columns of pixels in a unit of length; 0 if unknown."""
    found = []
    for code in (_Y_RESOLUTION, _X_RESOLUTION):
        value = page.tags.valueof(code, (0, 1))
        known = isinstance(value, tuple) and len(value) == 2 and value[0] > 0 and value[1] > 0
        found.append(value[0] / value[1] if known else 0.0)
    return found[0], found[1]
