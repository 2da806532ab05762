"""Findings as text that a person reads, and as plain values for JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segkit.data.checks.classes import name_values
from segkit.data.checks.facts import PIXELS_OF_INTENSITIES, join_names
from segkit.data.sources.base import DataSource
from segkit.data.sources.folder import FolderSource
from segkit.inspection.findings import (
    SATURATED,
    ClassShare,
    Findings,
    count_splits,
)
from segkit.report.colors import format_color

FOLDERS = 4
"""Folders that are named."""


def describe(found: Findings) -> Iterator[tuple[str, str]]:
    """The findings besides the classes, each a heading and a line; headings may be empty."""
    images, masks = (_describe_counts(_shorten(folders)) for folders in found.folders)
    if images:
        if masks:
            yield "layout", f"images in {images}; masks in {masks}"
            yield "", describe_pairing(found.data.source)
        else:
            yield "layout", f"images in {images}; masks drawn from annotations, see the notes"
    yield "split", describe_split(found)
    if found.endings[0]:
        images, masks = (_describe_counts(endings) for endings in found.endings)
        yield "files", f"images {images}" + f"; masks {masks}" * bool(masks)
    samples = ", ".join(f"{n:,} {split}" for split, n in count_splits(found.data).items())
    yield "samples", samples
    if found.sizes:
        smallest, median, largest = (f"{h} x {w}" for h, w in found.sizes)
        one = "all " if found.sizes[0] == found.sizes[2] else ""
        text = median if one else f"smallest {smallest}, median {median}, largest {largest}"
        yield "height x width", f"{one}{text} pixels"
        channels = ", ".join(map(str, found.channels)) if found.channels else "none"
        yield "channels", f"{channels} of {' and '.join(found.dtypes)}"
    if found.low is not None and found.high is not None:
        yield "intensities", f"{found.low:g} to {found.high:g}" + _describe_thinning(found)
        if found.saturated:
            yield (
                "",
                f"{_count(found.saturated, 'image')} saturated, with more than {SATURATED:.0%} of"
                f" the values at full scale: {join_names(found.saturated)}",
            )
        if found.constant:
            verb = "shows" if len(found.constant) == 1 else "show"
            yield (
                "",
                f"{_count(found.constant, 'image')} {verb} nearly nothing, the same value"
                f" everywhere: {join_names(found.constant)}",
            )
    if found.objects.count:
        yield "objects", _describe_objects(found)
    for names, what in (
        (found.background_only, "without annotation: nothing but background"),
        (found.unlabelled, "without annotation: no labelled pixel"),
    ):
        if names:
            yield "", f"{_count(names, 'image')} {what}: {join_names(names)}"
    for number, note in enumerate(found.notes):
        yield ("" if number else "notes"), note


def describe_pairing(source: DataSource) -> str:
    """How an image finds its mask."""
    if not isinstance(source, FolderSource):
        return f"paired as the data set '{source.name}' is laid out"
    names, pairs = source.rules.names, source.rules.pairs
    if pairs is not None:
        return f"paired by the table {pairs}"
    if names.image_pattern is not None:
        return f"paired by the patterns {names.image_pattern} and {names.mask_pattern}"
    if names.mask_suffix:
        return f"a mask is named like its image with '{names.mask_suffix}' at the end"
    if any("by the rule" in note for note in source.notes()):
        return "paired by a rule of names, see the notes"
    return "a mask is named like its image"


def describe_split(found: Findings) -> str:
    """What divides the samples."""
    source = found.data.source
    if not isinstance(source, FolderSource):
        return f"as the data set '{source.name}' is divided"
    if source.divided_by:
        return f"by the {source.divided_by}"
    rules = source.rules
    if rules.split == "lists":
        return f"by {' and '.join(str(path) for path in rules.lists.values())}"
    val, test = (f"{share:.0%}" for share in rules.fractions)
    how = "drawn at random" if rules.split == "random" else "the last ones by name"
    return f"{val} for validation and {test} for testing, {how} (data.split={rules.split})"


def format_values(each: ClassShare, found: Findings) -> str:
    """The mask values of a class."""
    return name_values(each.values, found.data.facts, found.data.source) or "-"


def to_plain(found: Findings) -> dict[str, Any]:
    """The findings for JSON; its keys are documented in docs/data.md.

    Nothing is left out: lists of names are complete.
    """
    sizes = dict(zip(("smallest", "median", "largest"), map(list, found.sizes), strict=False))
    return {
        "data": found.data.source.name,
        "usable": found.problems is None,
        "problems": found.problems,
        "mode": found.mode,
        "samples": count_splits(found.data),
        "folders": dict(zip(("images", "masks"), found.folders, strict=True)),
        "endings": dict(zip(("images", "masks"), found.endings, strict=True)),
        "sizes": sizes,
        "channels": {str(channels): n for channels, n in found.channels.items()},
        "dtypes": found.dtypes,
        "intensities": {
            "low": found.low,
            "high": found.high,
            "saturated": found.saturated,
            "constant": found.constant,
        },
        "classes": [
            {
                "label": each.label,
                "name": each.name,
                "values": each.values,
                "color": format_color(each.color),
                "share": each.share,
            }
            for each in found.classes
        ],
        "objects": {
            "kind": "ids" if found.objects.are_ids else "regions",
            "count": found.objects.count,
            "masks": found.objects.masks,
            "median_area": found.objects.median_area,
        },
        "background_only": found.background_only,
        "unlabelled": found.unlabelled,
        "leaks": found.leaks,
        "notes": found.notes,
    }


def _describe_thinning(found: Findings) -> str:
    return f", of {PIXELS_OF_INTENSITIES:,} pixels of each large image" * found.thinned


def _describe_objects(found: Findings) -> str:
    objects = found.objects
    kind = "object ids" if objects.are_ids else "connected regions"
    where = f"in {objects.masks:,} masks"
    if not objects.are_ids and objects.masks < len(found.data.facts):
        where += f" of {len(found.data.facts):,}, spread over the training images"
    each = objects.count / max(1, objects.masks)
    return (
        f"{objects.count:,} {kind} {where}, {each:.1f} per mask, median area"
        f" {objects.median_area or 0:,.0f} pixels"
    )


def _shorten(folders: Mapping[str, int]) -> dict[str, int]:
    """Folders as seen from here."""
    return {_relative(Path(name)): n for name, n in folders.items()}


def _relative(folder: Path) -> str:
    inside = os.path.relpath(folder)
    return str(folder) if inside.startswith("..") else inside


def _describe_counts(counts: Mapping[str, int]) -> str:
    shown = [f"{name} ({n:,})" for name, n in list(counts.items())[:FOLDERS]]
    if len(counts) > FOLDERS:
        shown.append(f"and {len(counts) - FOLDERS} more")
    return ", ".join(shown)


def _count(names: list[str], noun: str) -> str:
    return f"{len(names):,} {noun}{'' if len(names) == 1 else 's'}"
