"""GeoJSON of QuPath: one file for each image, with outlines in pixels.

https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segkit.core.errors import SegkitError
from segkit.data.labels.base import (
    BACKGROUND,
    Annotations,
    Color,
    LabelFormat,
    Polygon,
    Polygons,
    Ring,
    Shape,
)
from segkit.data.labels.draft import Draft, explain, read_color
from segkit.data.labels.json_files import as_dict, as_list, read_json
from segkit.data.labels.outlines import read_points
from segkit.data.labels.tree import FileTree, contains_all, read_start
from segkit.data.layout.splits import find_split_of_path

_KEYS = [rb'"geometry"\s*:', rb'"(objectType|object_type|classification)"\s*:']
_EMPTY = [rb'"FeatureCollection"', rb'"features"\s*:\s*\[\s*\]']
_DETECTIONS = ("detection", "cell")


class QupathFormat(LabelFormat, name="qupath"):
    """GeoJSON files named like their images.

    Annotations are drawn from large to small, so that a region inside another one shows, then
    detections and cells. The class "Ignore*" is ignored, other classes that end with "*" are not
    used. If nothing has a class, all detections, or else all annotations, are of the class
    "object"; otherwise what has no class is not used.
    """

    title = "QuPath GeoJSON"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The GeoJSON files with QuPath's properties, and empty ones beside them."""
        paths = [
            path
            for path in map(tree.path, tree.list_files(".geojson", ".json"))
            if _may_be_geojson(path)
        ]
        found = [path for path in paths if contains_all(path, _KEYS)]
        folders = {path.parent for path in found}
        rest = (path for path in set(paths) - set(found) if path.parent in folders)
        return sorted([*found, *(path for path in rest if contains_all(path, _EMPTY))])

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """Read one file after the other; the split is that of a file's folder."""
        draft = Draft(tree, "outlines")
        read: list[tuple[str, tuple[str, int | None], list[_Object]]] = []
        near: dict[str, list[str]] = {}
        for path in files:
            file = tree.relative(path)
            folder = posixpath.dirname(file)
            if folder not in near:
                near[folder] = [folder, *tree.list_near(file)]
            try:
                image = _find_image(file, near[folder], tree)
                features = _list_features(read_json(path))
            except SegkitError as error:
                draft.report(file, explain(error))
                continue
            read.append((file, image, list(_read_objects(features, file, draft))))
        kinds = {(each.name is not None, each.is_detection) for *_, all_ in read for each in all_}
        without = None if any(named for named, _ in kinds) else (False, True) in kinds
        for file, image, objects in read:
            shapes = list(_make_shapes(objects, without, draft))
            split = find_split_of_path(posixpath.dirname(file))
            draft.add_image(image[0], shapes, file, split=split, page=image[1])
        return draft.finish()


class _Object(NamedTuple):
    """A feature with an area."""

    name: str | None
    color: Color | None
    is_detection: bool
    region: Polygons


def _may_be_geojson(path: Path) -> bool:
    start = read_start(path)
    return start[:1] in (b"{", b"[") and (b'"Feature' in start or path.suffix == ".geojson")


def _find_image(file: str, near: list[str], tree: FileTree) -> tuple[str, int | None]:
    """The image of a GeoJSON: the same name without the suffix or with another one.

    The file may lie beside the image, or in a folder with the sub-folders of the images, as
    segkit's own in ``polygons``. Those of a stack are called like its pages, in a folder that is
    called like the stack.
    """
    folder, name = posixpath.split(posixpath.splitext(file)[0])
    parts = [*folder.split("/"), name] if folder else [name]
    for first in range(len(parts) - 1):
        with suppress(SegkitError):
            return tree.find_by_stem("/".join(parts[first:]), near), None
    for first in range(len(parts) - 1) if name.isdecimal() else ():
        with suppress(SegkitError):
            return tree.find_by_stem("/".join(parts[first:-1]), near), int(name)
    try:
        return tree.find_by_stem(name, near), None
    except SegkitError:
        if not posixpath.splitext(name)[1]:
            raise
        return tree.find_image(name, near), None  # "a.tif.geojson"


def _list_features(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    features = as_dict(content).get("features")
    if isinstance(features, list):
        return features
    if as_dict(content).get("type") == "Feature":
        return [content]
    raise SegkitError("it is neither a FeatureCollection nor a list of features")


def _read_objects(features: list[Any], file: str, draft: Draft) -> Iterator[_Object]:
    for number, feature in enumerate(features, start=1):
        geometry = as_dict(as_dict(feature).get("geometry"))
        properties = as_dict(as_dict(feature).get("properties"))
        kind = str(geometry.get("type"))
        if kind not in ("Polygon", "MultiPolygon"):
            draft.count(f"features of the type {kind} are not used: they have no area")
            continue
        object_type = str(properties.get("objectType") or properties.get("object_type") or "")
        if object_type.lower() in ("tile", "root", "tmacore", "tma_core"):
            draft.count(f"objects of the type {object_type} are not used")
            continue
        plane = as_dict(geometry.get("plane"))
        if plane.get("z") or plane.get("t"):
            draft.count("objects on another plane than the first are not used")
            continue
        coordinates = as_list(geometry.get("coordinates"))
        parts = coordinates if kind == "MultiPolygon" else [coordinates]
        try:
            region = Polygons(tuple(_read_polygon(part) for part in parts))
            if not region.parts:
                raise SegkitError("it has no coordinates")
        except SegkitError as error:
            draft.report(f"{file}, feature {number}", explain(error))
            continue
        name, color = _read_class(properties.get("classification"))
        yield _Object(name, color, object_type.lower() in _DETECTIONS, region)


def _read_polygon(rings: Any) -> Polygon:
    if not as_list(rings):
        raise SegkitError("it has no coordinates")
    outer, *holes = (read_points(ring) for ring in rings)
    return Polygon(outer, tuple(holes))


def _read_class(value: Any) -> tuple[str | None, Color | None]:
    """Name and colour of a classification, which older files have as a number with the sign."""
    found = as_dict(value)
    names = [str(name) for name in as_list(found.get("names"))]
    name = found.get("name") or ": ".join(names) or (value if isinstance(value, str) else None)
    color = read_color(found.get("color"))
    return (str(name) if name else None), color or read_color(found.get("colorRGB"))


def _make_shapes(
    objects: list[_Object], only_detections: bool | None, draft: Draft
) -> Iterator[Shape]:
    """Shapes in the order in which they are drawn.

    Args:
        objects: Of one image.
        only_detections: If nothing has a class, whether there are detections; else None.
        draft: Collects the notes.
    """
    for each in sorted(objects, key=_find_order):
        if each.name is None and only_detections is None:
            draft.count("objects have no class and are not used")
        elif each.name is None and only_detections and not each.is_detection:
            draft.count("annotations around detections are not used")
        elif each.name is None:
            yield Shape(draft.add_category("object"), each.region)
        elif each.name.rstrip("*").lower() == "ignore":
            yield Shape(BACKGROUND, each.region, ignored=True)
        elif each.name.endswith("*"):
            draft.count(f"objects of the class {each.name} are not used")
        else:
            yield Shape(draft.add_category(each.name, each.color), each.region)


def _find_order(each: _Object) -> tuple[bool, float]:
    area = sum(_find_area(part.outer) for part in each.region.parts)
    return each.is_detection, 0.0 if each.is_detection else -area


def _find_area(ring: Ring) -> float:
    x, y = (ring - ring[0]).T
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:]))) / 2
