"""Score tables: in the terminal and as CSV files."""

from __future__ import annotations

import csv
import io
import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import ROUNDED
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from segkit.core.errors import SegkitError
from segkit.core.files import write_whole

_NAMES = {
    "iou": "IoU",
    "fw_iou": "Frequency-weighted IoU",
    "hd95": "HD95",
    "surface_dice": "Surface Dice",
    "ece": "ECE",
    "seg": "SEG",
    "ap50": "AP50",
    "pq": "PQ",
    "v_rand": "V_rand",
    "v_info": "V_info",
}
"""Headings of columns that are not plain words."""
Row = Mapping[str, object]
"""One line of a table: column to value; undefined numbers are NaN or None."""


def build_table(rows: Sequence[Row], title: str) -> Table:
    """Build a table of scores for the terminal; a last row of the class `mean` is set apart."""
    table = Table(title=Text(title), title_justify="left", header_style="bold", box=ROUNDED)
    columns = list_columns(rows)
    for column in columns:
        numeric = is_numeric(column, rows)
        name = format_heading(column)
        table.add_column(
            # Numbers are never broken, and their headings only between words.
            Text(name.replace(" ", "\n") if numeric else name),
            justify="right" if numeric else "left",
            no_wrap=numeric,
            overflow="fold",
        )
    for row in rows:
        mean = is_mean(row, rows)
        if mean:
            table.add_section()
        # Text, because a class may be called "[red]", which rich would read as markup.
        cells = [Text(format_cell(row.get(column))) for column in columns]
        table.add_row(*cells, style="bold" if mean else None)
    return table


def build_fitting_table(
    rows: Sequence[Row], title: str, console: Console, dispensable: Sequence[str]
) -> Table:
    """Build a table without so many of the dispensable columns that it fits the terminal."""
    boundless = console.options.update_width(10_000)
    for count in range(len(dispensable) + 1):
        left_out = dispensable[:count]
        table = build_table([{k: row[k] for k in row if k not in left_out} for row in rows], title)
        if Measurement.get(console, boundless, table).maximum <= console.width:
            break
    return table


def write_csv(path: Path | str, rows: Sequence[Row]) -> None:
    """Write rows with their columns in the order of first appearance; NaN and None become empty.

    The file is written whole or not at all; see `write_whole`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list_columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {column: value for column, value in row.items() if not is_missing(value)} for row in rows
    )
    write_whole(path, text.getvalue())


def read_csv(path: Path | str) -> list[dict[str, object]]:
    """Read a table of `write_csv`: numbers as int or float, empty cells as NaN.

    The column `class` stays text, as a class may be called "7".

    Raises:
        SegkitError: the file cannot be read, or a line has another number of cells than the header.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SegkitError(f"cannot read the table '{path}': {error}.") from error
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise SegkitError(
                f"row {number} of '{path}' does not have as many cells as the header: correct the"
                " row or recreate the table."
            )
    return [
        {column: cell if column == "class" else _parse(cell) for column, cell in row.items()}
        for row in rows
    ]


def list_columns(rows: Sequence[Row]) -> list[str]:
    """List the columns of all rows in the order of first appearance."""
    return list(dict.fromkeys(column for row in rows for column in row))


def format_heading(column: str) -> str:
    """Turn the name of a column into a heading: `IoU`, `Precision`."""
    return _NAMES.get(column) or column.replace("_", " ").capitalize()


def format_cell(value: object, missing: str = "-") -> str:
    """Format a value: four decimals, commas for thousands, `missing` for NaN and None."""
    if is_missing(value):
        return missing
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return str(value)
    return f"{int(value):,}" if isinstance(value, numbers.Integral) else f"{float(value):.4f}"


def is_missing(value: object) -> bool:
    """Whether a value is None or NaN."""
    return value is None or (isinstance(value, numbers.Real) and math.isnan(value))


def is_numeric(column: str, rows: Sequence[Row]) -> bool:
    """Whether a column holds only numbers, and is aligned to the right."""
    values = (row.get(column) for row in rows)
    return all(is_missing(value) or isinstance(value, numbers.Real) for value in values)


def is_mean(row: Row, rows: Sequence[Row]) -> bool:
    """Whether a row is the mean at the end of a table, not a class of that name."""
    return row is rows[-1] and row.get("class") == "mean"


def _parse(cell: str) -> object:
    for number in (int, float):
        try:
            return number(cell or "nan")
        except ValueError:
            continue
    return cell
