"""The classes of a data set: what the config, the source and the masks tell of them."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.values import LabelCoding
from segkit.core.errors import join_names
from segkit.core.labels import (
    FIRST_COLOR,
    IGNORE_INDEX,
    Mode,
    color_to_value,
    describe_values,
    find_background,
    generate_names,
)
from segkit.data.checks.facts import Facts
from segkit.data.mask_files import TRANSPARENT, UNLABELLED
from segkit.data.sources.base import DataSource

FEWEST_RIMS = 2
"""Values that only rims have from which on they are told."""
FEW_IDS = 3
"""If a whole data set has at most this many ids, they are probably classes."""
MANY_IDS = 6
"""If a mask has at least this many values that look like ids, they are not taken for classes."""
MOSTLY = 0.85
"""Share that is nearly all: of masks, of values without gaps, of values that are one region."""
WHITE = 2**16 - 1
"""White in masks of 16 bits."""
MOST_LEVELS = 40
"""Mask values for which a label map is proposed; more are ids, or noise."""


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        names: Names of the classes, generated ones if they have none.
        background: The label that does not belong to any object.
        layered: Whether masks have a layer for each class.
    """

    mode: Mode
    count: int
    names: tuple[str, ...]
    background: int | None
    coding: LabelCoding
    layered: bool

    def is_unknown_color(self, value: int) -> bool:
        """Whether a mask value is a colour that is no class's."""
        return self.coding.to_label.get(value, -1 if value >= FIRST_COLOR else 0) == -1

    def count_pixels(self, facts: Facts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Count the pixels of each class in a mask, and the labelled pixels; (count,) each."""
        of_class, labelled = [0] * self.count, [0] * self.count  # short lists beat arrays
        total = 0
        for number, layer in enumerate(facts.layers):
            for value, pixels in layer.items():
                label = self.coding.label_of(value)
                if label == IGNORE_INDEX:
                    continue
                if self.layered:
                    of_class[number] += pixels * label
                    labelled[number] += pixels
                else:
                    of_class[label] += pixels
                    total += pixels
        if not self.layered:
            labelled = [total] * self.count
        return np.array(of_class, np.int64), np.array(labelled, np.int64)


def decide_classes(
    source: DataSource, mode: Mode, num_classes: int | None, facts: list[Facts]
) -> tuple[Classes, list[str], list[str]]:
    """The classes, contradictions in the config, and notes for the user."""
    names = source.class_names
    declared = num_classes if num_classes is not None else len(names) if names else None
    depths = Counter(f.mask_shape[2] for f in facts if f.layered)
    layered = mode == "multilabel" and 2 * depths.total() > len(facts)
    values = {value for f in facts if f.layered == layered for value in f.values}

    coding, notes = _decode_colors(values, source)
    if notes and declared is None and source.class_colors is not None:
        declared = len(source.class_colors)
    # Where nothing is painted black, what is transparent is.
    has_black = source.class_colors is None or (0, 0, 0) in map(tuple, source.class_colors)
    if TRANSPARENT in values - coding.to_label.keys() and 0 not in values and has_black:
        coding.to_label[TRANSPARENT] = coding.label_of(0)
        more = f" ('data.label_map={{{TRANSPARENT}: 255}}': not labelled)"
        can_map = has_option(source, "label_map")
        notes.append(f"masks are transparent in places: this is read as black{more * can_map}")
    labels = {coding.label_of(value) for value in values}
    top = max((label for label in labels if 0 <= label < IGNORE_INDEX), default=0)
    two = mode == "binary" or layered or declared == 2 or (declared is None and top <= 1)
    notes += decide_coding(coding, values, two, source)
    if mode == "binary" or source.instances:
        count = 2
    elif declared is not None:
        count = declared
    else:
        count = depths.most_common(1)[0][0] if layered else max(2, top + 1)
    if source.instances:
        notes += _describe_soft_ids(facts)
    problems = _find_contradictions(source, mode, num_classes, count)
    if TRANSPARENT in values - coding.to_label.keys():
        remedy = "paint over them in the files"
        if has_option(source, "label_map"):
            remedy = (
                f"'data.label_map={{{TRANSPARENT}: 0}}' makes them class 0,"
                f" 'data.label_map={{{TRANSPARENT}: 255}}' not labelled"
            )
        problems.append(
            f"masks have transparent pixels, which may be background or not labelled: {remedy}"
        )
        coding.to_label[TRANSPARENT] = IGNORE_INDEX
    colored = any(value >= FIRST_COLOR for value in values)
    if not (problems or colored or source.instances or layered) and declared is None:
        written = {v for value in values if (v := find_written(value, coding)) is not None}
        soft, soft_notes = _find_soft_edges(facts, mode, count, source)
        ids, id_notes = _find_ids(facts, mode, count, source)
        problems += soft or ids or _find_gaps(written, labels, mode, count, source)
        notes += [*soft_notes, *id_notes]
    if mode == "multilabel" and facts and not layered and not source.instances:
        notes.append("masks hold one class per pixel: class 0 is learned like the others")
    shown = names or generate_names(count, mode)
    background = 0 if layered else find_background(names, mode)
    return Classes(mode, count, shown, background, coding, layered), problems, notes


def _decode_colors(values: set[int], source: DataSource) -> tuple[LabelCoding, list[str]]:
    """Start with the label map and, if the masks are coloured, the colours of the classes."""
    coding = LabelCoding(dict(source.label_map or {}), foreground=source.instances)
    if source.instances or source.class_colors is None:
        return coding, []
    of_color = {color_to_value(color): i for i, color in enumerate(source.class_colors)}
    unmapped = values - coding.to_label.keys() - {TRANSPARENT}
    colored = any(value >= FIRST_COLOR for value in values)
    if not colored and (
        not unmapped <= of_color.keys() or max(unmapped, default=0) < len(of_color)
    ):
        return coding, []
    # A grey that is not among the colours is no label either.
    coding.to_label.update({value: of_color.get(value, -1) for value in unmapped})
    coding.to_label.update({v: i for v, i in of_color.items() if v not in coding.to_label})
    return coding, ["masks hold colours, which are read by data.class_colors"]


def decide_coding(
    coding: LabelCoding, values: set[int], two_classes: bool, source: DataSource
) -> list[str]:
    """Decide what the mask value 255 means, which is ambiguous; return notes for the user.

    With two classes, 0 and 1, and no other value for class 1, 255 is class 1 (black-and-white
    masks; likewise 65535). Among ids of objects, it is one if there are ids next to it. Otherwise
    it means "not labelled".
    """
    if source.instances:
        notes = ["masks hold object ids: every id is foreground"]
        can_choose = has_option(source, "instances")
        is_id = IGNORE_INDEX - 1 in values
        if IGNORE_INDEX in values - coding.to_label.keys() and can_choose and not is_id:
            coding.to_label[IGNORE_INDEX] = IGNORE_INDEX
            notes.append(
                "the mask value 255 means 'not labelled', not an object ('data.label_map={255: 1}'"
                " makes it one)"
            )
        ids = sorted(value for value in values if value and value not in coding.to_label)
        if 0 < len(ids) <= FEW_IDS and can_choose:
            notes.append(
                f"all masks together have only the ids {describe_values(ids)}: if these are"
                " classes, remove data.instances=true"
            )
        return notes
    if two_classes and {v for v in values if v > 0} == {WHITE} and WHITE not in coding.to_label:
        coding.to_label[WHITE] = 1
        return [f"masks hold 0 and {WHITE}, white in 16 bits: {WHITE} is used as class 1"]
    if IGNORE_INDEX not in values or IGNORE_INDEX in coding.to_label:
        return []
    if two_classes and not any(coding.label_of(value) == 1 for value in values):
        coding.to_label[IGNORE_INDEX] = 1
        return ["masks hold 0 and 255: 255 is used as class 1"]
    coding.to_label[IGNORE_INDEX] = IGNORE_INDEX
    return ["the mask value 255 means 'not labelled': these pixels are ignored"]


def _find_contradictions(
    source: DataSource, mode: Mode, num_classes: int | None, count: int
) -> list[str]:
    """Report numbers of classes in the config that contradict each other."""
    names, colors = source.class_names, source.class_colors
    named, remedy = "data.class_names", "remove one or make them agree"
    if not has_option(source, "class_names"):
        named, remedy = f"the data source '{source.name}'", "remove head.num_classes"
    given = {"head.num_classes": num_classes, named: len(names) if names else None}
    known = {where: number for where, number in given.items() if number is not None}
    problems = []
    if len(set(known.values())) > 1:
        problems.append(
            f"head.num_classes is {num_classes}, but {named} has {known[named]} names: {remedy}"
        )
    for where, number in known.items():
        if mode == "binary" and number != 2:
            problems.append(
                f"{where} means {number} classes, but head=binary has 2, background and foreground:"
                " use head=multiclass, or name both"
            )
        elif source.instances and number != 2:
            problems.append(
                f"{where} means {number} classes, but data.instances=true has 2, background and"
                " object: use data.instances=false for more"
            )
    if colors is not None and not problems and len(colors) != count:
        problems.append(
            f"data.class_colors has {len(colors)} colours, but there are {count} classes"
        )
    return problems


def _find_gaps(
    values: set[int], labels: set[int], mode: Mode, count: int, source: DataSource
) -> list[str]:
    """Report grey levels such as 0, 85 and 170, which are three classes and not 171."""
    present = sorted(label for label in labels if 0 <= label < count)
    if count <= 2 * max(2, len(present)):
        return []
    remedies = [f"head={mode} head.num_classes={count} if this is intended"]
    levels = list_levels(values, source)
    if has_option(source, "label_map") and len(levels) <= MOST_LEVELS:
        remedies = [*propose_maps(levels, source), *remedies]
    elif has_option(source, "instances"):
        remedies.insert(0, "data.instances=true if they are ids of objects")
    return [
        f"the masks have the values {describe_values(levels)}, which would make {count} classes,"
        f" but {count - len(present)} of them never occur: set {', or '.join(remedies)}"
    ]


def _find_soft_edges(
    facts: list[Facts], mode: Mode, count: int, source: DataSource
) -> tuple[list[str], list[str]]:
    """Report, or note if they are few, values that only rims have, as of smoothed masks.

    Between the greys 0 and 20 such an edge has those in between, which would be classes; a
    binary head has no room for them.
    """
    looked_at = [f for f in facts if f.solid is not None and not f.layered]
    solid = {v for f in looked_at for v in f.solid or () if v >= 0}
    thin = {v for f in looked_at for v in f.values} - solid - set(source.label_map or {})
    rims = sorted(v for v in thin if min(solid, default=0) < v < max(solid, default=0))
    if mode == "binary" or len(rims) < FEWEST_RIMS:
        return [], []
    remedies = ["draw the masks without smoothing"]
    if has_option(source, "mask_values"):
        levels = list_levels(solid, source)
        known = f"with {propose_maps(levels, source)[0]}"
        if levels == [0, IGNORE_INDEX]:  # black and white
            known = "with head=binary"
        remedies.append(
            f"data.mask_values=nearest {known} takes the nearest of {describe_values(levels)}"
        )
    remedies.append(f"head={mode} head.num_classes={count} says that they are classes")
    text = (
        f"the mask values {describe_values(rims)} are nowhere 3 pixels wide and lie between"
        f" others, as those of soft edges do: {', or '.join(remedies)}"
    )
    return ([text], []) if len(rims) > len(solid) else ([], [text])


def _find_ids(
    facts: list[Facts], mode: Mode, count: int, source: DataSource
) -> tuple[list[str], list[str]]:
    """Report, or note if they are few, classes that look like ids of objects.

    Ids count from 1, so large ones are rare, each is one region, and some masks have more than
    others. Classes of pictures are not like that; a few nested ones of organs may be.
    """
    mapped = any(value >= 0 for value in source.label_map or {})
    if mode != "multiclass" or mapped or not has_option(source, "instances"):
        return [], []
    masks = [(f, ids) for f in facts if f.areas and not f.layered and (ids := _list_ids(f))]
    regions = [[len(f.areas[v]) for v in ids if v in f.areas] for f, ids in masks]
    numbers = [
        len(ids)
        for (_, ids), counts in zip(masks, regions, strict=True)
        if counts.count(1) >= MOSTLY * len(counts) and len(ids) >= MOSTLY * max(ids)
    ]
    if len(numbers) < MOSTLY * len(masks) or len(set(numbers)) < 2 or max(numbers) < FEW_IDS:
        return [], []
    text = (
        f"the masks look like ids of objects: each value is one region, and there are"
        f" {min(numbers)} to {max(numbers)} in a mask, counted from 1. data.instances=true says"
        f" that they are ids, head={mode} head.num_classes={count} that they are classes"
    )
    return ([text], []) if max(numbers) >= MANY_IDS else ([], [text])


def _list_ids(facts: Facts) -> set[int]:
    """The values of a mask that could be ids of objects."""
    return {v for v in facts.values if v > 0 and v != IGNORE_INDEX}


def _describe_soft_ids(facts: list[Facts]) -> list[str]:
    """Note masks of objects most of whose ids only rims have, as of smoothed masks."""
    looked_at = [f for f in facts if f.solid and not f.layered]
    soft = []
    for f in looked_at:
        solid = f.solid or set()
        rims = [v for v in f.values - solid if min(solid) < v < max(solid)]
        if len(rims) >= FEWEST_RIMS and len(rims) > len(solid):
            soft.append(f.sample.name)
    if not soft:
        return []
    return [
        f"in {len(soft)} of {len(looked_at)} masks ({join_names(soft)}) most ids are nowhere 3"
        " pixels wide and lie between others, as the greys of soft edges do. Each is an object:"
        " draw masks without smoothing"
    ]


def find_written(value: int, coding: LabelCoding) -> int | None:
    """The mask value by which options name what has a value.

    Black for what is transparent and not unlabelled, None for pixels without data.
    """
    if value >= 0 or value not in coding.to_label:
        return value
    is_black = value == TRANSPARENT and coding.to_label[value] != IGNORE_INDEX
    return 0 if is_black else None


def name_values(values: Iterable[int], facts: list[Facts], source: DataSource) -> str:
    """Mask values for a message; those that stand for something else than a value by its name."""
    values, named = sorted(values), list[str]()
    if UNLABELLED in values and UNLABELLED in (source.label_map or {}):
        values.remove(UNLABELLED)
        has_files = any(f.sample.mask is not None for f in facts)
        named.append("no data" if has_files else "not labelled")
    if TRANSPARENT in values:
        values.remove(TRANSPARENT)
        named.append("transparent pixels")
    return ", ".join([*named, *([describe_values(values)] if values else [])])


def list_levels(values: set[int], source: DataSource) -> list[int]:
    """The sorted mask values, but those that are not labelled by the label map, as nodata is."""
    known = source.label_map or {}
    return sorted(value for value in values if known.get(value) != IGNORE_INDEX)


def propose_maps(levels: list[int], source: DataSource) -> list[str]:
    """The options that make sorted mask values the labels 0, 1, 2 ..., as they are typed.

    255 may mean 'not labelled', and is a class only if it may be the last of greys such as 0, 128
    and 255: not after 0, 1 and 15. What the source's label map leaves unlabelled stays so.
    """
    ignored = {v: label for v, label in (source.label_map or {}).items() if label == IGNORE_INDEX}

    def propose(values: list[int]) -> str:
        mapping = {v: i for i, v in enumerate(values) if v != i} | ignored
        return f"{state_map(mapping) + ' ' if mapping else ''}for {len(values)} classes"

    whole = [v for v in levels if v != IGNORE_INDEX]
    if whole == levels:
        return [propose(levels)]
    found = [f"{propose(whole)} with 255 as 'not labelled'"]
    steps = np.diff([0, *whole])
    is_grey = IGNORE_INDEX - max(whole, default=0) <= 2 * steps.max(initial=0)
    return [propose(levels), *found] if is_grey else found


def state_map(mapping: Mapping[int, int]) -> str:
    """A label map as it is typed; nodata has no value to be typed, and needs none.

    Example:
        >>> state_map({128: 1, 255: 2})
        "'data.label_map={128: 1, 255: 2}'"
    """
    pairs = ", ".join(f"{v}: {label}" for v, label in mapping.items() if v != UNLABELLED)
    return f"'data.label_map={{{pairs}}}'"


def count_pixels_of_all(
    facts: list[Facts], classes: Classes
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Total number of pixels of each class, and of labelled pixels."""
    of_class, labelled = zip(*map(classes.count_pixels, facts), strict=True)
    return np.sum(of_class, axis=0), np.sum(labelled, axis=0)


def has_option(source: DataSource, name: str) -> bool:
    """Whether a remedy may name the option."""
    return name in inspect.signature(type(source)).parameters
