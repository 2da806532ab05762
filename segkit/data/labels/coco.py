"""COCO JSON: one file for many images, with polygons or run lengths.

https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segkit.core.errors import SegkitError
from segkit.data.labels.base import (
    BACKGROUND,
    Annotations,
    LabelFormat,
    Polygon,
    Polygons,
    Rle,
    Shape,
)
from segkit.data.labels.draft import Draft, explain, read_color, read_size
from segkit.data.labels.json_files import Hook, as_dict, as_list, read_json
from segkit.data.labels.outlines import read_coordinates
from segkit.data.labels.runs import check_counts, decode_counts, encode_counts, read_counts
from segkit.data.labels.tree import FileTree, contains_all, find_split, read_start

PANOPTIC = rb'"segments_info"\s*:\s*\['
"""What a file has whose segments are in PNG files."""

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
        """The JSON files with COCO's three lists, whose segments are not in PNG files."""
        return [path for path in find_files(tree) if not contains_all(path, [PANOPTIC])]

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """Read all files; the split is that of a file's name or folder."""
        draft = Draft(tree, "polygons or masks")
        return draft.finish(read_files(_choose_files(files, draft), draft, _shorten, _make_shapes))


class Entry(NamedTuple):
    """An annotation, without the single numbers of its JSON.

    Attributes:
        id: As written.
        image: The id of its image.
        content: What its format keeps of it.
    """

    id: Any
    image: str
    content: Any


MakeShapes = Callable[[list[Entry], str, "JsonFile"], Iterable[Shape]]
"""The shapes of an image: given its annotations, where it is listed, and what is known of the file.
"""


class JsonFile(NamedTuple):
    """What is known of the file that an annotation is in.

    Attributes:
        draft: What is collected.
        file: The JSON file, relative to the root.
        names: The names of its categories by id.
        used: The names of those that occur.
    """

    draft: Draft
    file: str
    names: dict[str, str]
    used: set[str]

    def find_category(self, key: str, place: str) -> int | None:
        """The number of a category that occurs; None and a problem if there is none."""
        name = self.names.get(key)
        if name is None:
            self.draft.report(place, f"there is no category with the id {key}")
            return None
        self.used.add(name)
        return self.draft.add_category(name)


def find_files(tree: FileTree) -> Iterator[Path]:
    """The JSON files with COCO's three lists."""
    return filter(_is_coco, map(tree.path, tree.list_files(".json")))


def read_files(
    files: Sequence[Path],
    draft: Draft,
    shorten: Hook,
    make_shapes: MakeShapes,
) -> list[str]:
    """Add the images of files to a draft.

    Args:
        files: The JSON files.
        draft: What is collected.
        shorten: Makes an Entry of an annotation as soon as it is read.
        make_shapes: The shapes of an image.

    Returns:
        The categories in the order of their ids.
    """
    first_ids: dict[str, tuple[int, str]] = {}
    used: set[str] = set()
    parents: set[str] = set()
    for path in files:
        file = draft.tree.relative(path)
        try:
            content = read_json(path, hook=shorten)
        except SegkitError as error:
            draft.report(file, explain(error))
            continue
        if not isinstance(content, dict):
            draft.report(file, "it is not an object with 'images'")
            continue
        names = _read_categories(content, file, draft, first_ids, parents)
        _read_images(content, JsonFile(draft, file, names, used), make_shapes)
    # Roboflow adds a class with the name of the data set, above all others
    empty = [name for name in draft.categories if name in parents and name not in used]
    if empty:
        draft.notes.append(f"the class {', '.join(empty)} groups others and never occurs")
    order = [name for name in first_ids if name in draft.categories and name not in empty]
    return sorted(order, key=first_ids.__getitem__)


class _Region(NamedTuple):
    """What an annotation covers."""

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
    content = _Region(
        name_id(found.get("category_id")),
        region,
        problems,
        found.get("iscrowd") in (1, True),
        "keypoints" in found,
    )
    return Entry(found.get("id"), name_id(found["image_id"]), content)


def name_id(value: Any) -> str:
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
    file: str,
    draft: Draft,
    first_ids: dict[str, tuple[int, str]],
    parents: set[str],
) -> dict[str, str]:
    """The names of a file's categories by id."""
    names: dict[str, str] = {}
    entries = [entry for entry in as_list(content.get("categories")) if isinstance(entry, dict)]
    if not entries:
        draft.report(file, "it has no categories")
    for entry in entries:
        key, name = name_id(entry.get("id")), str(entry.get("name") or "").strip()
        if "id" not in entry or not name:
            draft.report(file, f"category {key} has no {'name' if 'id' in entry else 'id'}")
            continue
        if names.setdefault(key, name) != name:
            draft.report(file, f"the categories {names[key]} and {name} have the same id {key}")
            continue
        number = draft.add_category(name, read_color(entry.get("color")))
        if draft.stuff is not None and (number == BACKGROUND or entry.get("isthing") in (0, False)):
            draft.stuff.add("background" if number == BACKGROUND else name)
        first_ids.setdefault(name, (int(key), "") if key.lstrip("-").isdecimal() else (2**62, key))
        parent = entry.get("supercategory")
        if isinstance(parent, str) and parent != name:
            parents.add(parent)
    return names


def _read_images(content: dict[str, Any], json: JsonFile, make_shapes: MakeShapes) -> None:
    """Add the images of a file."""
    draft, file, tree = json.draft, json.file, json.draft.tree
    split, near = find_split(file), tree.list_near(file)
    given = content.get("annotations")
    given = list(given.values()) if isinstance(given, dict) else as_list(given)
    by_image = _group_by_image(given, json)
    seen: set[str] = set()
    for number, entry in enumerate(as_list(content.get("images"))):
        name = as_dict(entry).get("file_name")
        key = name_id(as_dict(entry).get("id", f"number {number}"))
        where = f"{file}, image {key}"
        if not isinstance(name, str) or "id" not in entry:
            draft.report(where, "it has no 'file_name'" if "id" in as_dict(entry) else "no 'id'")
            continue
        if key in seen:
            draft.report(where, f"another image has the same id, so {name} is not used")
            continue
        seen.add(key)
        found = by_image.pop(key, [])
        try:
            image = _find_image(tree, name, near)
            shapes = list(make_shapes(found, where, json))
        except SegkitError as error:
            draft.report(where, explain(error))
            continue
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


def _find_image(tree: FileTree, name: str, near: Iterable[str]) -> str:
    try:
        return tree.find_image(name, near)
    except SegkitError:
        # cityscapesscripts write the names of the annotated images wrong
        right = name.replace("_gtFine_leftImg8bit", "_leftImg8bit")
        if right == name:
            raise
    return tree.find_image(right, near)


def _group_by_image(annotations: Iterable[Any], json: JsonFile) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = defaultdict(list)
    broken = 0
    for annotation in annotations:
        if isinstance(annotation, Entry):
            found[annotation.image].append(annotation)
        else:
            broken += 1
    if broken:
        what = "annotations have no 'image_id' or no 'category_id'"
        json.draft.report(json.file, f"{broken} {what}")
    return found


def _make_shapes(entries: list[Entry], where: str, json: JsonFile) -> Iterator[Shape]:
    draft = json.draft
    for entry in entries:
        where = f"{json.file}, annotation {entry.id}"
        content: _Region = entry.content
        for problem in content.problems:
            draft.report(where, problem)
        if content.region is None:
            if not content.problems:
                what = "key points" if content.has_keypoints else "boxes"
                draft.count(f"{what} without a segmentation are not used")
            continue
        category = json.find_category(content.category, where)
        if category is None:
            continue
        if content.is_crowd:
            draft.count("crowds are ignored regions")
        yield Shape(category, content.region, content.is_crowd)
