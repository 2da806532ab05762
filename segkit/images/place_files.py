"""The place of an image by the files beside it: GDAL's .aux.xml, and world files.

As in GDAL, a transform in .aux.xml replaces that of the image, and a world file counts where the
image itself has none; it then counts more than .aux.xml, from which only the system is taken.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segkit.images.place import GEO_KEYS, MATRIX, PIXEL_SCALE, TIE_POINTS, Place, Tag, Transform

ENDINGS = (".aux.xml", ".wld", ".tfw", ".jgw", ".pgw", ".bpw", ".gfw", ".j2w", ".wpw")
"""Usual endings of such files in lower case."""
_PROJECTED, _GEOGRAPHIC = ("PROJCS[", "PROJCRS["), ("GEOGCS[", "GEOGCRS[")
_EPSG = re.compile(r'(?:AUTHORITY\["EPSG","(\d+)"\]|ID\["EPSG",(\d+)\])\s*\]\s*$')


def read_place_beside(file: Path, place: Place | None) -> Place | None:
    """The place of an image whose own file gives ``place``."""
    aux = _read_text(file.with_name(f"{file.name}.aux.xml"))
    has_own = place is not None and place.transform is not None
    transform = (None if has_own else _read_world(file)) or _read_aux_transform(aux)
    if transform is None:
        return place
    model, code = _read_aux_system(aux)
    return replace(
        place or Place(),
        transform=transform,
        crs=f"EPSG:{code}" if code else None,
        tags=_make_tags(transform, model, code),
    )


def _read_text(file: Path) -> str:
    try:
        return file.read_text("utf-8", errors="replace")
    except OSError:  # most images have none
        return ""


def _read_numbers(texts: Sequence[str]) -> list[float]:
    """Six numbers, with points or commas; empty if they are none, or damaged."""
    try:
        numbers = [float(text.strip().replace(",", ".")) for text in texts[:6]]
    except ValueError:
        return []
    return numbers if len(numbers) == 6 and all(map(math.isfinite, numbers)) else []


def _read_aux_transform(aux: str) -> Transform | None:
    found = re.search(r"<GeoTransform>(.*?)</GeoTransform>", aux, re.DOTALL)
    numbers = _read_numbers(found[1].split(",")) if found else []
    if not numbers:
        return None
    c, a, b, f, d, e = numbers
    return a, b, c, d, e, f


def _read_aux_system(aux: str) -> tuple[int, int]:
    """GeoTIFF's kind of a system, 1 projected and 2 geographic, and its EPSG code; else 0."""
    found = re.search(r"<SRS[^>]*>(.*?)</SRS>", aux, re.DOTALL)
    text = html.unescape(found[1]).strip() if found else ""
    code = _EPSG.search(text)
    model = 1 if text.startswith(_PROJECTED) else 2 if text.startswith(_GEOGRAPHIC) else 0
    return (model, int(code[1] or code[2])) if code and model else (0, 0)


def _read_world(file: Path) -> Transform | None:
    """The transform of a world file, which tells where the centre of the first pixel is."""
    ending = file.suffix.lower()
    if len(ending) < 3:
        return None
    for own in (f".{ending[1]}{ending[-1]}w", f"{ending}w", ".wld"):
        for each in (own, own.upper()):
            numbers = _read_numbers(_read_text(file.with_suffix(each)).split())
            if numbers:
                a, d, b, e, x, y = numbers
                if (a or b) and (d or e):
                    return a, b, x - (a + b) / 2, d, e, y - (d + e) / 2
    return None


def _make_tags(transform: Transform, model: int, code: int) -> tuple[Tag, ...]:
    """The tags of a GeoTIFF in this place."""
    a, b, c, d, e, f = transform
    if b == d == 0 and a > 0 > e:
        numbers: dict[int, tuple[float, ...]] = {
            PIXEL_SCALE: (a, -e, 0.0),
            TIE_POINTS: (0.0, 0.0, 0.0, c, f, 0.0),
        }
    else:
        numbers = {MATRIX: (a, b, 0.0, c, d, e, 0.0, f, *(0.0,) * 7, 1.0)}
    tags: list[Tag] = [(tag, 12, len(values), values, False) for tag, values in numbers.items()]
    if code:
        # three keys: the model, that pixels are areas, and the system
        keys = 1, 1, 0, 3, 1024, 0, 1, model, 1025, 0, 1, 1, {1: 3072, 2: 2048}[model], 0, 1, code
        tags.append((GEO_KEYS, 3, len(keys), keys, False))
    return tuple(tags)
