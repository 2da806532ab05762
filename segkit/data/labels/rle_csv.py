"""Run lengths in a CSV file, as in competitions of Kaggle: a row for each object.

A run is "start length", counted from 1, down the columns or along the rows: where the runs of
objects in images that are not square go on beside each other tells which.
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segkit.core.errors import SegkitError
from segkit.data.labels.base import Annotations, LabelFormat, Runs, Shape
from segkit.data.labels.draft import Draft, explain
from segkit.data.labels.tree import FileTree, find_split, read_start
from segkit.images.formats.base import list_suffixes
from segkit.images.reading import ImageReader

_IMAGES = ("imageid", "image", "id", "imgid", "filename", "file")
_RUNS = ("encodedpixels", "rle", "rlemask", "encoding", "annotation", "segmentation")
_ALONG_ROWS = ("annotation", "segmentation")
"""Columns whose runs go along the rows unless the images say otherwise, as of Sartorius."""
_CLASSES = ("classid", "class", "label", "classname", "category")
_JOINED = re.compile(r"(image|img|imageid|id|filename)(classid|class|label)$")
_NONE = frozenset({"", "-1", "nan", "none", "null"})
_LARGEST_FIELD = 2**31 - 1
MOST_MEASURED = 32
"""Images that are opened to tell the direction of runs."""


class RleCsvFormat(LabelFormat, name="rle_csv"):
    """CSV files with the columns ``ImageId`` and ``EncodedPixels`` or the like.

    The class may have its own column, or follow the image's name as in ``a.jpg_2``. A row without
    runs is no object. Each row is one object. Files named as submissions are not read.
    """

    title = "run lengths in CSV"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The CSV files with a column of images and one of runs."""
        return [path for path in map(tree.path, tree.list_files(".csv")) if _is_rle(path)]

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """Read all files; the split is that of a file's name or folder."""
        draft = Draft(tree, "runs")
        classes: set[str] = set()
        for path in files:
            _read_file(path, draft, classes)
        names = sorted(classes, key=lambda name: (int(name), "") if name.isdecimal() else (0, name))
        return draft.finish([_name_class(name) for name in names])


class _Columns(NamedTuple):
    """Where the values of a row are."""

    image: int
    runs: int
    category: int | None
    is_joined: bool


def _is_rle(path: Path) -> bool:
    if "submission" in path.name.lower():
        return False
    lines = read_start(path).decode("utf-8", "replace").splitlines()
    columns = _find_columns(_split_line(lines[0], lines[0])) if len(lines) > 1 else None
    if columns is None:
        return False
    rows = [_split_line(line, lines[0]) for line in lines[1:3]]
    values = [row[columns.runs].strip() for row in rows if len(row) > columns.runs]
    return all(value.lower() in _NONE or re.fullmatch(r"[\d ]+", value) for value in values)


def _split_line(line: str, header: str) -> list[str]:
    return next(csv.reader([line], delimiter=_find_delimiter(header)), [""])


def _find_delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _find_columns(header: list[str]) -> _Columns | None:
    keys = list(map(_fold, header))
    runs = next((keys.index(key) for key in _RUNS if key in keys), None)
    if runs is None:
        return None
    joined = next((i for i, key in enumerate(keys) if _JOINED.match(key)), None)
    if joined is not None:
        return _Columns(joined, runs, None, True)
    image = next((keys.index(key) for key in _IMAGES if key in keys), None)
    if image is None:
        return None
    category = next((keys.index(key) for key in _CLASSES if key in keys), None)
    return _Columns(image, runs, category, False)


def _read_file(path: Path, draft: Draft, classes: set[str]) -> None:
    file = draft.tree.relative(path)
    near = draft.tree.list_near(file)
    shapes: dict[str, list[tuple[int, Runs]]] = {}
    lines: dict[str, int] = {}
    limit = csv.field_size_limit(_LARGEST_FIELD)
    try:
        for line, name, category, runs in _read_rows(path):
            found = shapes.setdefault(name, [])
            lines.setdefault(name, line)
            try:
                region = _read_runs(runs)
            except SegkitError as error:
                draft.report(f"{file}, line {line}", explain(error))
                continue
            classes.add(category)
            number = draft.add_category(_name_class(category))
            if region is not None:
                found.append((number, region))
    except (OSError, UnicodeDecodeError, csv.Error, SegkitError) as error:
        draft.report(file, f"it cannot be read: {error}")
    finally:
        csv.field_size_limit(limit)
    images: dict[str, list[Runs]] = {}
    names: dict[str, str] = {}
    for name, found in shapes.items():
        try:
            image = _find_image(name, near, draft.tree)
        except SegkitError as error:
            draft.report(f"{file}, line {lines[name]}", explain(error))
            continue
        names[name] = image
        images[image] = [runs for _, runs in found]
    measured = _find_direction(images, draft.tree)
    along_rows = _is_usually_along_rows(path) if measured is None else measured
    way = "along the rows" if along_rows else "down the columns"
    why = (
        "" if measured is None else ", as they lie beside each other in images that are not square"
    )
    draft.notes.append(f"runs of {file} are counted {way}{why}")
    for name, image in names.items():
        drawn = [Shape(n, runs._replace(along_rows=along_rows)) for n, runs in shapes[name]]
        draft.add_image(image, drawn, file, split=find_split(file))


def _find_direction(images: dict[str, list[Runs]], tree: FileTree) -> bool | None:
    """Whether runs go along the rows; None if nothing tells.

    The next run of an object begins beside the last one: about a width further if they go along
    the rows, about a height if they go down the columns.
    """
    votes, measured = [0, 0], 0
    for image, regions in images.items():
        steps = [np.diff(runs.starts) for runs in regions if len(runs.starts) > 1]
        if not steps or measured == MOST_MEASURED:
            continue
        measured += 1
        try:
            with ImageReader(tree.path(image)) as reader:
                height, width = reader.read_size(0)
        except SegkitError:  # the check reports it
            continue
        near = min(height, width) / 20
        if abs(height - width) > 2 * near:
            for side, size in enumerate((height, width)):
                votes[side] += sum(int((abs(step - size) <= near).sum()) for step in steps)
    columns, rows = votes
    return None if columns == rows else rows > columns


def _is_usually_along_rows(path: Path) -> bool:
    header = read_start(path).decode("utf-8", "replace").partition("\n")[0]
    columns = _find_columns(_split_line(header.strip(), header))
    return columns is not None and _fold(_split_line(header, header)[columns.runs]) in _ALONG_ROWS


def _fold(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def _read_rows(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Line, image, class ("" if there are none) and runs of each row."""
    with path.open(newline="", encoding="utf-8-sig") as opened:
        header = opened.readline()
        columns = _find_columns(_split_line(header.strip(), header))
        if columns is None:
            raise SegkitError("it has no columns 'ImageId' and 'EncodedPixels'")
        reader = csv.reader(opened, delimiter=_find_delimiter(header))
        for row in reader:
            if not row:
                continue
            row += [""] * (columns.runs + columns.image + 1 - len(row))
            name, category = row[columns.image].strip(), ""
            if columns.is_joined:
                name, _, category = name.rpartition("_")
            elif columns.category is not None and columns.category < len(row):
                category = row[columns.category].strip()
            yield reader.line_num + 1, name, category, row[columns.runs].strip()


def _read_runs(text: str) -> Runs | None:
    if text.lower() in _NONE:
        return None
    try:
        numbers = np.array(text.split(), np.int64)
    except (ValueError, OverflowError):
        raise SegkitError("its runs are not whole numbers") from None
    if len(numbers) % 2:
        raise SegkitError(f"its runs are pairs 'start length', but it has {len(numbers)} numbers")
    starts, lengths = numbers[0::2] - 1, numbers[1::2]
    if starts.min() < 0 or lengths.min() < 0 or numbers.max() > 2**40:
        raise SegkitError("a run starts before pixel 1 or has a negative length")
    if (starts[1:] < starts[:-1] + lengths[:-1]).any():
        raise SegkitError(
            "its runs are not in ascending order. If each start counts from the end of the run"
            " before, as of SIIM-ACR, write starts from the first pixel"
        )
    return Runs(starts.copy(), lengths.copy())


def _find_image(name: str, near: list[str], tree: FileTree) -> str:
    """The image of an id, which may have no suffix."""
    if posixpath.splitext(name)[1].lower() in list_suffixes():
        return tree.find_image(name, near)
    if not name:
        raise SegkitError("no image is named")
    return tree.find_by_stem(name, near)


def _name_class(category: str) -> str:
    if not category:
        return "object"
    return f"class {category}" if category.isdecimal() else category
