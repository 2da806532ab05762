"""Outlines of what was predicted: GeoJSON for each image, or COCO for all of them.

Outlines follow the edges of the pixels: the pixel in row 3 and column 5 is the square from (5, 3)
to (6, 4), x to the right and y downwards. So they are exact: filled again, they give the mask.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.core.errors import SegkitError
from segkit.inference.objects.object_classes import ObjectClass, classes_of_objects, object_classes

Ring = list[tuple[float, float]]
"""Corners (x, y) of a closed line; the first one is repeated at the end."""


@dataclass(frozen=True)
class Outline:
    """An object, or a connected region of a class.

    Attributes:
        id: The object's id in the map of ids; regions are numbered from 1.
        category: Index of its class among the categories.
        area: Its pixels.
        box: Left, top, width, height in pixels.
        parts: Polygons, each a list of rings: the outer one, then those of its holes.
    """

    id: int
    category: int
    area: int
    box: tuple[int, int, int, int]
    parts: list[list[Ring]]


_alone = threading.Lock()
"""Rasterio silences a warning by filters that threads share: two at once would let it out."""


def require_polygons() -> None:
    """Raise where the packages are missing.

    Raises:
        SegkitError: rasterio or pycocotools is not installed.
    """
    try:
        # whether they are there is all that is asked
        import pycocotools.mask  # noqa: F401
        import rasterio.features  # noqa: F401
    except ImportError as error:
        raise SegkitError(
            f"polygons need rasterio and pycocotools ({error}): pip install"
            " 'segkit-torch[polygons]'."
        ) from error


def categories(card: ModelCard, with_objects: bool) -> list[ObjectClass]:
    """The classes that outlines can have, in the order of the labels, without the background.

    Args:
        card: Of the model.
        with_objects: Whether objects were told apart.
    """
    if with_objects:
        return object_classes(card)
    return [
        ObjectClass(name, color)
        for label, (name, color) in enumerate(zip(card.class_names, card.class_colors, strict=True))
        if card.mode == "multilabel" or label != card.background
    ]


def outlines(
    labels: NDArray[Any], instances: NDArray[np.int32] | None, card: ModelCard
) -> list[Outline]:
    """Outline each object; where objects were not told apart, each connected region of a class.

    Connected means by an edge, not by a corner. An object may be in several parts.

    Args:
        labels: (H, W), of overlapping classes (N, H, W) of 0 and 1.
        instances: Ids of objects (H, W), 0 the background, or None.
        card: Of the model.
    """
    if instances is not None:
        known = classes_of_objects(instances, labels, card)
        return [
            _outline(number, known[number], parts) for number, parts in _grouped(instances).items()
        ]
    if card.mode == "multilabel":
        layers = [(layer > 0, number) for number, layer in enumerate(labels)]
    else:
        kept = [n for n in range(card.num_classes) if n != card.background]
        layers = [(labels == label, number) for number, label in enumerate(kept)]
    found: list[Outline] = []
    for inside, category in layers:
        for _, rings in _polygons(inside.astype(np.uint8)):
            found.append(_outline(len(found) + 1, category, [rings]))
    return found


def geojson(found: Iterable[Outline], known: Sequence[ObjectClass]) -> str:
    """A FeatureCollection, with the properties that QuPath shows.

    Each feature has ``id``, ``class``, ``area`` in pixels, and QuPath's ``objectType`` and
    ``classification``. The coordinates are pixels, not degrees.
    """
    features = []
    for outline in found:
        category = known[outline.category]
        several = len(outline.parts) > 1
        features.append(
            {
                "type": "Feature",
                "geometry": {
                    "type": "MultiPolygon" if several else "Polygon",
                    "coordinates": outline.parts if several else outline.parts[0],
                },
                "properties": {
                    "objectType": "annotation",
                    "id": outline.id,
                    "class": category.name,
                    "area": outline.area,
                    "classification": {"name": category.name, "color": list(category.color)},
                },
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features})


def coco_image(
    found: Iterable[Outline], name: str, size: tuple[int, int], page: int | None = None
) -> dict[str, Any]:
    """What COCO has of an image: its entry and its annotations, whose ids :func:`coco` gives.

    The segmentation is a list of polygons, or run lengths (RLE) where there are holes, for
    polygons in COCO have none.

    Args:
        found: Its outlines.
        name: The image's file name.
        size: Height and width.
        page: Which page of the file it is, where there are several.
    """
    entry: dict[str, Any] = {"file_name": name, "height": size[0], "width": size[1]}
    if page is not None:
        entry["page"] = page
    return {
        "image": entry,
        "annotations": [
            {
                "category_id": outline.category + 1,
                "segmentation": _segmentation(outline, size),
                "area": outline.area,
                "bbox": list(outline.box),
                "iscrowd": 0,
            }
            for outline in found
        ],
    }


def coco(images: Iterable[dict[str, Any]], known: Sequence[ObjectClass]) -> str:
    """The file of a folder, of what :func:`coco_image` gave for each image, numbered in order."""
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in images:
        entries.append({"id": len(entries) + 1, **image["image"]})
        for annotation in image["annotations"]:
            numbers = {"id": len(annotations) + 1, "image_id": len(entries)}
            annotations.append({**numbers, **annotation})
    return json.dumps(
        {
            "images": entries,
            "annotations": annotations,
            "categories": [
                {"id": number, "name": category.name, "color": list(category.color)}
                for number, category in enumerate(known, start=1)
            ],
        }
    )


def _grouped(ids: NDArray[np.int32]) -> dict[int, list[list[Ring]]]:
    """The polygons of each id, in the order of the ids."""
    found: dict[int, list[list[Ring]]] = {}
    for number, rings in _polygons(ids):
        found.setdefault(number, []).append(rings)
    return dict(sorted(found.items()))


def _polygons(values: NDArray[Any]) -> Iterable[tuple[int, list[Ring]]]:
    """The connected regions of each value but 0."""
    from rasterio.features import shapes

    with _alone:
        found = list(shapes(values, mask=values != 0, connectivity=4))
    for geometry, value in found:
        yield int(value), geometry["coordinates"]


def _outline(number: int, category: int, parts: list[list[Ring]]) -> Outline:
    area = sum(
        abs(_area(rings[0])) - sum(abs(_area(hole)) for hole in rings[1:]) for rings in parts
    )
    corners = np.concatenate([np.asarray(rings[0]) for rings in parts])
    left, top = (int(low) for low in corners.min(axis=0))
    right, bottom = (int(high) for high in corners.max(axis=0))
    box = (left, top, right - left, bottom - top)
    return Outline(number, int(category), round(area), box, parts)


def _area(ring: Ring) -> float:
    """The shoelace formula: half the sum of x_i y_(i+1) - x_(i+1) y_i."""
    x, y = np.asarray(ring, dtype=np.float64).T
    return float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2


def _segmentation(outline: Outline, size: tuple[int, int]) -> Any:
    from pycocotools import mask as rle
    from rasterio import Affine
    from rasterio.features import rasterize

    if all(len(rings) == 1 for rings in outline.parts):
        return [_flat(rings[0]) for rings in outline.parts]
    left, top, width, height = outline.box
    shape = {"type": "MultiPolygon", "coordinates": outline.parts}
    place = Affine.translation(left, top)
    with _alone:
        filled = rasterize([(shape, 1)], out_shape=(height, width), transform=place, dtype="uint8")
    # Runs go down the columns of the whole image, 0 and 1 in turns, the first one of 0.
    steps = np.diff(np.pad(filled.T, ((0, 0), (1, 1))).astype(np.int8))  # (width, height + 1)
    edges = []
    for sign in (1, -1):
        column, row = np.nonzero(steps == sign)
        edges.append((left + column) * size[0] + top + row)
    places = np.concatenate([[0], np.stack(edges, axis=1).ravel(), [size[0] * size[1]]])
    runs = {"size": list(size), "counts": np.diff(places).tolist()}
    counts = rle.frPyObjects(runs, *size)["counts"]
    return {"size": list(size), "counts": counts.decode("ascii")}


def _flat(ring: Ring) -> list[float]:
    """x, y, x, y ... without the repeated corner."""
    return [float(value) for corner in ring[:-1] for value in corner]
