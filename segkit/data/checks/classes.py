"""The classes of a data set, and how many pixels of its masks belong to them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.coding import LabelCoding, decide_coding, find_outside, join_values
from segkit.core.labels import IGNORE_INDEX, Mode, find_background
from segkit.data.checks.scanning import Facts
from segkit.data.sources.base import DataSource


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        names: Names of the classes, None if they have none.
        layered: Whether masks have a layer for each class.
    """

    mode: Mode
    count: int
    names: tuple[str, ...] | None
    coding: LabelCoding
    layered: bool

    @property
    def display_names(self) -> tuple[str, ...]:
        """The names, or generated ones."""
        if self.names is not None:
            return self.names
        if self.mode == "binary":
            return ("background", "foreground")
        return tuple(f"class {i}" for i in range(self.count))

    @property
    def background(self) -> int | None:
        """The label that does not belong to any object."""
        return 0 if self.layered else find_background(self.names, self.mode)

    def count_pixels(self, facts: Facts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Count the pixels of each class in a mask, and the labelled pixels; (count,) each."""
        of_class = np.zeros(self.count, np.int64)
        labelled = np.zeros(self.count, np.int64)
        for number, layer in enumerate(facts.layers):
            for value, pixels in layer.items():
                label = self.coding.label_of(value)
                if label == IGNORE_INDEX:
                    continue
                if not self.layered:
                    of_class[label] += pixels
                    labelled += pixels
                else:
                    of_class[number] += pixels * label
                    labelled[number] += pixels
        return of_class, labelled


def decide_classes(
    source: DataSource, mode: Mode, num_classes: int | None, facts: list[Facts]
) -> tuple[Classes, list[str], list[str]]:
    """Decide on the classes, from the config and from the masks.

    Returns:
        The classes, contradictions in the config, and notes for the user.
    """
    names = source.class_names
    declared = num_classes if num_classes is not None else len(names) if names else None
    depths = Counter(f.mask_shape[2] for f in facts if f.layered)
    layered = mode == "multilabel" and 2 * depths.total() > len(facts)
    values = {value for f in facts if f.layered == layered for value in f.values}

    labels = {LabelCoding(dict(source.label_map or {})).label_of(value) for value in values}
    top = max((label for label in labels if 0 <= label < IGNORE_INDEX), default=0)
    two = mode == "binary" or layered or declared == 2 or (declared is None and top <= 1)
    coding, notes = decide_coding(values, two, source.label_map, source.instances)
    if mode == "binary" or source.instances:
        count = 2
    elif declared is not None:
        count = declared
    else:
        count = depths.most_common(1)[0][0] if layered else max(2, top + 1)
    classes = Classes(mode, count, names, coding, layered)
    problems = _find_contradictions(source, mode, num_classes, count)
    if not problems and declared is None and not source.instances and not layered:
        problems += _find_gaps(labels, count)
    if mode == "multilabel" and facts and not layered and not source.instances:
        notes.append("masks hold one class per pixel: class 0 is learned like the others")
    return classes, problems, notes


def find_wrong_values(facts: list[Facts], classes: Classes) -> list[str]:
    """Report the masks with values outside the classes, with remedies in the last line."""
    count = 2 if classes.layered else classes.count
    facts = [f for f in facts if f.layered == classes.layered]
    wrong = find_outside({v for f in facts for v in f.values}, classes.coding, count)
    problems = [
        f"{f.sample.name}: its mask has the values {join_values(sorted(wrong & f.values))}, which"
        f" are outside the {count} classes 0 to {count - 1}"
        for f in facts
        if wrong & f.values
    ]
    if not problems:
        return []
    remedies = [
        "use data.instances=true if these are object ids",
        f"data.label_map={{{min(wrong)}: LABEL}} gives a value a label",
        "use head=multiclass for several classes"
        if classes.mode == "binary"
        else "use head.num_classes for more classes",
        f"the label {IGNORE_INDEX} means 'not labelled'",
    ]
    if len(wrong) > 3:
        remedies.append(
            "values in between come from JPEG or from resizing: save masks as PNG, and resize them"
            " with nearest neighbour"
        )
    problems[-1] += f". To fix this: {'; '.join(remedies)}"
    return problems


def find_mixed_masks(facts: list[Facts], classes: Classes) -> list[str]:
    """Report black-and-white masks among masks of 0 and 1, where 255 could mean two things."""
    coding = classes.coding
    two = classes.layered or classes.count == 2
    if not two or coding.foreground or IGNORE_INDEX in coding.to_label:
        return []
    white = [f for f in facts if IGNORE_INDEX in f.values]
    ones = [f for f in facts if any(coding.label_of(v) == 1 for v in f.values)]
    both = any(IGNORE_INDEX in f.values for f in ones)
    if both or not white or not ones:
        return []
    return [
        f"{len(white)} masks have the value 255 and no 1 ({white[0].sample.name}), {len(ones)}"
        f" have 1 and no 255 ({ones[0].sample.name}), so 255 is ambiguous:"
        " data.label_map={255: 1} makes it class 1, data.label_map={255: 255} not labelled"
    ]


def _find_contradictions(
    source: DataSource, mode: Mode, num_classes: int | None, count: int
) -> list[str]:
    """Report numbers of classes in the config that contradict each other."""
    names, colors = source.class_names, source.class_colors
    given = {"head.num_classes": num_classes, "data.class_names": len(names) if names else None}
    problems = []
    if None not in given.values() and len(set(given.values())) > 1:
        problems.append(
            f"head.num_classes is {num_classes}, but data.class_names has"
            f" {given['data.class_names']} names: remove one or make them agree"
        )
    for key, number in given.items():
        if mode == "binary" and number not in (None, 2):
            problems.append(
                f"{key} means {number} classes, but head=binary has 2, background and foreground:"
                " use head=multiclass, or name both"
            )
        elif source.instances and number not in (None, 2):
            problems.append(
                f"{key} means {number} classes, but data.instances=true has 2, background and"
                " object: use data.instances=false for more"
            )
    if colors is not None and not problems and len(colors) != count:
        problems.append(
            f"data.class_colors has {len(colors)} colours, but there are {count} classes"
        )
    return problems


def _find_gaps(labels: set[int], count: int) -> list[str]:
    """Report grey levels such as 0, 85 and 170, which are three classes and not 171."""
    present = sorted(label for label in labels if 0 <= label < count)
    if count <= 2 * max(2, len(present)):
        return []
    mapping = ", ".join(f"{v}: {i}" for i, v in enumerate(present[:6]) if v != i)
    more = ", ..." if len(present) > 6 else ""
    return [
        f"the masks have the values {join_values(present)}, which would make {count} classes, but"
        f" {count - len(present)} of them never occur: set data.label_map={{{mapping}{more}}}, or"
        f" head.num_classes={count} if this is intended"
    ]
