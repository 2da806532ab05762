"""From the values that stand in masks to the labels that are learned, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX

FEW_IDS = 3
"""So few ids in a whole set are more often classes."""


@dataclass(frozen=True)
class LabelCoding:
    """What the values of masks mean.

    Attributes:
        to_label: Label of each value that does not mean itself.
        foreground: Whether every value but 0 that is not in ``to_label`` is foreground, label 1
            (ids of objects).
    """

    to_label: dict[int, int]
    foreground: bool = False

    def label_of(self, value: int) -> int:
        """The label that a value stands for, whether or not there is such a class."""
        return self.to_label.get(value, int(value != 0) if self.foreground else value)

    def encode(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """Values (H, W) or (H, W, N), integers or bool, to labels of the same shape.

        Raises:
            SegkitError: A value has no label and is none itself: it is negative or above 255.
        """
        if mask.dtype in (np.uint8, np.bool_):
            table = np.array([self.label_of(value) for value in range(256)], np.uint8)
            # OpenCV looks up five times as fast as NumPy; as one row, it minds no number of axes
            row = np.ascontiguousarray(mask).view(np.uint8).reshape(1, -1)
            return np.asarray(cv2.LUT(row, table), np.uint8).reshape(mask.shape)
        # not to 8 bits at once, which would make 256 a 0
        labels = (mask != 0 if self.foreground else mask).astype(np.int64)
        for value, label in self.to_label.items():
            labels[mask == value] = label
        wrong = np.unique(labels[(labels < 0) | (labels > 255)])
        if len(wrong):
            raise SegkitError(
                f"the mask has the values {listed(wrong.tolist())}, which are no labels: give"
                " them some with data.label_map={VALUE: LABEL}."
            )
        return labels.astype(np.uint8)

    def value_of(self, label: int) -> int:
        """The value that stands for a label in a mask; 255 for the foreground of ids."""
        if self.foreground:
            return 255 * label
        return next((v for v, known in self.to_label.items() if known == label), label)


def decide_coding(
    values: set[int], two_classes: bool, label_map: dict[int, int] | None, instances: bool
) -> tuple[LabelCoding, list[str]]:
    """What the values of all masks of a set mean, and what to tell the user about it.

    The value 255 is what takes a decision. Where there are two classes, 0 and 1, and nothing else
    is class 1, then 255 is (black-and-white masks). In all other sets it is not labelled.

    Args:
        values: The values that occur in the masks.
        two_classes: Whether the labels are 0 and 1.
        label_map: What the user said about values.
        instances: Whether the values are ids of objects.
    """
    coding = LabelCoding(dict(label_map or {}), foreground=instances)
    if instances:
        notes = ["masks hold ids of objects: every id is foreground"]
        ids = sorted(value for value in values if value and value not in coding.to_label)
        if 0 < len(ids) <= FEW_IDS:
            notes.append(
                f"all masks together have only the ids {listed(ids)}: if these are classes, leave"
                " out data.instances=true"
            )
        return coding, notes
    if IGNORE_INDEX not in values or IGNORE_INDEX in coding.to_label:
        return coding, []
    if two_classes and not any(coding.label_of(value) == 1 for value in values):
        coding.to_label[IGNORE_INDEX] = 1
        return coding, ["masks hold 0 and 255: 255 is taken as class 1"]
    return coding, ["the value 255 of the masks means 'not labelled': these pixels do not count"]


def outside(values: set[int], coding: LabelCoding, num_classes: int) -> set[int]:
    """The values that are neither a class nor to be ignored."""
    return {
        value
        for value in values
        if (label := coding.label_of(value)) != IGNORE_INDEX and not 0 <= label < num_classes
    }


def listed(values: list[int], most: int = 6) -> str:
    """Values for a message, the first of them where they are many."""
    return ", ".join(map(str, values[:most])) + (" ..." if len(values) > most else "")
