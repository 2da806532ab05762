"""YOLO: one text file for each image, a line "class x1 y1 x2 y2 ..." for each object.

https://docs.ultralytics.com/datasets/segment/
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segkit.core.errors import SegkitError
from segkit.core.yaml_files import read_yaml_text
from segkit.data.labels.base import Annotations, LabelFormat, Polygon, Polygons, Shape
from segkit.data.labels.draft import Draft, explain
from segkit.data.labels.json_files import as_dict
from segkit.data.labels.outlines import check_ring
from segkit.data.labels.tree import FileTree, contains_all, fold, read_start
from segkit.data.layout.splits import find_split_of_path
from segkit.data.sources.base import SPLITS, Split

_KEYS = [rb"(?m)^names\s*:", rb"(?m)^(train|val)\s*:"]
_ROW = re.compile(rb"\d+(\.0*)?([ \t]+-?[0-9.eE+-]+){4,}\s*$")
_NAME_FILES = ("classes.txt", "obj.names")
_MOST = 1.5
"""Coordinates may lie a little outside of the image; larger ones are no fractions."""


class YoloFormat(LabelFormat, name="yolo"):
    """Text files in ``labels/``, named like the images in ``images/``.

    The classes and splits are those of ``data.yaml``. Without it, the images beside each folder
    ``labels`` are used, and the names in ``classes.txt`` or ``obj.names``. An image without a text
    file shows the background. Rows with four numbers are boxes and not used.
    """

    title = "YOLO text files"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The YAML files with ``names`` and ``train`` or ``val``, else the folders ``labels``."""
        configs = [
            path
            for path in map(tree.path, tree.list_files(".yaml", ".yml"))
            if contains_all(path, _KEYS)
        ]
        return configs or [tree.path(folder) for folder in _find_label_folders(tree)]

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """Read data.yaml and the text files of its images, or the folders ``labels``."""
        draft = Draft(tree, "outlines")
        names: dict[int, str] | None
        if files[0].is_dir():
            names = _read_name_file(files, tree, draft)
            splits: dict[Split | None, list[str]] = {}
            for folder in files:
                for image in _list_beside(tree.relative(folder), tree):
                    split = find_split_of_path(posixpath.dirname(image))
                    splits.setdefault(split, []).append(image)
        else:
            if len(files) > 1:
                others = ", ".join(tree.relative(path) for path in files[1:])
                draft.report(
                    tree.relative(files[0]), f"it is read, and {others} is not: keep one of them"
                )
            names, splits = _read_config(files[0], tree, draft)
        numbers = dict(names or {})
        for name in numbers.values():
            draft.add_category(name)
        _read_all(splits, numbers, names is not None, draft)
        known = set(draft.categories)
        order = dict.fromkeys(numbers[number] for number in sorted(numbers))
        return draft.finish([name for name in order if name in known])


def find_label_file(image: str) -> str:
    """Where the text file of an image is: in ``labels`` in place of the last ``images``, or beside.

    Example:
        >>> find_label_file("images/train/a.jpg"), find_label_file("a.jpg")
        ('labels/train/a.txt', 'a.txt')
    """
    stem = posixpath.splitext(image)[0]
    before, found, after = ("/" + stem).rpartition("/images/")
    return f"{before}/labels/{after}".lstrip("/") + ".txt" if found else stem + ".txt"


def _read_all(
    splits: dict[Split | None, list[str]],
    numbers: dict[int, str],
    is_complete: bool,
    draft: Draft,
) -> None:
    tree = draft.tree
    texts = {fold(file): file for file in tree.list_files(".txt")}
    place: dict[str, Split | None] = {}
    twice: dict[tuple[Split | None, Split | None], list[str]] = {}
    for split, images in splits.items():
        for image in images:
            if image in place:
                if place[image] != split:
                    twice.setdefault((place[image], split), []).append(image)
                continue
            place[image] = split
            text = texts.get(fold(find_label_file(image)))
            if image.startswith("../") and tree.path(find_label_file(image)).is_file():
                text = find_label_file(image)
            if text is None:
                draft.count("images have no text file and show only the background")
                shapes: list[Shape] = []
            else:
                shapes = _read_rows(text, numbers, is_complete, draft)
            draft.add_image(image, shapes, text or image, split=split)
    for (first, second), images in twice.items():
        draft.problems.append(
            f"{len(images)} image(s), such as {images[0]}, are in {first} and in {second}: keep"
            " each in one split"
        )


def _read_rows(text: str, numbers: dict[int, str], is_complete: bool, draft: Draft) -> list[Shape]:
    """The shapes of a text file; new numbers are added unless the names are complete."""
    try:
        lines = draft.tree.path(text).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        draft.report(text, f"it cannot be read: {error}")
        return []
    shapes = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{text}, line {number}"
        try:
            values = np.array(line.split(), np.float64)
        except ValueError:
            draft.report(place, "it holds something else than numbers")
            continue
        if len(values) == 5:
            draft.count("boxes are not used: they have no outline")
            continue
        category = values[0]
        if not (0 <= category < 2**31 and category == int(category)):
            draft.report(place, f"{line.split()[0]} is no number of a class")
            continue
        try:
            polygon = Polygon(_read_outline(values[1:]))
        except SegkitError as error:
            draft.report(place, explain(error))
            continue
        name = numbers.get(int(category))
        if name is None:
            if is_complete:
                draft.report(
                    place, f"there is no class {int(category)}; {len(numbers)} have a name"
                )
                continue
            name = numbers[int(category)] = f"class {int(category)}"
        shapes.append(Shape(draft.add_category(name), Polygons((polygon,), relative=True)))
    return shapes


def _read_outline(values: Any) -> Any:
    if len(values) % 2:
        raise SegkitError(f"it has an odd number of coordinates ({len(values)})")
    ring = check_ring(values.reshape(-1, 2))
    if np.abs(ring - 0.5).max() > _MOST - 0.5:
        raise SegkitError("coordinates are fractions of the image's width and height, from 0 to 1")
    return ring


# --- data.yaml ------------------------------------------------------------------------------------


def _read_config(
    path: Path, tree: FileTree, draft: Draft
) -> tuple[dict[int, str] | None, dict[Split | None, list[str]]]:
    """The names by number and the images by split."""
    file = tree.relative(path)
    try:
        content = yaml.safe_load(read_yaml_text(path))
    except (SegkitError, yaml.YAMLError, ValueError) as error:
        draft.report(file, f"it cannot be read: {' '.join(str(error).split())}")
        return {}, {}
    if not isinstance(content, dict):
        draft.report(file, "it has no 'names', 'train' and 'val'")
        return {}, {}
    if "kpt_shape" in content:
        draft.report(file, "it describes key points (kpt_shape), not outlines")
        return {}, {}
    folder = posixpath.dirname(file)
    bases = [folder, ""]
    if isinstance(content.get("path"), str):
        base = _find_place(content["path"], bases, tree)
        bases = [base, *bases] if base is not None else bases
    splits: dict[Split | None, list[str]] = {}
    for split in SPLITS:
        given = content.get(split)
        for name in given if isinstance(given, list) else [given]:
            if isinstance(name, str) and name:
                splits.setdefault(split, []).extend(_list_images(name, split, bases, file, draft))
            elif name is not None:
                draft.report(file, f"'{split}' is {name!r}, not the path of a folder")
    return _read_names(content, file, draft), splits


def _read_names(content: dict[str, Any], file: str, draft: Draft) -> dict[int, str] | None:
    names = content.get("names")
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    found = {}
    for key, name in as_dict(names).items():
        if str(key).isdecimal():
            found[int(key)] = str(name)
        else:
            draft.report(file, f"'{key}' in 'names' is no number of a class")
    if not found:
        draft.report(file, "'names' gives no class a name")
    return found or None


def _find_place(name: str, bases: Iterable[str], tree: FileTree) -> str | None:
    """The folder or text file that a path of data.yaml means, relative to the root.

    Roboflow writes "../train/images" for what lies beside data.yaml. Of an absolute path, the
    longest end that exists here is taken.
    """
    written = name.replace("\\", "/").rstrip("/")
    is_absolute = written.startswith("/") or written[1:2] == ":"
    parts = [part for part in written.split("/") if part not in ("", ".")]
    files = set(tree.list_files(".txt"))
    if not is_absolute:
        inside = [part for part in parts if part != ".."]
        for candidate in ("/".join(parts), "/".join(inside)):
            for base in bases:
                path = posixpath.normpath(posixpath.join(base, candidate))
                path = "" if path == "." else path
                if path in tree.folders or path in files:
                    return path
                if path.startswith("../") and tree.path(path).is_dir():
                    return path
        return None
    for first in range(len(parts)):
        path = "/".join(parts[first:])
        if path in tree.folders or path in files:
            return path
    return "" if parts and fold(parts[-1]) == fold(tree.root.resolve().name) else None


def _list_images(name: str, split: Split, bases: list[str], file: str, draft: Draft) -> list[str]:
    """The images of a folder or of a list of paths."""
    tree = draft.tree
    place = _find_place(name, bases, tree)
    if place is None:
        draft.report(file, f"'{split}' names {name}, but there is no such folder here")
        return []
    if place.lower().endswith(".txt"):
        return _read_list(place, bases, draft)
    if place.startswith("../"):
        outside = FileTree(tree.path(place))
        return [posixpath.join(place, image) for image in outside.images]
    found = tree.list_images(place)
    if not found:
        draft.report(file, f"'{split}' names {name}, but {place or 'the folder'} has no images")
    return found


def _read_list(place: str, bases: list[str], draft: Draft) -> list[str]:
    try:
        lines = draft.tree.path(place).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        draft.report(place, f"it cannot be read: {error}")
        return []
    near, found = [posixpath.dirname(place), *bases], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(draft.tree.find_image(line.strip(), near))
        except SegkitError as error:
            draft.report(f"{place}, line {number}", explain(error))
    return found


# --- folders without data.yaml --------------------------------------------------------------------


def _find_label_folders(tree: FileTree) -> list[str]:
    """The folders ``labels`` beside ``images`` whose text files hold rows of numbers."""
    found = []
    for folder in sorted(tree.folders):
        parent, name = posixpath.split(folder)
        if name == "labels" and posixpath.join(parent, "images") in tree.folders:
            texts = tree.list_files(".txt", below=folder)
            texts = [text for text in texts if posixpath.basename(text) not in _NAME_FILES]
            starts = [start for text in texts[:100] if (start := read_start(tree.path(text)))]
            if starts and all(_ROW.match(start.splitlines()[0] + b"\n") for start in starts):
                found.append(folder)
    return found


def _list_beside(folder: str, tree: FileTree) -> list[str]:
    return tree.list_images(posixpath.join(posixpath.dirname(folder), "images"))


def _read_name_file(folders: Sequence[Path], tree: FileTree, draft: Draft) -> dict[int, str] | None:
    """The names of a text file, one a line, if there is one."""
    places = [tree.relative(folder) for folder in folders]
    near = dict.fromkeys([*places, *map(posixpath.dirname, places), ""])
    files = [posixpath.join(place, name) for place in near for name in _NAME_FILES]
    known = set(tree.files)
    file = next((file for file in files if file in known), None)
    if file is None:
        draft.notes.append(f"the classes have no names: there is no {' or '.join(_NAME_FILES)}")
        return None
    try:
        lines = tree.path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        draft.report(file, f"it cannot be read: {error}")
        return None
    return dict(enumerate(line.strip() for line in lines if line.strip()))
