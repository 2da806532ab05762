"""What the classes of a set are, and which pixels of its masks belong to them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.coding import LabelCoding, decide_coding, listed, outside
from segkit.core.labels import IGNORE_INDEX
from segkit.data.checks.scanning import Facts
from segkit.data.sources.base import DataSource


@dataclass(frozen=True)
class Classes:
    """The classes of a set.

    Attributes:
        mode: The head's mode.
        count: How many there are.
        names: Their names, None where nobody named them.
        coding: What the values of the masks mean.
        layered: Whether masks have a layer for each class.
    """

    mode: str
    count: int
    names: tuple[str, ...] | None
    coding: LabelCoding
    layered: bool

    @property
    def shown_names(self) -> tuple[str, ...]:
        """The names, or made-up ones."""
        if self.names is not None:
            return self.names
        if self.mode == "binary":
            return ("background", "foreground")
        return tuple(f"class {i}" for i in range(self.count))

    @property
    def has_background(self) -> bool:
        """Whether pixels of no class are what it takes to call a mask empty."""
        if self.layered or self.mode == "binary":
            return True
        named = self.names is not None and self.names[0].lower() != "background"
        return self.mode == "multiclass" and not named

    def pixels(self, facts: Facts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many pixels of a mask are of each class, and how many have a label; (count,) both."""
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
    source: DataSource, mode: str, num_classes: int | None, facts: list[Facts]
) -> tuple[Classes, list[str], list[str]]:
    """What the classes are, from what the user said and from the masks.

    Args:
        source: The data set.
        mode: The head's mode.
        num_classes: The number of classes that was asked for.
        facts: The samples that could be read.

    Returns:
        The classes, the problems with what the user said, and what the user should know.
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
    problems = _contradictions(source, mode, num_classes, count)
    if not problems and declared is None and not source.instances and not layered:
        problems += _scattered(labels, count)
    if mode == "multilabel" and facts and not layered and not source.instances:
        notes.append("masks hold one class for each pixel: class 0 is learned like the others")
    return classes, problems, notes


def wrong_values(facts: list[Facts], classes: Classes) -> list[str]:
    """The files whose masks have values outside the classes, and what to do about them."""
    count = 2 if classes.layered else classes.count
    facts = [f for f in facts if f.layered == classes.layered]
    all_wrong = outside({v for f in facts for v in f.values}, classes.coding, count)
    problems = [
        f"{f.sample.name}: its mask has the values {listed(sorted(all_wrong & f.values))}, which"
        f" are outside the {count} classes 0 to {count - 1}"
        for f in facts
        if all_wrong & f.values
    ]
    if not problems:
        return []
    remedies = [
        "data.instances=true is for ids of objects",
        f"data.label_map={{{min(all_wrong)}: LABEL}} gives a value a label",
    ]
    if classes.mode == "binary":
        remedies.append("head=multiclass is for several classes")
    else:
        remedies.append("head.num_classes is for more classes")
    remedies.append(f"the label {IGNORE_INDEX} means 'not labelled'")
    if len(all_wrong) > 3:
        remedies.append(
            "values in between come from JPEG and from resizing: save masks as PNG, resized with"
            " the nearest neighbour"
        )
    problems[-1] += f". To mend this: {'; '.join(remedies)}"
    return problems


def mixed_masks(facts: list[Facts], classes: Classes) -> list[str]:
    """Black-and-white masks among those of 0 and 1: there 255 could mean two things."""
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
        f" have 1 and no 255 ({ones[0].sample.name}): say what 255 means. data.label_map={{255: 1}}"
        " makes it class 1, data.label_map={255: 255} not labelled"
    ]


def _contradictions(
    source: DataSource, mode: str, num_classes: int | None, count: int
) -> list[str]:
    """Numbers of classes that differ in the config."""
    names, colors = source.class_names, source.class_colors
    said = {"head.num_classes": num_classes, "data.class_names": len(names) if names else None}
    problems = []
    if None not in said.values() and len(set(said.values())) > 1:
        problems.append(
            f"head.num_classes is {num_classes}, but data.class_names has"
            f" {said['data.class_names']} names: drop one or make them alike"
        )
    for key, number in said.items():
        if mode == "binary" and number not in (None, 2):
            problems.append(
                f"{key} means {number} classes, but head=binary knows 2, background and"
                " foreground: use head=multiclass, or name both"
            )
        elif source.instances and number not in (None, 2):
            problems.append(
                f"{key} means {number} classes, but data.instances=true knows 2, background and"
                " object: use data.instances=false for more"
            )
    if colors is not None and not problems and len(colors) != count:
        problems.append(
            f"data.class_colors has {len(colors)} colours, but there are {count} classes"
        )
    return problems


def _scattered(labels: set[int], count: int) -> list[str]:
    """Grey levels such as 0, 85 and 170, which are three classes and not 171."""
    present = sorted(label for label in labels if 0 <= label < count)
    if count <= 2 * max(2, len(present)):
        return []
    mapping = ", ".join(f"{v}: {i}" for i, v in enumerate(present[:6]) if v != i)
    more = ", ..." if len(present) > 6 else ""
    return [
        f"the masks have the values {listed(present)}, which would make {count} classes of which"
        f" {count - len(present)} never occur: give data.label_map={{{mapping}{more}}}, or"
        f" head.num_classes={count} if it is meant"
    ]
