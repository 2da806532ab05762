"""Pairs of images and masks in a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path

from segkit.core.errors import SegkitError
from segkit.data.layout.folders import Layout, Pair
from segkit.data.layout.splits import find_split
from segkit.data.sources.base import SPLITS, Split
from segkit.images.formats.base import split_array

COLUMNS = {
    "image": ("image", "img", "image_path", "img_path", "filename", "file", "image_file", "path"),
    "mask": ("mask", "mask_path", "label", "label_path", "annotation", "target", "mask_file"),
    "split": ("split", "set", "subset", "is_valid"),
}
"""Names of columns that are understood, in lower case."""


IS_VALID = {"true": "val", "false": "train"}
"""The values of a column is_valid."""


def read_pairs(table: Path) -> Layout:
    """The pairs that a CSV file lists; paths are relative to the file.

    ``FILE::ARRAY`` is one of several arrays in a file. Separators are commas, semicolons or tabs. A
    file without a header has the columns image, mask and optionally split. Paths may be written
    with the separators of Windows.

    Raises:
        SegkitError: The file cannot be read, or has no such columns.
    """
    layout, lines = Layout(), dict[Path, int]()
    for number, row in _read_rows(table):
        image, mask, split = (row.get(key, "") for key in COLUMNS)
        files = _find(table.parent, image), _find(table.parent, mask)
        empty = [key for key in ("image", "mask") if not row.get(key)]
        absent = [str(path) for path in files if not _exists(path)]
        before = lines.get(files[0].resolve())
        known: Split | None = find_split(
            {"true": "val", "false": "train"}.get(split.lower(), split)
        )
        problem = ""
        if empty:
            problem = f"no {' and no '.join(empty)} is given"
        elif absent:
            problem = f"there is no file {' and no file '.join(absent)}"
        elif before is not None:
            problem = f"{image} is already in line {before}"
        elif split and known is None:
            problem = f"the split is '{split}', not one of {', '.join(SPLITS)}"
        if problem:
            layout.problems.append(f"{table.name}, line {number}: {problem}")
            continue
        lines[files[0].resolve()] = number
        name = image.replace("\\", "/") if files[0] != table.parent / image else image
        layout.pairs.append(Pair(Path(name).as_posix(), *files, known))
    open_pairs = sum(pair.split is None for pair in layout.pairs)
    if 0 < open_pairs < len(layout.pairs):
        layout.problems.append(
            f"{table.name}: {open_pairs} samples have no split, others have one: give it for all or"
            " none"
        )
    return layout


def _find(folder: Path, name: str) -> Path:
    path = folder / name
    if "\\" in name and not _exists(path):
        return folder / name.replace("\\", "/")
    return path


def _exists(path: Path) -> bool:
    return split_array(path)[0].exists()


def _read_rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows with their line numbers, by image, mask and split."""
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
    first = [name.lower() for name in rows[0][1]] if rows else []
    places = {
        key: next((first.index(name) for name in names if name in first), None)
        for key, names in COLUMNS.items()
    }
    has_header = places["image"] is not None or places["mask"] is not None
    if not has_header and len(first) >= 2 and _exists(_find(table.parent, rows[0][1][0])):
        places = {"image": 0, "mask": 1, "split": 2}
    else:
        missing = [key for key in ("image", "mask") if places[key] is None]
        if missing:
            raise SegkitError(
                f"data.pairs: {table} has no column {' and no column '.join(missing)}. Its first"
                f" line is '{header.strip()}', it should be 'image,mask' or 'image,mask,split'."
            )
        rows = rows[1:]
    if not rows:
        raise SegkitError(f"data.pairs: {table} has no rows below the header.")
    return [
        (
            number,
            {key: row[at] for key, at in places.items() if at is not None and at < len(row)},
        )
        for number, row in rows
    ]
