"""From the values in masks to the labels that are learned, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX

FEW_IDS = 3
"""If a whole data set has at most this many ids, they are probably classes."""


@dataclass(frozen=True)
class LabelCoding:
    """Meaning of the mask values.

    Attributes:
        to_label: Label of each value that differs from its label.
        foreground: Whether every value except 0 and those in ``to_label`` is foreground, label 1
            (object ids).
    """

    to_label: dict[int, int]
    foreground: bool = False

    def label_of(self, value: int) -> int:
        """The label of a value, whether or not there is such a class."""
        return self.to_label.get(value, int(value != 0) if self.foreground else value)

    def encode(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert values (H, W) or (H, W, N), integers or bool, to labels of the same shape.

        Raises:
            SegkitError: A value has no label and is not one itself: it is negative or above 255.
        """
        if mask.dtype in (np.uint8, np.bool_):
            table = np.array([self.label_of(value) for value in range(256)], np.uint8)
            # five times as fast as indexing with NumPy; as one row it supports any number of axes
            row = np.ascontiguousarray(mask).view(np.uint8).reshape(1, -1)
            return np.asarray(cv2.LUT(row, table), np.uint8).reshape(mask.shape)
        # not directly to 8 bits, which would turn 256 into 0
        labels = (mask != 0 if self.foreground else mask).astype(np.int64)
        for value, label in self.to_label.items():
            labels[mask == value] = label
        wrong = np.unique(labels[(labels < 0) | (labels > 255)])
        if len(wrong):
            raise SegkitError(
                f"the mask has the values {join_values(wrong.tolist())}, which are not labels: give"
                " them labels with data.label_map={VALUE: LABEL}."
            )
        return labels.astype(np.uint8)

    def value_of(self, label: int) -> int:
        """The mask value of a label; 255 for the foreground of ids."""
        if self.foreground:
            return 255 * label
        return next((v for v, known in self.to_label.items() if known == label), label)


def decide_coding(
    values: set[int], two_classes: bool, label_map: dict[int, int] | None, instances: bool
) -> tuple[LabelCoding, list[str]]:
    """Decide what the mask values of a data set mean; also return notes for the user.

    Only the value 255 is ambiguous. With two classes, 0 and 1, and no other value for class 1, 255
    is class 1 (black-and-white masks). Otherwise it means "not labelled".

    Args:
        values: The values that occur in the masks.
        two_classes: Whether the labels are 0 and 1.
        label_map: The labels that the user gave to values.
        instances: Whether the values are object ids.
    """
    coding = LabelCoding(dict(label_map or {}), foreground=instances)
    if instances:
        notes = ["masks hold object ids: every id is foreground"]
        ids = sorted(value for value in values if value and value not in coding.to_label)
        if 0 < len(ids) <= FEW_IDS:
            notes.append(
                f"all masks together have only the ids {join_values(ids)}: if these are classes,"
                " remove data.instances=true"
            )
        return coding, notes
    if IGNORE_INDEX not in values or IGNORE_INDEX in coding.to_label:
        return coding, []
    if two_classes and not any(coding.label_of(value) == 1 for value in values):
        coding.to_label[IGNORE_INDEX] = 1
        return coding, ["masks hold 0 and 255: 255 is used as class 1"]
    return coding, ["the mask value 255 means 'not labelled': these pixels are ignored"]


def find_outside(values: set[int], coding: LabelCoding, num_classes: int) -> set[int]:
    """The values that are neither a class nor ignored."""
    return {
        value
        for value in values
        if (label := coding.label_of(value)) != IGNORE_INDEX and not 0 <= label < num_classes
    }


def join_values(values: list[int], most: int = 6) -> str:
    """Values for a message, only the first of many."""
    return ", ".join(map(str, values[:most])) + (" ..." if len(values) > most else "")
