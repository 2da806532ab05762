"""Pairs of images and masks in a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from segkit.core.errors import SegkitError
from segkit.data.layout.pairs import Layout, Pair
from segkit.data.layout.splits import (
    ALIASES,
    describe_left_out,
    divide_by_folders,
    find_split,
)
from segkit.data.sources.base import SPLITS, Split
from segkit.images.paths import (
    find_absent,
    find_ending,
    name_channels,
    split_channels,
    strip_ending,
)

COLUMNS = {
    "image": ("image", "img", "image_path", "img_path", "filename", "file", "image_file", "path"),
    "mask": ("mask", "mask_path", "label", "label_path", "annotation", "target", "mask_file"),
}
"""Names of columns that are understood, in lower case."""
FLAGS = ("is_valid", "is_val", "is_validation")
"""Names of columns that say whether a sample is for validation."""
ANSWERS: dict[str, Split] = {
    **dict.fromkeys(("true", "1", "1.0", "yes"), "val"),
    **dict.fromkeys(("false", "0", "0.0", "no"), "train"),
}
"""What such a column holds."""


class _Rows(NamedTuple):
    """The rows of a table, with their line numbers, and the places of columns.

    Attributes:
        is_flag: Whether the column of splits only says whether a sample is for validation.
    """

    rows: list[tuple[int, list[str]]]
    image: int
    mask: int
    split: int | None
    is_flag: bool
    notes: list[str]


def read_pairs(table: Path) -> Layout:
    """The pairs that a CSV file lists; paths are relative to the file.

    ``FILE::ARRAY`` is one of several arrays in a file, and ``a_{red,nir}.tif`` an image whose
    channels lie in two files. Separators are commas, semicolons or tabs. A file without a header
    has the columns image, mask and optionally split. Paths may be written with the separators of
    Windows. Without a column that divides the samples the folders of the images do, if they are
    called like splits.

    Raises:
        SegkitError: The file cannot be read, or has no such columns.
    """
    found = _read_rows(table)
    layout, lines = Layout(notes=list(found.notes)), dict[Path, int]()
    left_out = dict[str, Split]()
    masked = {  # the splits that have masks
        ANSWERS.get(row[found.split].lower()) if found.is_flag else find_split(row[found.split])
        for _, row in found.rows
        if found.split is not None
        and found.split < len(row)
        and any(row[found.mask : found.mask + 1])
    }
    for number, row in found.rows:
        image, mask, split = (
            row[at] if at is not None and at < len(row) else ""
            for at in (found.image, found.mask, found.split)
        )
        files = _find(table.parent, image), _find(table.parent, mask)
        known = ANSWERS.get(split.lower()) if found.is_flag else find_split(split)
        if image and not mask and known and "train" in masked and known not in masked:
            left_out[image] = known
            continue
        given = {"image": image, "mask": mask}
        empty = [key for key, text in given.items() if not text]
        absent = [str(part) for path in files for part in find_absent(path)]
        before = lines.get(files[0].resolve())
        problem = ""
        if empty:
            problem = f"no {' and no '.join(empty)} is given"
        elif absent:
            problem = f"there is no file {' and no file '.join(absent)}"
            if "{" in image and "}" not in image:
                problem += ". A path with commas is written in quotation marks"
        elif len(split_channels(files[1])) > 1:
            problem = f"{mask} is several files: channels in files of their own are those of images"
        elif before is not None:
            problem = f"{image} is already in line {before}"
        elif split and known is None:
            problem = f"the split is '{split}', not one of {', '.join(SPLITS)}"
        if problem:
            layout.problems.append(f"{table.name}, line {number}: {problem}")
            continue
        lines[files[0].resolve()] = number
        name = image.replace("\\", "/") if files[0] != table.parent / image else image
        if name_channels(files[0]):
            name = f"{strip_ending(Path(name))}{find_ending(name)}"
        layout.pairs.append(Pair(Path(name).as_posix(), *files, known))
    channels = {name_channels(pair.image) for pair in layout.pairs}
    layout.channels = channels.pop() if len(channels) == 1 else ()
    if left_out:
        layout.notes.append(describe_left_out(left_out))
    open_pairs = sum(pair.split is None for pair in layout.pairs)
    if 0 < open_pairs < len(layout.pairs):
        layout.problems.append(
            f"{table.name}: {open_pairs} samples have no split, others have one: give it for all or"
            " none"
        )
    folders = divide_by_folders(layout) if open_pairs == len(layout.pairs) else []
    if folders:
        layout.notes.append(f"the samples are divided by their folders {', '.join(folders)}")
    return layout


def _find(folder: Path, name: str) -> Path:
    path = folder / name
    if "\\" in name and find_absent(path):
        return folder / name.replace("\\", "/")
    return path


def _read_rows(table: Path) -> _Rows:
    if not table.is_file():
        raise SegkitError(f"data.pairs: there is no file {table.resolve()}.")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=header.count))
            rows = [(reader.line_num, [v.strip() for v in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SegkitError(
            f"data.pairs: cannot read {table}: {error}. It must be a CSV file in UTF-8."
        ) from error
    rows = [(number, row) for number, row in rows if any(row)]
    first = rows[0][1] if rows else []
    lower = [name.lower() for name in first]
    image, mask = (
        next((lower.index(name) for name in names if name in lower), None)
        for names in COLUMNS.values()
    )
    split, rows_below = None, rows[1:]
    has_header = image is not None or mask is not None or len(first) < 2 or not first[0]
    if not has_header and not find_absent(_find(table.parent, first[0])):
        image, mask, split, rows_below = 0, 1, 2, rows
        lower = first = [f"column {number}" for number in range(1, len(first) + 1)]
    if image is None:
        image = _find_column("image", lower, [row for _, row in rows_below], table.parent)
    if mask is None:
        mask = _find_column("mask", lower, [row for _, row in rows_below], table.parent)
    if image is None or mask is None:
        missing = [key for key, at in (("image", image), ("mask", mask)) if at is None]
        raise SegkitError(
            f"data.pairs: {table} has no column {' and no column '.join(missing)}. Its first"
            f" line is '{header.strip()}', it should be 'image,mask' or 'image,mask,split'."
        )
    if not rows_below:
        raise SegkitError(f"data.pairs: {table} has no rows below the header.")
    if split is None:
        others = {at: name for at, name in enumerate(lower) if at not in (image, mask)}
        split = _find_split_column(others, [row for _, row in rows_below])
    unused = [name for at, name in enumerate(first) if at not in (image, mask, split)]
    notes = []
    name = "" if split is None else "".join(lower[split : split + 1])
    if name not in ("", "split", "column 3"):
        notes.append(f"the samples are divided by the column {name} of {table.name}")
    if unused:
        remedy = ". Named split, with train, val and test, a column would divide the samples"
        notes.append(
            f"columns of {table.name} that are not used: {', '.join(unused)}"
            + remedy * (split is None)
        )
    return _Rows(rows_below, image, mask, split, name in FLAGS, notes)


def _find_column(word: str, names: list[str], rows: list[list[str]], folder: Path) -> int | None:
    """The only column with a word in its name whose first value is a file."""
    values = next((row for row in rows if all(row[: len(names)])), [""] * len(names))
    found = [
        at
        for at, (name, value) in enumerate(zip(names, values, strict=False))
        if word in name and value and _find(folder, value).is_file()
    ]
    return found[0] if len(found) == 1 else None


def _find_split_column(names: dict[int, str], rows: list[list[str]]) -> int | None:
    """The column that divides: that of the name, or else one that holds nothing but splits."""
    for at, name in names.items():
        if name == "split":
            return at
    for at, name in names.items():
        known = ANSWERS if name in FLAGS else ALIASES
        found = {known.get(row[at].lower()) for row in rows if at < len(row)}
        if "train" in found and len(found) > 1 and None not in found:
            return at
    return None
