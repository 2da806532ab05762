"""What a data set holds, measured from the facts that the check reads of every sample."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.data.checks.classes import Classes, count_pixels_of_all, decide_classes
from segkit.data.checks.facts import PIXELS_OF_INTENSITIES, Facts
from segkit.data.checks.leaks import describe_leaks, find_constant, find_leaks
from segkit.data.checks.summary import DataSummary, summarize
from segkit.data.sources.base import Sample, Split
from segkit.images.formats.base import list_parts
from segkit.inspection.opening import DataSet
from segkit.report.colors import Color, choose_colors

FULL_SCALES = (255, 1023, 4095, 16383, 65535)
"""Largest values of cameras with 8, 10, 12, 14 and 16 bits."""
SATURATED = 0.05
"""Share of an image's values at full scale from which on it counts as saturated."""
MOST_VALUES = 20
"""Mask values that are listed one by one where they cannot be read as classes."""


@dataclass(frozen=True)
class ClassShare:
    """A class, or a mask value if the masks cannot be read as classes.

    Attributes:
        label: Its label, None if it is only a mask value.
        values: The mask values that mean it.
        share: Its share of the labelled pixels.
    """

    label: int | None
    name: str
    values: list[int]
    color: Color
    share: float


@dataclass(frozen=True)
class Objects:
    """The objects of a set.

    Attributes:
        are_ids: Whether masks hold ids; else objects are connected regions of a class.
        count: How many there are in the masks that were looked at.
        masks: How many masks were looked at.
        median_area: In pixels, None without objects.
    """

    are_ids: bool
    count: int
    masks: int
    median_area: float | None


@dataclass(frozen=True)
class Findings:
    """What a data set holds.

    Attributes:
        problems: Why it cannot be used for a training; None if it can.
        summary: What a training would use; None if there are problems.
        folders: Number of images and of masks in each folder.
        endings: Number of image files and of mask files with each ending.
        sizes: Smallest, median and largest (height, width); empty if nothing was read.
        channels: Number of images with that many channels.
        dtypes: Number of images of each type.
        low: The smallest intensity.
        high: The largest intensity.
        saturated: Names of images with many values at full scale.
        constant: Names of images that are nearly the same everywhere.
        thinned: Whether intensities are those of some pixels of large images.
        classes: The classes, or the mask values.
        background_only: Names of samples whose masks have nothing but background.
        unlabelled: Names of samples whose masks have no label at all.
        leaks: Names of samples in several splits with the same image.
        notes: What is left out or interpreted, and why.
    """

    data: DataSet
    problems: str | None
    summary: DataSummary | None
    folders: tuple[dict[str, int], dict[str, int]]
    endings: tuple[dict[str, int], dict[str, int]]
    sizes: list[tuple[int, int]]
    channels: dict[int, int]
    dtypes: dict[str, int]
    low: float | None
    high: float | None
    saturated: list[str]
    constant: list[str]
    thinned: bool
    classes: list[ClassShare]
    objects: Objects
    background_only: list[str]
    unlabelled: list[str]
    leaks: list[list[str]]
    notes: list[str] = field(default_factory=list)

    @property
    def mode(self) -> Mode:
        """The mode of the head."""
        return self.data.mode


def find_all(data: DataSet) -> Findings:
    """Measure a data set; its problems are a finding too."""
    source, facts = data.source, [f for f in data.facts if not f.errors]
    summary, problems = None, None
    try:
        summary = summarize(source, data.mode, data.facts, data.splits, data.num_classes)
    except SegkitError as error:
        problems = str(error)
    classes, _, notes = decide_classes(source, data.mode, data.num_classes, facts)
    seen = [f for f in data.facts if f.shape]
    order = sorted((f.shape[0] * f.shape[1], f.shape[:2]) for f in seen)
    measured = [f.intensities for f in seen if f.intensities is not None]
    low = min((each.low for each in measured), default=None)
    high = max((each.high for each in measured), default=None)
    background_only, unlabelled = ([], []) if problems else _find_unannotated(facts, classes)
    samples = [sample for part in data.splits.values() for sample in part]
    return Findings(
        data=data,
        problems=problems,
        summary=summary,
        folders=(_count_folders(samples, "image"), _count_folders(samples, "mask")),
        endings=(_count_endings(samples, "image"), _count_endings(samples, "mask")),
        sizes=[(s[0], s[1]) for _, s in (order[0], order[len(order) // 2], order[-1])]
        if order
        else [],
        channels=dict(Counter(f.shape[2] for f in seen).most_common()),
        dtypes=dict(Counter(f.dtype for f in seen).most_common()),
        low=low,
        high=high,
        saturated=_find_saturated(seen),
        constant=find_constant(data.facts),
        thinned=any(math.prod(f.shape[:2]) > PIXELS_OF_INTENSITIES for f in seen),
        classes=_list_values(facts) if problems else _list_classes(data, facts, classes),
        objects=_measure_objects(data, facts, classes),
        background_only=background_only,
        unlabelled=unlabelled,
        leaks=find_leaks(data.facts),
        notes=summary.notes
        if summary is not None
        else [*describe_leaks(data.facts), *source.notes(), *notes],
    )


def _count_folders(samples: list[Sample], side: str) -> dict[str, int]:
    return dict(Counter(str(Path(file).parent) for file in _list_files(samples, side)))


def _count_endings(samples: list[Sample], side: str) -> dict[str, int]:
    endings = (Path(file).suffix.lower() for file in _list_files(samples, side))
    return dict(Counter(ending or "no ending" for ending in endings).most_common())


def _list_files(samples: list[Sample], side: str) -> list[str]:
    """The files of images or of masks, each once: a stack has several samples."""
    files = (getattr(sample, side) for sample in samples)
    return sorted({str(part) for file in files if file is not None for part in list_parts(file)})


def _find_saturated(facts: list[Facts]) -> list[str]:
    """Images many of whose values are the largest that their camera knows."""
    return [
        f.sample.name
        for f in facts
        if f.intensities is not None
        and f.dtype != "float32"
        and f.intensities.high in FULL_SCALES
        and f.intensities.at_top >= SATURATED
    ]


def _list_classes(data: DataSet, facts: list[Facts], classes: Classes) -> list[ClassShare]:
    of_class, labelled = count_pixels_of_all(facts, classes)
    colors = choose_class_colors(data, classes.count)
    values: dict[int, list[int]] = {}
    for value in sorted({value for f in facts for value in f.values}):
        values.setdefault(classes.coding.label_of(value), []).append(value)
    return [
        ClassShare(
            label,
            name,
            values.get(1 if classes.layered else label, []),
            colors[label],
            float(of_class[label] / max(1, labelled[label])),
        )
        for label, name in enumerate(classes.names)
    ]


def choose_class_colors(data: DataSet, count: int) -> list[Color]:
    """The colours of the classes: the source's, or those of the palette."""
    given = data.source.class_colors
    return list(given) if given and len(given) == count else choose_colors(count)


def _list_values(facts: list[Facts]) -> list[ClassShare]:
    """The mask values with their shares, most frequent first."""
    pixels = Counter[int]()
    for f in facts:
        for layer in f.layers:
            pixels.update(layer)
    listed = sorted(value for value, _ in pixels.most_common(MOST_VALUES))
    colors = choose_colors(len(listed))
    return [
        ClassShare(None, "", [value], color, pixels[value] / pixels.total())
        for value, color in zip(listed, colors, strict=True)
    ]


def _measure_objects(data: DataSet, facts: list[Facts], classes: Classes) -> Objects:
    """Objects are the ids, or in some masks the connected regions of classes."""
    no_object = {IGNORE_INDEX, classes.background}
    looked_at = [f for f in facts if f.with_regions or data.source.instances]
    areas = [
        area
        for f in looked_at
        for value, areas in f.areas.items()
        if classes.coding.label_of(value) not in no_object
        for area in areas.tolist()
    ]
    median = float(np.median(areas)) if areas else None
    return Objects(data.source.instances, len(areas), len(looked_at), median)


def _find_unannotated(facts: list[Facts], classes: Classes) -> tuple[list[str], list[str]]:
    background_only, unlabelled = [], []
    first = 0 if classes.layered else 1
    for f in facts:
        of_class, labelled = classes.count_pixels(f)
        if not labelled.any():
            unlabelled.append(f.sample.name)
        elif classes.background is not None and not of_class[first:].any():
            background_only.append(f.sample.name)
    return background_only, unlabelled


def count_splits(data: DataSet) -> dict[Split, int]:
    """Number of samples by split."""
    return {split: len(samples) for split, samples in data.splits.items()}
