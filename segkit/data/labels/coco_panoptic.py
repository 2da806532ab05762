"""Panoptic COCO JSON: a PNG for each image whose colours are the ids of segments.

https://cocodataset.org/#format-data, also as Cityscapes, ADE20K and Mapillary Vistas have it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segkit.core.errors import SegkitError
from segkit.data.labels.base import BACKGROUND, Annotations, LabelFormat, Segment, Shape
from segkit.data.labels.coco import PANOPTIC, Entry, JsonFile, find_files, name_id, read_files
from segkit.data.labels.draft import Draft
from segkit.data.labels.json_files import as_list
from segkit.data.labels.tree import FileTree, contains_all

_VOID = 0
"""The id of pixels without a segment."""


class CocoPanopticFormat(LabelFormat, name="coco_panoptic"):
    """COCO's JSON with ``segments_info``, and its PNGs in a folder of the same name or beside it.

    Every pixel belongs to a segment or is not labelled, so there is no background, unless a
    category has this name. Crowds are ignored. Objects are the segments of things, whose category
    has not ``"isthing": 0``.
    """

    title = "panoptic COCO JSON"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The JSON files with COCO's three lists and segments."""
        return [path for path in find_files(tree) if contains_all(path, [PANOPTIC])]

    @classmethod
    def claims(cls, mask: Path) -> bool:
        """Whether it lies where the PNGs of such a file do."""
        folder = mask.parent
        files = [folder.with_name(f"{folder.name}.json"), *folder.glob("*.json")]
        return any(contains_all(file, [PANOPTIC]) for file in files)

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """Read all files; the split is that of a file's name or folder."""
        draft = Draft(tree, "segments")
        draft.stuff = set()
        return draft.finish(read_files(files, draft, _shorten, _make_shapes))


class _Segments(NamedTuple):
    """The PNG of an image and its segments."""

    file: str
    segments: tuple[tuple[int, str, bool], ...]  # id, category, whether it is a crowd


def _shorten(found: dict[str, Any]) -> Any:
    """Replace an annotation, and before it its segments, as soon as they are read."""
    if "segments_info" not in found:
        id = found.get("id")
        if "category_id" not in found or not isinstance(id, int):
            return found
        return id, name_id(found["category_id"]), found.get("iscrowd") in (1, True)
    if "image_id" not in found or not isinstance(found.get("file_name"), str):
        return found
    entries = as_list(found["segments_info"])
    segments = tuple(entry for entry in entries if isinstance(entry, tuple))
    content = _Segments(found["file_name"], segments)
    return Entry(found.get("id"), name_id(found["image_id"]), content)


def _make_shapes(entries: list[Entry], where: str, json: JsonFile) -> Iterator[Shape]:
    if len(entries) != 1:
        raise SegkitError(f"it has {len(entries)} annotations, but a PNG of segments is needed")
    content: _Segments = entries[0].content
    near = [posixpath.splitext(json.file)[0], posixpath.dirname(json.file)]
    file = json.draft.tree.path(json.draft.tree.find_image(content.file, near))
    listed = tuple(id for id, _, _ in content.segments)
    yield Shape(BACKGROUND, Segment(file, _VOID, listed), ignored=True)
    for id, key, is_crowd in content.segments:
        category = json.find_category(key, f"{where}, segment {id}")
        if category is None:
            continue
        if is_crowd:
            json.draft.count("crowds are ignored regions")
        yield Shape(category, Segment(file, id), is_crowd)
