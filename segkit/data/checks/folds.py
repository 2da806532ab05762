"""Folds for cross-validation: groups stay together, and classes are balanced."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.core.errors import SegkitError, join_names
from segkit.data.checks.classes import Classes
from segkit.data.checks.facts import Facts
from segkit.data.sources.base import Sample, Split

FEWEST_SERIES, FEWEST_SLICES = 4, 3
"""Number of series of images, and of the images of each, from which they are taken for such."""
_NUMBERED = re.compile(r"([^.]*\D|)\d+(\.[^/]*)?")


@dataclass(frozen=True)
class Fold:
    """One of several folds.

    Attributes:
        number: Which one is validated, from 0.
        count: How many there are.
        groups: What keeps samples together: a CSV file of names and groups, or a regular expression
            whose first group in a name is the group; None: pages and blocks of one file.
    """

    number: int
    count: int
    groups: str | None = None


def divide(facts: Sequence[Facts], classes: Classes, fold: Fold) -> list[int]:
    """The number of the fold of each sample.

    The groups, from the one with most labelled pixels down, each go to the fold after which the
    folds differ least in their images and in their pixels of each class. So folds do not depend on
    a seed, and equal data have equal folds.

    Raises:
        SegkitError: There are fewer groups than folds, or samples without a group.
    """
    groups = find_groups([each.sample for each in facts], fold)
    members: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    if len(members) < fold.count:
        raise SegkitError(
            f"folds={fold.count} need as many groups of images, and there are {len(members)}"
            f" ({join_names(list(members))}): use fewer folds, or other data.groups."
        )
    rows = np.array([[1, *classes.count_pixels(each)[0]] for each in facts], np.float64)
    rows /= np.maximum(rows.sum(0), 1)  # shares of all images and of the pixels of each class
    weights = {group: rows[numbers].sum(0) for group, numbers in members.items()}
    held = np.zeros((fold.count, rows.shape[1]))
    chosen = [0] * len(facts)
    for group in sorted(weights, key=lambda each: (-weights[each].max(), each)):
        # the deviation of the folds, if the group goes to the one or the other
        after = held[None] + np.eye(fold.count)[:, :, None] * weights[group]
        best = int(after.std(1).mean(1).argmin())
        held[best] += weights[group]
        for number in members[group]:
            chosen[number] = best
    return chosen


def find_groups(samples: Sequence[Sample], fold: Fold) -> list[str]:
    """The group of each sample.

    Raises:
        SegkitError: ``fold.groups`` cannot be read, or samples have no group.
    """
    names = [sample.name for sample in samples]
    if fold.groups is None:
        return _group_by_file(samples, fold.count)
    if fold.groups.lower().endswith(".csv"):
        known = _read_groups(Path(fold.groups))
        found = [known.get(name, known.get(str(Path(name).with_suffix("")))) for name in names]
    else:
        try:
            pattern = re.compile(fold.groups)
        except re.error as error:
            raise SegkitError(
                f"data.groups={fold.groups!r} is no regular expression ({error}), and no .csv file."
            ) from error
        matches = [pattern.search(name) for name in names]
        found = [m and m.group(1 if pattern.groups else 0) for m in matches]
    missing = [name for name, group in zip(names, found, strict=True) if not group]
    if missing:
        raise SegkitError(
            f"data.groups={fold.groups} gives no group to {len(missing)} of {len(names)} images:"
            f" {join_names(missing)}."
        )
    return [str(group) for group in found]


def _read_groups(path: Path) -> dict[str, str]:
    """The groups by names, the first two columns of a CSV file; a head is no harm."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SegkitError(f"data.groups: {path} cannot be read as CSV: {error}.") from error
    if any(len(row) == 1 for row in rows):
        raise SegkitError(
            f"data.groups: {path} must have two columns, the names of images and their groups."
        )
    return {row[0].strip(): row[1].strip() for row in rows if row}


def _group_by_file(samples: Iterable[Sample], count: int) -> list[str]:
    """Pages and blocks of one file are alike; files that are too few are cut into as many parts."""
    samples = list(samples)
    parts: dict[Path, list[int]] = {}
    for number, sample in enumerate(samples):
        if sample.image is not None and (sample.page is not None or sample.window is not None):
            parts.setdefault(sample.image, []).append(number)
    alone = len(samples) - sum(map(len, parts.values()))
    groups = [sample.name for sample in samples]
    for path, numbers in parts.items():
        for place, number in enumerate(numbers):
            part = "" if len(parts) + alone >= count else f", part {place * count // len(numbers)}"
            groups[number] = f"{path}{part}"
    return groups


def describe_series(splits: Mapping[Split, Sequence[Sample]]) -> list[str]:
    """A note where names look like those of slices or frames, and training and validation share.

    Files that differ by the number at their end alone are a series. There are several, of several
    files each: one series of all images, as of a camera, says nothing.
    """
    series: dict[str, set[Split]] = {}
    members: dict[str, list[str]] = {}
    for split in ("train", "val"):
        for sample in splits.get(split, ()):
            found = _NUMBERED.fullmatch(sample.name)
            key = found[1] if found else sample.name
            series.setdefault(key, set()).add(split)
            members.setdefault(key, []).append(sample.name)
    shared = [key for key, both in series.items() if len(both) == 2]
    few = min(map(len, members.values()), default=0) < FEWEST_SLICES
    if not shared or few or len(members) < FEWEST_SERIES:
        return []
    names = join_names(members[shared[0]][:2])
    return [
        f"{len(members)} series of images differ in the number at the end of their names alone"
        f" ({names}), and {len(shared)} of them are in training and validation: if these are slices"
        " or frames of one object, scores will be too good, and"
        r""" 'data.groups="([^.]*\D)\d+"' keeps them together"""
    ]


def regroup(
    splits: dict[Split, list[Sample]], val_names: Iterable[str]
) -> dict[Split, list[Sample]]:
    """Splits whose validation has the samples of these names, and whose training has the others.

    Raises:
        SegkitError: Some are not there.
    """
    wanted = set(val_names)
    both = [*splits.get("train", []), *splits.get("val", [])]
    missing = sorted(wanted - {sample.name for sample in both})
    if missing:
        raise SegkitError(
            f"{len(missing)} of the {len(wanted)} validation images of this fold are not among the"
            f" data: {join_names(missing)}."
        )
    found: dict[Split, list[Sample]] = {
        "train": [sample for sample in both if sample.name not in wanted],
        "val": [sample for sample in both if sample.name in wanted],
    }
    return {**splits, **found}
