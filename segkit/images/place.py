"""Where pixels lie in the world, to write it into the files of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

Tag = tuple[int, int, int, Any, bool]
"""A tag as an item of tifffile's extratags."""


@dataclass(frozen=True)
class Place:
    """Where the pixels of an image lie, as far as its file says so.

    Attributes:
        transform: (a, b, c, d, e, f) of GDAL and rasterio, for corners of pixels: x = a * column +
            b * row + c, y = d * column + e * row + f. None if unknown.
        crs: The coordinate system of x and y, such as "EPSG:32633"; None if it is unknown or has no
            number.
        pixel_size: Height and width of a pixel in micrometres; None if unknown.
        tags: The GeoTIFF tags, to be copied unchanged to files with the same pixels.
        nodata: The value of pixels without data. It is the image's, and not one of masks.
    """

    transform: tuple[float, float, float, float, float, float] | None = None
    crs: str | None = None
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


def to_tiff_options(place: Place) -> dict[str, Any]:
    """The arguments of tifffile.TiffWriter.write that put a place into a file.

    These are the tags of GeoTIFF, unchanged, and the size of a pixel as resolution. A value for
    pixels without data is left out, because the new file holds other values.
    """
    options: dict[str, Any] = {}
    if place.tags:
        options["extratags"] = list(place.tags)
    if place.pixel_size:
        height, width = place.pixel_size
        per_centimetre = MICROMETRES["cm"]
        options["resolution"] = per_centimetre / width, per_centimetre / height
        options["resolutionunit"] = "CENTIMETER"
    return options
