"""Whole slides of Aperio, Hamamatsu and Leica: TIFFs whose first image is the slide.

Thumbnails, labels and overviews of the glass are no pages. Focal planes are, and the regions of a
Leica slide. ``FILE::2`` is a smaller level, 0 the full size; ``FILE::10x`` and ``FILE::0.5um`` are
the smallest levels with at least that magnification, or with pixels of at most that size.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from segkit.core.errors import SegkitError
from segkit.images.formats.base import ImageFormat, Pages
from segkit.images.formats.tiff import SLIDES, Tiff, TiffPages
from segkit.images.place import Place
from segkit.images.tiff_place import read_dpi_place

TOLERANCE = 0.02
"""How much a level may fall short of a wanted magnification: sizes are rounded to whole pixels."""

_NUMBER = r"(\d+(?:\.\d+)?)"
_SOURCE_LENS = 65421  # Hamamatsu's tag


class Slide(ImageFormat, name="slide"):
    """Whole slides in a TIFF."""

    title = "slide"
    suffixes = SLIDES
    starts = Tiff.starts
    has_arrays = True

    @classmethod
    def owns(cls, path: Path, start: bytes) -> bool:
        """By magic and ending, as the first bytes are those of any TIFF."""
        return start.startswith(cls.starts) and path.suffix.lower() in cls.suffixes

    @classmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Open a level.

        Raises:
            SegkitError: There is no such level.
        """
        assert isinstance(file, Path)
        return SlidePages(file, array or "0")


class SlidePages(TiffPages):
    """A level of a slide: its only image, or regions or focal planes as pages."""

    def __init__(self, file: Path, wanted: str) -> None:
        self._wanted = wanted
        self._places: list[Place | None] = []
        super().__init__(file)

    def list_images(self) -> None:
        """Find the images of the level."""
        series = list(self.file.series)
        if not series:
            return
        regions = [series[0]]
        if self.file.is_scn:
            regions = _drop_overviews(series, self.file.scn_metadata or "")
        level = _choose_level(self._wanted, regions[0], self.file)
        for region in regions:
            if level >= len(region.levels):
                raise SegkitError(f"not all of its {len(regions)} regions have a level {level}.")
            count = self.add_series(region.levels[level])
            self._places += [_measure_level(region, level, self.file)] * count

    def read_place(self, page: int) -> Place | None:
        """The size of a pixel of the level."""
        return self._places[page]


def _drop_overviews(series: list[Any], xml: str) -> list[Any]:
    """The series of a Leica slide that do not show the whole glass."""
    names = ("collection", "image", "view")
    found: dict[str, list[Any]] = {name: [] for name in names}
    for node in ElementTree.fromstring(xml).iter():
        name = node.tag.rpartition("}")[2]
        if name in names:
            found[name].append(node)
    if len(found["collection"]) != 1 or len(found["view"]) != len(series):
        return series
    sides = ("sizeX", "sizeY")
    whole = [found["collection"][0].get(side) for side in sides]
    kept = [
        each
        for each, view in zip(series, found["view"], strict=True)
        if [view.get(side) for side in sides] != whole
    ]
    return kept or series


def _choose_level(wanted: str, region: Any, tif: Any) -> int:
    """The number of the level that a name stands for."""
    count = len(region.levels)
    if re.fullmatch(r"\d+", wanted) and int(wanted) < count:
        return int(wanted)
    by_power = re.fullmatch(_NUMBER + "x", wanted.lower())
    by_size = re.fullmatch(_NUMBER + "(?:um|µm|μm)", wanted.lower())
    factors = [_shrink(region, level) for level in range(count)]
    power, places = _read_power(tif), [_measure_level(region, n, tif) for n in range(count)]
    sizes = [place.pixel_size[0] if place and place.pixel_size else None for place in places]
    fine: list[int] = []
    if by_power and power:
        least = float(by_power[1]) * (1 - TOLERANCE)
        fine = [n for n, factor in enumerate(factors) if power / factor >= least]
    elif by_size:
        most = float(by_size[1]) * (1 + TOLERANCE)
        fine = [n for n, size in enumerate(sizes) if size is not None and size <= most]
    if fine:
        return max(fine, key=lambda n: factors[n])
    listed = []
    for n, (level, factor) in enumerate(zip(region.levels, factors, strict=True)):
        height, width = _read_size(level)
        magnified = f", {power / factor:.3g}x" if power else ""
        measured = f", {sizes[n]:.3g}um" if sizes[n] else ""
        listed.append(f"{n} ({width} x {height}{magnified}{measured})")
    raise SegkitError(f"it has no level '{wanted}'; its levels are {', '.join(listed)}.")


def _read_size(level: Any) -> tuple[int, int]:
    """Height and width of a level."""
    return int(level.keyframe.imagelength), int(level.keyframe.imagewidth)


def _shrink(region: Any, level: int) -> float:
    """How many pixels of full size are one of a level, along a side."""
    (height, width), (h, w) = _read_size(region.levels[0]), _read_size(region.levels[level])
    return (height / h + width / w) / 2


def _read_power(tif: Any) -> float | None:
    """The magnification of the objective."""
    first = tif.pages.first
    lens = first.tags.valueof(_SOURCE_LENS)
    if isinstance(lens, int | float) and lens > 0:
        return float(lens)
    text = str(first.description)
    found = re.search(rf"AppMag\s*=\s*{_NUMBER}|<objective>\s*{_NUMBER}", text)
    return float(found[1] or found[2]) or None if found else None


def _measure_level(region: Any, level: int, tif: Any) -> Place | None:
    """The size of a pixel of a level."""
    place = read_dpi_place(region.levels[0].keyframe)
    told = re.search(rf"MPP\s*=\s*{_NUMBER}", str(tif.pages.first.description))
    size = place.pixel_size if place else None
    if told and float(told[1]):
        size = float(told[1]), float(told[1])
    if size is None:
        return None
    (height, width), (h, w) = _read_size(region.levels[0]), _read_size(region.levels[level])
    return Place(pixel_size=(size[0] * height / h, size[1] * width / w))
