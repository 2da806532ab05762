"""COCO JSON: one file for many images, with polygons or run lengths.

https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segkit.core.errors import SegkitError
from segkit.data.labels.base import (
    Annotations,
    LabelFormat,
    Polygon,
    Polygons,
    Rle,
    Shape,
)
from segkit.data.labels.draft import Draft, explain, read_color, read_size
from segkit.data.labels.json_files import as_dict, as_list, read_json
from segkit.data.labels.outlines import read_coordinates
from segkit.data.labels.runs import check_counts, decode_counts, encode_counts, read_counts
from segkit.data.labels.tree import FileTree, contains_all, find_split, read_start

_KEYS = [
    rb'"images"\s*:\s*\[',
    rb'"annotations"\s*:\s*[\[{]',  # LIVECell has an object, with ids as keys
    rb'"categories"\s*:\s*\[',
]


class CocoFormat(LabelFormat, name="coco"):
    """One JSON file with ``images``, ``annotations`` and ``categories``, or one for each split.

    Several polygons of an annotation are parts of one object. A crowd is ignored. Categories are
    ordered by their id. An image without annotations shows the background.
    """

    title = "COCO JSON"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The JSON files with COCO's three lists."""
        return [path for path in map(tree.path, tree.list_files(".json")) if _is_coco(path)]

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """Read all files; the split is that of a file's name or folder."""
        draft = Draft(tree, "polygons or masks")
        first_ids: dict[str, tuple[int, str]] = {}
        used: set[str] = set()
        parents: set[str] = set()
        for path in _choose_files(files, draft):
            try:
                content = read_json(path, hook=_shorten)
            except SegkitError as error:
                draft.report(tree.relative(path), explain(error))
                continue
            if not isinstance(content, dict):
                draft.report(tree.relative(path), "it is not an object with 'images'")
                continue
            names = _read_categories(content, path, draft, first_ids, parents)
            used |= _read_images(content, path, draft, names)
        # Roboflow adds a class with the name of the data set, above all others
        empty = [name for name in draft.categories if name in parents and name not in used]
        if empty:
            draft.notes.append(f"the class {', '.join(empty)} groups others and never occurs")
        order = [name for name in first_ids if name in draft.categories and name not in empty]
        return draft.finish(sorted(order, key=first_ids.__getitem__))


class _Annotation(NamedTuple):
    """One annotation, without the single numbers of its JSON."""

    id: Any
    image: str
    category: str
    region: Polygons | Rle | None
    problems: list[str]
    is_crowd: bool
    has_keypoints: bool


def read_segmentation(value: Any) -> tuple[Polygons | Rle | None, list[str]]:
    """The region of an annotation and what is wrong with parts of it; None if it has none."""
    if not value:
        return None, []
    problems: list[str] = []
    if isinstance(value, list):
        nested = value if isinstance(value[0], list) else [value]
        parts = []
        for numbers in nested:
            try:
                parts.append(Polygon(read_coordinates(numbers)))
            except SegkitError as error:
                problems.append(explain(error))
        return (Polygons(tuple(parts)) if parts else None), problems
    try:
        return _read_rle(as_dict(value)), []
    except SegkitError as error:
        return None, [explain(error)]


def _is_coco(path: Path) -> bool:
    start = read_start(path)
    # a LabelMe file holds a whole image after its shapes, through which there is nothing to find
    return start[:1] == b"{" and b'"shapes"' not in start and contains_all(path, _KEYS)


def _choose_files(files: Sequence[Path], draft: Draft) -> list[Path]:
    """Leave out the key points of COCO 2017, which repeat the people among the instances."""
    chosen = []
    for path in files:
        other = path.with_name(path.name.replace("person_keypoints_", "instances_"))
        if other != path and other in files:
            draft.notes.append(f"{path.name} is not used: {other.name} has the same images")
        else:
            chosen.append(path)
    return chosen


def _shorten(found: dict[str, Any]) -> Any:
    """Replace an annotation as soon as it is read: a float takes 32 bytes, in an array 8."""
    if "image_id" not in found or not ("segmentation" in found or "category_id" in found):
        return found
    region, problems = read_segmentation(found.get("segmentation"))
    return _Annotation(
        found.get("id"),
        _name_id(found["image_id"]),
        _name_id(found.get("category_id")),
        region,
        problems,
        found.get("iscrowd") in (1, True),
        "keypoints" in found,
    )


def _name_id(value: Any) -> str:
    """An id for comparison; some programs write "7" or 7.0 for 7."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _read_rle(value: dict[str, Any]) -> Rle:
    sides = as_list(value.get("size"))
    size = read_size(*sides) if len(sides) == 2 else None
    counts = value.get("counts")
    if size is None or counts is None:
        raise SegkitError("its segmentation has neither polygons nor 'size' and 'counts'")
    if isinstance(counts, str):
        packed = counts.encode("ascii", "replace")
        check_counts(decode_counts(packed), size)
        return Rle(size, packed)
    numbers = read_counts(counts)
    check_counts(numbers, size)
    return encode_counts(numbers, size)


def _read_categories(
    content: dict[str, Any],
    path: Path,
    draft: Draft,
    first_ids: dict[str, tuple[int, str]],
    parents: set[str],
) -> dict[str, str]:
    """The names of a file's categories by id."""
    names: dict[str, str] = {}
    file = draft.tree.relative(path)
    entries = [entry for entry in as_list(content.get("categories")) if isinstance(entry, dict)]
    if not entries:
        draft.report(file, "it has no categories")
    for entry in entries:
        key, name = _name_id(entry.get("id")), str(entry.get("name") or "").strip()
        if "id" not in entry or not name:
            draft.report(file, f"category {key} has no {'name' if 'id' in entry else 'id'}")
            continue
        if names.setdefault(key, name) != name:
            draft.report(file, f"the categories {names[key]} and {name} have the same id {key}")
            continue
        draft.add_category(name, read_color(entry.get("color")))
        first_ids.setdefault(name, (int(key), "") if key.lstrip("-").isdecimal() else (2**62, key))
        parent = entry.get("supercategory")
        if isinstance(parent, str) and parent != name:
            parents.add(parent)
    return names


def _read_images(
    content: dict[str, Any], path: Path, draft: Draft, names: dict[str, str]
) -> set[str]:
    """Add the images of a file; returns the categories that occur."""
    file, tree = draft.tree.relative(path), draft.tree
    split, near = find_split(file), draft.tree.list_near(file)
    given = content.get("annotations")
    given = list(given.values()) if isinstance(given, dict) else as_list(given)
    by_image = _group_by_image(given, file, draft)
    seen: set[str] = set()
    used: set[str] = set()
    for number, entry in enumerate(as_list(content.get("images"))):
        name = as_dict(entry).get("file_name")
        key = _name_id(as_dict(entry).get("id", f"number {number}"))
        place = f"{file}, image {key}"
        if not isinstance(name, str) or "id" not in entry:
            draft.report(place, "it has no 'file_name'" if "id" in as_dict(entry) else "no 'id'")
            continue
        if key in seen:
            draft.report(place, f"another image has the same id, so {name} is not used")
            continue
        seen.add(key)
        found = by_image.pop(key, [])
        try:
            image = tree.find_image(name, near)
        except SegkitError as error:
            draft.report(place, explain(error))
            continue
        shapes = list(_make_shapes(found, file, draft, names, used))
        page = entry.get("page")
        draft.add_image(
            image,
            shapes,
            file,
            split=split,
            size=read_size(entry.get("height"), entry.get("width")),
            page=page if isinstance(page, int) and page >= 0 else None,
        )
    for key, rest in by_image.items():
        if key not in seen:
            draft.report(
                f"{file}, annotation {rest[0].id}",
                f"there is no image with the id {key}"
                + (f" (nor for {len(rest) - 1} others)" if len(rest) > 1 else ""),
            )
    return used


def _group_by_image(
    annotations: Iterable[Any], file: str, draft: Draft
) -> dict[str, list[_Annotation]]:
    found: dict[str, list[_Annotation]] = defaultdict(list)
    panoptic = broken = 0
    for annotation in annotations:
        if isinstance(annotation, _Annotation):
            found[annotation.image].append(annotation)
        elif "segments_info" in as_dict(annotation):
            panoptic += 1
        else:
            broken += 1
    if panoptic:
        draft.report(
            file,
            f"{panoptic} annotations are panoptic, with the pixels in PNG files, which is not read:"
            " export polygons or run lengths",
        )
    if broken:
        draft.report(file, f"{broken} annotations have no 'image_id' or no 'category_id'")
    return found


def _make_shapes(
    annotations: Iterable[_Annotation],
    file: str,
    draft: Draft,
    names: dict[str, str],
    used: set[str],
) -> Iterable[Shape]:
    for annotation in annotations:
        place = f"{file}, annotation {annotation.id}"
        for problem in annotation.problems:
            draft.report(place, problem)
        if annotation.region is None:
            if not annotation.problems:
                what = "key points" if annotation.has_keypoints else "boxes"
                draft.count(f"{what} without a segmentation are not used")
            continue
        name = names.get(annotation.category)
        if name is None:
            draft.report(place, f"there is no category with the id {annotation.category}")
            continue
        if annotation.is_crowd:
            draft.count("crowds are ignored regions")
        used.add(name)
        yield Shape(draft.add_category(name), annotation.region, annotation.is_crowd)
