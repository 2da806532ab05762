"""Label Studio: one JSON file with a list of tasks, in the full or in the short form ("min").

https://labelstud.io/guide/export
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from segkit.core.errors import SegkitError
from segkit.data.labels.base import Annotations, LabelFormat, Region, Shape
from segkit.data.labels.brush import decode_brush
from segkit.data.labels.draft import Draft, explain, read_size
from segkit.data.labels.json_files import as_dict, as_list, read_json
from segkit.data.labels.outlines import fill_ring, make_box, make_ellipse, read_points, rotate_ring
from segkit.data.labels.runs import encode_mask
from segkit.data.labels.tree import FileTree, contains_all, read_start
from segkit.data.layout.splits import find_split_of_path
from segkit.images.formats.base import list_suffixes

_FULL = [rb'"(annotations|completions)"\s*:\s*\[', rb'"data"\s*:\s*\{', rb'"result"\s*:\s*\[']
_SHORT = [rb'"original_width"\s*:', rb'"(annotation_id|annotator|lead_time)"\s*:']
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""


class LabelStudioFormat(LabelFormat, name="label_studio"):
    """A JSON export with polygons, rectangles, ellipses and brush strokes.

    Of several annotations of a task the newest is used; cancelled ones and predictions are not.
    The classes are the labels in alphabetical order. A task without an annotation is left out, an
    empty annotation shows the background.
    """

    title = "Label Studio JSON"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The JSON files with a list of tasks."""
        return [
            path
            for path in map(tree.path, tree.list_files(".json"))
            if read_start(path)[:1] == b"[" and (contains_all(path, _FULL) or _is_short(path))
        ]

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """Read all files; the split is that of a file's name or folder."""
        draft = Draft(tree)
        for path in files:
            file = tree.relative(path)
            try:
                content = read_json(path)
                if not isinstance(content, list):
                    raise SegkitError("it is not a list of tasks")
            except SegkitError as error:
                draft.report(file, explain(error))
                continue
            near = tree.list_near(file)
            for task in _list_tasks(content):
                _read_task(task, file, near, draft)
        return draft.finish()


def _is_short(path: Path) -> bool:
    return contains_all(path, _SHORT)


def _list_tasks(content: Iterable[Any]) -> list[dict[str, Any]]:
    """The tasks in the full form; in the short one, each annotation repeats its task."""
    tasks: dict[Any, dict[str, Any]] = {}
    for number, entry in enumerate(content):
        task = as_dict(entry)
        if "annotations" in task or "completions" in task or "data" in task:
            tasks[f"full {number}"] = task
            continue
        results = [
            {"type": kind, "value": item, **item}
            for items in task.values()
            for item in as_list(items)
            if isinstance(item, dict)
            for kind in (next((key for key in item if key.endswith("labels")), "shape"),)
        ]
        annotation = {**task, "id": task.get("annotation_id"), "result": results}
        known = tasks.setdefault(
            f"short {task.get('id')}", {"id": task.get("id"), "data": task, "annotations": []}
        )
        known["annotations"].append(annotation)
    return list(tasks.values())


def _read_task(task: dict[str, Any], file: str, near: list[str], draft: Draft) -> None:
    place = f"{file}, task {task.get('id')}"
    annotation = _choose_annotation(task, draft)
    if annotation is None:
        draft.count("tasks have no annotation and are not used")
        return
    try:
        image = _find_image(as_dict(task.get("data")), near, draft.tree)
    except SegkitError as error:
        draft.report(place, explain(error))
        return
    results = [result for result in as_list(annotation.get("result")) if isinstance(result, dict)]
    sizes = {
        size
        for result in results
        if (size := read_size(result.get("original_height"), result.get("original_width")))
    }
    if len(sizes) > 1:
        draft.report(place, "its shapes state several sizes of the image")
        return
    size = next(iter(sizes), None)
    shapes = list(_read_shapes(results, size, place, draft))
    draft.add_image(image, shapes, file, split=find_split_of_path(file), size=size)


def _choose_annotation(task: dict[str, Any], draft: Draft) -> dict[str, Any] | None:
    """The newest annotation that was not cancelled."""
    given = as_list(task.get("annotations")) or as_list(task.get("completions"))
    valid = [
        annotation
        for annotation in given
        if isinstance(annotation, dict)
        and not (annotation.get("was_cancelled") or annotation.get("skipped"))
    ]
    if any(as_dict(each).get("was_cancelled") for each in given):
        draft.count("cancelled annotations are not used")
    if not given and as_list(task.get("predictions")):
        draft.count("predictions are not used")
    if len(valid) > 1:
        draft.count("tasks have several annotations: the newest is used")
    return max(enumerate(valid), key=_find_age)[1] if valid else None


def _find_age(numbered: tuple[int, dict[str, Any]]) -> tuple[float, int]:
    number, annotation = numbered
    for key in ("updated_at", "created_at"):
        value = annotation.get(key)
        if isinstance(value, int | float) and 0 <= value < 2**40:  # of the first versions
            return float(value), number
        if isinstance(value, str):
            try:
                time = datetime.fromisoformat(value)
                time = time if time.tzinfo else time.replace(tzinfo=UTC)
                return time.timestamp(), number
            except (ValueError, OverflowError):
                continue
    return 0.0, number


def _find_image(data: dict[str, Any], near: list[str], tree: FileTree) -> str:
    """The image of a task; nothing is downloaded."""
    named = {key: read_address(value) for key, value in data.items() if isinstance(value, str)}
    images = {
        key: name
        for key, name in named.items()
        if posixpath.splitext(name)[1].lower() in list_suffixes()
    }
    images.pop("file_upload", None)
    if not images and isinstance(data.get("file_upload"), str):
        images = {"image": data["file_upload"]}
    if not images:
        raise SegkitError(f"it names no image, only {', '.join(map(repr, data)) or 'nothing'}")
    if "image" not in images and len(set(images.values())) > 1:
        raise SegkitError(f"it has several images: {', '.join(sorted(images))}")
    name = images.get("image") or next(iter(images.values()))
    folder, base = posixpath.split(name)
    original = posixpath.join(folder, _UPLOAD.sub("", base))
    try:
        return tree.find_image(name, near)
    except SegkitError:
        if original == name:
            raise
        try:
            return tree.find_image(original, near)
        except SegkitError as error:
            raise SegkitError(f"there is no image {base} or {_UPLOAD.sub('', base)}") from error


def read_address(address: str) -> str:
    """The path in an address of Label Studio; it is absolute, as on the server.

    Example:
        >>> read_address("/data/local-files/?d=scans/a%20b.png"), read_address("s3://bucket/x/a.png")
        ('/scans/a b.png', '/x/a.png')
    """
    if "\\" in address or not ("://" in address or address.startswith("/data/")):
        return address
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    local = parse_qs(parts.query).get("d")
    path = local[0] if local else unquote(parts.path)
    return "/" + path.replace("\\", "/").lstrip("/")


def _read_shapes(
    results: Sequence[dict[str, Any]], size: tuple[int, int] | None, place: str, draft: Draft
) -> Iterable[Shape]:
    # the outline of a region and its label may be two results with the same id
    labelled = {str(result["id"]) for result in results if "id" in result and _read_labels(result)}
    for number, result in enumerate(results, start=1):
        kind, value = str(result.get("type")), as_dict(result.get("value"))
        labels = _read_labels(result)
        if not labels and str(result.get("id")) in labelled:
            continue
        where = f"{place}, result {number}"
        try:
            region = _read_region(value, size)
            if region is None:
                draft.count(f"results of the type {kind} are not used: they have no area")
                continue
            if result.get("image_rotation"):
                raise SegkitError(
                    f"the image was turned by {result['image_rotation']} degrees in Label Studio:"
                    " turn the file instead"
                )
        except SegkitError as error:
            draft.report(where, f"{kind}: {explain(error)}")
            continue
        if not labels:
            draft.count("shapes have no label and are not used")
        if "rectangle" in kind:
            draft.count("rectangles are used as they are", len(labels))
        for label in labels:
            yield Shape(draft.add_category(label), region)


def _read_labels(result: dict[str, Any]) -> list[str]:
    value = as_dict(result.get("value"))
    found = as_list(value.get(str(result.get("type")))) or as_list(value.get("labels"))
    return [str(label) for label in found]


def _read_region(value: dict[str, Any], size: tuple[int, int] | None) -> Region | None:
    """The region of a value in percent of the image; None if it has no area."""
    if not any(key in value for key in ("points", "rle", "radiusX", "width")):
        return None
    if "x" in value and value.keys() & {"width"} and "height" not in value:
        return None  # a key point has only a width
    if size is None:
        raise SegkitError("it has no original_width and original_height")
    height, width = size
    if "rle" in value:
        return encode_mask(decode_brush(value["rle"], size), size)
    if "points" in value:
        return fill_ring(read_points(value["points"]) * (width / 100, height / 100))
    try:
        keys = ("x", "y", "radiusX", "radiusY") if "radiusX" in value else _BOX
        x, y, across, down = (float(value[key]) / 100 for key in keys)
        degrees = float(value.get("rotation") or 0)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise SegkitError("its place or size is no number") from None
    x, y, across, down = x * width, y * height, across * width, down * height
    ring = (
        make_ellipse(x, y, across, down)
        if "radiusX" in value
        else make_box(x, y, x + across, y + down)
    )
    # a rectangle turns around its first corner, an ellipse around its centre
    return fill_ring(rotate_ring(ring, degrees, x, y))


_BOX = ("x", "y", "width", "height")
