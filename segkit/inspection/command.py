"""The data command."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from segkit.config.schema import Part
from segkit.config.settings import DataCheckSettings, DataConvertSettings
from segkit.core.errors import SegkitError
from segkit.inspection.conversion import Conversion, convert
from segkit.inspection.description import describe, format_values, to_plain
from segkit.inspection.findings import Findings, find_all
from segkit.inspection.opening import open_data_set, parse_data_settings
from segkit.inspection.proposal import propose_training
from segkit.inspection.sheet import draw_sheet, write_sheet
from segkit.report.colors import format_color
from segkit.report.table import build_table

WIDEST_HEADING = 16
"""Width of the headings, with the space after them."""


def check_data(config: DictConfig) -> Findings:
    """Print what a data set holds, draw its sheet and propose a command that trains on it.

    Raises:
        SegkitError: The config is wrong, or the data cannot be used for a training; what could be
            read is printed before.
    """
    settings = parse_data_settings(DataCheckSettings, config)
    with redirect_stdout(sys.stderr if settings.format == "json" else sys.stdout):  # progress
        found = find_all(open_data_set(settings))
        head = settings.head or Part(name=found.mode)
        command = None if found.problems else propose_training(settings.data, head)
        path = _write_sheet(settings, found)
    if settings.format == "json":
        sheet = None if path is None else str(path)
        print(json.dumps({**to_plain(found), "sheet": sheet, "command": command}, indent=2))
    else:
        _print_findings(found, path)
        if command is not None:
            print(f"\nTo train on it:\n  {command}")
    if found.problems is not None:
        raise SegkitError(found.problems)
    return found


def convert_data(config: DictConfig) -> Conversion:
    """Write a data set as plain images and masks, and propose a command that trains on them.

    Raises:
        SegkitError: The config is wrong, the data cannot be used for a training, or the folder
            holds something else.
    """
    settings = parse_data_settings(DataConvertSettings, config)
    done = convert(settings)
    print(f"{done.written:,} of {done.samples:,} samples are written to {settings.output}", end="")
    print(f", {done.samples - done.written:,} were there" if done.written < done.samples else "")
    print(f"\nTo train on them:\n  {propose_training(done.data, done.head)}")
    return done


def _write_sheet(settings: DataCheckSettings, found: Findings) -> Path | None:
    if not settings.sheet or settings.output is None:
        return None
    if settings.output.suffix.lower() != ".png":
        raise SegkitError(f"output={settings.output}: the sheet is a PNG, so end it in .png.")
    sheet = draw_sheet(found)
    if sheet is None:
        return None
    write_sheet(settings.output, sheet)
    return settings.output


def _print_findings(found: Findings, sheet: Path | None) -> None:
    console = Console(soft_wrap=True, markup=False, highlight=False)
    for heading, text in describe(found):
        console.print(f"{heading:<{WIDEST_HEADING}}{text}")
    if found.classes:
        are_values = found.problems is not None
        rows = [
            {
                **({} if are_values else {"class": each.name, "label": str(each.label)}),
                "mask value": format_values(each, found),
                "color": format_color(each.color),
                "share": f"{each.share:.2%}",
            }
            for each in found.classes
        ]
        title = "values in the masks" if are_values else f"classes, for head={found.mode}"
        console.print(build_table(rows, title))
    if sheet is not None:
        console.print(f"{'pictures':<{WIDEST_HEADING}}{sheet}")
