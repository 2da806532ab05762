"""Outlines of predicted objects or regions: GeoJSON for each image, or COCO for a folder.

Outlines follow the edges of pixels: the pixel in row 3 and column 5 is the square from (5, 3) to
(6, 4), x to the right and y downwards. They are exact: filled again, they give the mask.
"""

from __future__ import annotations

import importlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon
from shapely.affinity import affine_transform
from shapely.geometry import mapping, shape

from segkit.checkpoint.card import ModelCard
from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.images.formats.base import find_ending, join_array, name_channels, split_array
from segkit.images.place import Place
from segkit.inference.objects.object_classes import (
    ObjectClass,
    classify_objects,
    list_object_classes,
)
from segkit.predict.inputs import Page
from segkit.predict.record import Record, remove

COCO = "coco.json"
"""File name in the output folder."""

_rasterio = threading.Lock()
"""Rasterio silences a warning through filters that all threads share."""


class Outline(NamedTuple):
    """An object, or a connected region of a class.

    Attributes:
        id: The object's id in the map of ids; regions are numbered from 1.
        category: Index of its class in :func:`list_categories`.
        geometry: In pixels, with holes.
    """

    id: int
    category: int
    geometry: Polygon | MultiPolygon

    @property
    def area(self) -> int:
        """Pixels."""
        return round(self.geometry.area)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width, height in pixels."""
        left, top, right, bottom = map(int, self.geometry.bounds)
        return left, top, right - left, bottom - top

    @property
    def parts(self) -> Sequence[Polygon]:
        """The polygons of the geometry."""
        return getattr(self.geometry, "geoms", [self.geometry])


def require_polygons() -> None:
    """Check that rasterio is installed."""
    try:
        importlib.import_module("rasterio.features")
    except ImportError as error:
        raise SegkitError(
            f"polygons need rasterio ({error}): pip install 'segkit-torch[polygons]'."
        ) from error


def list_categories(card: ModelCard, with_objects: bool) -> list[ObjectClass]:
    """The classes that outlines can have, in the order of the labels, without the background."""
    if with_objects:
        return list_object_classes(card)
    return [
        ObjectClass(name, color)
        for label, (name, color) in enumerate(zip(card.class_names, card.class_colors, strict=True))
        if card.mode == "multilabel" or label != card.background
    ]


def find_outlines(
    labels: NDArray[Any], instances: NDArray[np.int32] | None, card: ModelCard
) -> list[Outline]:
    """Outline each object, or without objects each connected region of a class.

    Pixels are connected by edges, not by corners. An object may consist of several parts.

    Args:
        labels: (H, W), for overlapping classes (N, H, W) of 0 and 1.
        instances: Ids of objects (H, W), 0 the background, or None.
        card: The model's card.
    """
    if instances is not None:
        classes = classify_objects(instances, labels, card)
        parts: dict[int, list[Polygon]] = defaultdict(list)
        for number, polygon in _trace(instances, instances > 0):
            parts[number].append(polygon)
        return [
            Outline(number, int(classes[number]), each[0] if len(each) == 1 else MultiPolygon(each))
            for number, each in sorted(parts.items())
        ]
    if card.mode == "multilabel":
        found = [
            (i, each) for i, layer in enumerate(labels) for _, each in _trace(layer, layer > 0)
        ]
    else:
        first = 0 if card.background is None else 1
        found = [(label - first, each) for label, each in _trace(labels, labels >= first)]
        found.sort(key=itemgetter(0))
    return [Outline(number, *region) for number, region in enumerate(found, start=1)]


def to_geojson(
    found: Iterable[Outline], categories: Sequence[ObjectClass], place: Place | None = None
) -> str:
    """A FeatureCollection with the properties that QuPath shows.

    Each feature has ``id``, ``class``, ``area`` in pixels, and QuPath's ``objectType`` and
    ``classification``. The coordinates are pixels or, of a georeferenced image, those of its
    coordinate system, which is named.
    """
    features = []
    transform = None if place is None else place.transform
    for outline in found:
        category = categories[outline.category]
        features.append(
            {
                "type": "Feature",
                "geometry": mapping(_locate(outline.geometry, transform)),
                "properties": {
                    "objectType": "annotation",
                    "id": outline.id,
                    "class": category.name,
                    "area": outline.area,
                    "classification": {"name": category.name, "color": list(category.color)},
                },
            }
        )
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if place is not None and place.transform and place.crs:
        name = f"urn:ogc:def:crs:{place.crs.replace(':', '::')}"
        collection["crs"] = {"type": "name", "properties": {"name": name}}
    return json.dumps(collection)


def _locate(geometry: Any, transform: tuple[float, ...] | None) -> Any:
    if transform is None:
        return geometry
    a, b, c, d, e, f = transform
    return affine_transform(geometry, [a, b, d, e, c, f])


def to_coco_image(page: Page, found: Iterable[Outline]) -> dict[str, Any]:
    """Make the COCO entry of a page and its annotations, still without ids.

    The segmentation is a list of polygons, or run lengths (RLE) if there are holes, which COCO's
    polygons cannot have.
    """
    height, width = page.image.shape[:2]
    file, array = split_array(page.file.path)
    if name_channels(file):
        file = Path(page.file.stem.name + find_ending(file.name))
    name = join_array(page.file.stem.parent / file.name, array).as_posix()
    entry: dict[str, Any] = {"file_name": name, "height": height, "width": width}
    if page.total > 1:
        entry["page"] = page.number
    annotations = [
        {
            "category_id": outline.category + 1,
            "segmentation": _to_segmentation(outline, height, width),
            "area": outline.area,
            "bbox": list(outline.box),
            "iscrowd": 0,
        }
        for outline in found
    ]
    order = {"file": page.file.stem.as_posix(), "page": page.number}
    return {**order, "image": entry, "annotations": annotations}


def join_coco(images: Iterable[dict[str, Any]], categories: Sequence[ObjectClass]) -> str:
    """Make the COCO file of images from :func:`to_coco_image`, numbered in their order."""
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in images:
        entries.append({"id": len(entries) + 1, **image["image"]})
        for annotation in image["annotations"]:
            ids = {"id": len(annotations) + 1, "image_id": len(entries)}
            annotations.append({**ids, **annotation})
    return json.dumps(
        {
            "images": entries,
            "annotations": annotations,
            "categories": [
                {"id": number, "name": category.name, "color": list(category.color)}
                for number, category in enumerate(categories, start=1)
            ],
        }
    )


class CocoFile:
    """The coco.json of an output folder.

    Several processes may write it, also after an interruption: each image leaves its part beside
    the record, and every process joins all parts at its end. A coco.json that this command did not
    write is replaced only with ``overwrite``.
    """

    def __init__(self, record: Record, categories: Sequence[ObjectClass], overwrite: bool) -> None:
        self.record, self.categories = record, categories
        self.folder = record.folder / f"coco-{record.key}"
        self.path = record.output / COCO
        if self.path.exists() and not (overwrite or record.is_shared(self.path)):
            raise SegkitError(
                f"predict did not write {self.path}. Name another folder, or replace it with"
                " overwrite=true."
            )

    @classmethod
    def remove_outdated(cls, record: Record, removed: Iterable[Path]) -> None:
        """Remove the file of an earlier run if it describes an image whose files were removed."""
        path = record.output / COCO
        if record.is_shared(path) and any(p.is_relative_to(record.folder) for p in removed):
            remove(path)

    def find_part(self, page: Page) -> Path:
        """Find the file that keeps the part of an image, or of a page of it."""
        place = self.folder / page.file.stem
        if page.total == 1:
            return place.with_name(place.name + ".json")
        return place.with_name(place.name + ".pages") / f"{page.number}.json"

    def write(self) -> None:
        """Write the file from the parts of all finished images."""
        # Other processes finish images and write the file meanwhile. Each one checks after
        # writing that no part is missing, so the last one has them all.
        self.record.begin_shared(self.path)
        written: list[Path] | None = None
        while (parts := self._parts()) != written:
            written = parts
            images = [json.loads(part.read_text(encoding="utf-8")) for part in parts]
            images.sort(key=lambda image: (image["file"], image["page"]))
            write_whole(self.path, join_coco(images, self.categories))

    def _parts(self) -> list[Path]:
        found = []
        for part in self.folder.rglob("*.json"):
            owner = part.parent if part.parent.suffix == ".pages" else part
            stem = owner.relative_to(self.folder).with_suffix("")
            if any(mask.exists() for mask in self.record.list_masks(stem)):
                found.append(part)
        return sorted(found)


def _trace(values: NDArray[Any], mask: NDArray[np.bool_]) -> Iterator[tuple[int, Polygon]]:
    """The connected regions of each value inside the mask."""
    from rasterio.features import shapes

    with _rasterio:
        found = list(shapes(values, mask=mask, connectivity=4))
    for geometry, value in found:
        yield int(value), shape(geometry)


def _to_segmentation(outline: Outline, height: int, width: int) -> Any:
    from pycocotools import mask as rle
    from rasterio import Affine
    from rasterio.features import rasterize

    if not any(part.interiors for part in outline.parts):
        return [np.asarray(part.exterior.coords)[:-1].ravel().tolist() for part in outline.parts]
    left, _, columns, _ = outline.box
    place = Affine.translation(left, 0)
    with _rasterio:
        filled = rasterize(
            [(outline.geometry, 1)], out_shape=(height, columns), transform=place, dtype="uint8"
        )
    # Runs go down the columns of the whole image, 0 and 1 in turns, starting with 0. Only the
    # object's columns are looked at: rle.encode() takes 10 ms for 4096 x 4096 pixels.
    zero = np.uint8(0)
    changes = np.flatnonzero(np.diff(filled.T.ravel(), prepend=zero, append=zero)) + left * height
    counts = np.diff(changes, prepend=0, append=height * width).tolist()
    packed = rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}
