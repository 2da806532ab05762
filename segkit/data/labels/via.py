"""VGG Image Annotator (VIA) 1 and 2: one JSON file for many images, or a project.

https://www.robots.ox.ac.uk/~vgg/software/via/
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.core.errors import SegkitError
from segkit.data.labels.base import Annotations, LabelFormat, Region, Shape
from segkit.data.labels.draft import Draft, explain
from segkit.data.labels.json_files import as_dict, as_list, read_json
from segkit.data.labels.outlines import (
    check_ring,
    fill_ring,
    make_box,
    make_ellipse,
    read_pairs,
    rotate_ring,
)
from segkit.data.labels.tree import FileTree, contains_all, find_split, read_start

_KEYS = [rb'"filename"\s*:', rb'"shape_attributes"\s*:']
_WITHOUT_AREA = ("point", "polyline")
_CALLED = ("label", "labels", "class", "name", "category", "type", "object")
"""Attributes that are taken for the class where regions have several."""


class ViaFormat(LabelFormat, name="via"):
    """JSON files that map images to ``regions`` with ``shape_attributes``.

    The class is the only attribute of regions, or the one that is called label, class, name, type
    or the like; without attributes all are of the class "object". An image without regions shows
    the background.
    """

    title = "VGG Image Annotator (VIA) JSON"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The JSON files with names of files and shapes."""
        return [
            path
            for path in map(tree.path, tree.list_files(".json"))
            if read_start(path, 1) == b"{" and contains_all(path, _KEYS)
        ]

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """Read all files; the split is that of a file's name or folder."""
        draft = Draft(tree)
        for path in files:
            file = tree.relative(path)
            try:
                content = as_dict(read_json(path))
            except SegkitError as error:
                draft.report(file, explain(error))
                continue
            content = as_dict(content.get("_via_img_metadata", content))
            entries = [e for e in content.values() if isinstance(e, dict) and "filename" in e]
            regions = [region for entry in entries for region in _list_regions(entry)]
            try:
                attribute = _find_class(regions)
            except SegkitError as error:
                draft.report(file, explain(error))
                continue
            if attribute is not None:
                draft.notes.append(f"classes are the attribute '{attribute}' in {file}")
            for entry in entries:
                name = str(entry["filename"])
                try:
                    image = tree.find_image(name, [posixpath.dirname(file), *tree.list_near(file)])
                except SegkitError as error:
                    draft.report(file, explain(error))
                    continue
                shapes = _read_shapes(entry, attribute, f"{file}, {name}", draft)
                draft.add_image(image, shapes, file, split=find_split(file))
        return draft.finish()


def _list_regions(entry: dict[str, Any]) -> list[dict[str, Any]]:
    regions = entry.get("regions")  # VIA 1 has an object with numbers as keys
    found = regions.values() if isinstance(regions, dict) else as_list(regions)
    return [as_dict(region) for region in found]


def _find_class(regions: Sequence[dict[str, Any]]) -> str | None:
    """The attribute that is the class; None if there are no attributes."""
    keys = Counter(key for region in regions for key in as_dict(region.get("region_attributes")))
    called = [key for key in keys if key.lower() in _CALLED]
    best = min(called, key=lambda key: _CALLED.index(key.lower())) if called else None
    if best is None and len(keys) > 1:
        raise SegkitError(
            f"regions have several attributes ({', '.join(keys)}), and none is called"
            f" {' or '.join(_CALLED[:3])}: rename the one that is the class"
        )
    return best or next(iter(keys), None)


def _read_shapes(
    entry: dict[str, Any], attribute: str | None, place: str, draft: Draft
) -> Iterator[Shape]:
    for number, region in enumerate(_list_regions(entry), start=1):
        shape = as_dict(region.get("shape_attributes"))
        kind = str(shape.get("name"))
        if kind in _WITHOUT_AREA:
            draft.count(f"{kind}s are not used: they have no area")
            continue
        try:
            name = _read_class(as_dict(region.get("region_attributes")), attribute)
            drawn = _read_region(kind, shape)
        except SegkitError as error:
            draft.report(f"{place}, region {number}", explain(error))
            continue
        yield Shape(draft.add_category(name), drawn)


def _read_class(attributes: dict[str, Any], attribute: str | None) -> str:
    """The class of a region; of check boxes the only one that is set."""
    if attribute is None:
        return "object"
    value = attributes.get(attribute)
    if isinstance(value, dict):
        chosen = [str(key) for key, is_set in value.items() if is_set]
        value = chosen[0] if len(chosen) == 1 else None
    if value is None or not str(value).strip():
        raise SegkitError(f"it has no class: its attribute '{attribute}' is empty")
    return str(value).strip()


def _read_region(kind: str, shape: dict[str, Any]) -> Region:
    if kind == "polygon":
        x, y = as_list(shape.get("all_points_x")), as_list(shape.get("all_points_y"))
        if len(x) != len(y):
            raise SegkitError(f"it has {len(x)} x and {len(y)} y")
        return fill_ring(check_ring(read_pairs(list(zip(x, y, strict=True)))))
    keys = {
        "rect": ("x", "y", "width", "height"),
        "circle": ("cx", "cy", "r", "r"),
        "ellipse": ("cx", "cy", "rx", "ry"),
    }
    if kind not in keys:
        raise SegkitError(f"the shape '{kind}' is not known")
    try:
        a, b, c, d = (float(shape[key]) for key in keys[kind])
        theta = float(shape.get("theta", 0))
    except (KeyError, TypeError, ValueError):
        raise SegkitError(f"its {kind} has not the numbers {', '.join(keys[kind])}") from None
    if kind == "rect":
        return fill_ring(make_box(a, b, a + c, b + d))
    return fill_ring(rotate_ring(make_ellipse(a, b, c, d), float(np.rad2deg(theta)), a, b))
