"""The data contract: a source lists samples by split and reads their images and masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.core.registry import Registrable

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One image and its mask, not read yet.

    Attributes:
        name: Unique in the set; for files the path below the root, with the page of a stack.
        image: File of the image, None for drawn ones.
        mask: File of the mask.
        page: Page of a multi-page file, from 0; None for the whole file.
        index: Number of a drawn image.
    """

    name: str
    image: Path | None = None
    mask: Path | None = None
    page: int | None = None
    index: int = 0


class DataSource(Registrable, ABC, family="data"):
    """Where images and masks come from.

    A member takes ``mode``, the head's mode, as its first option, and sets what it knows. It is
    sent to the processes that load the data, so it must be picklable, and several threads read
    from it at once when a set is checked.

    Attributes:
        class_names: Names of the classes in the order of the labels, None where nobody named them.
        class_colors: RGB colours of the classes, None for the default ones.
        label_map: Which label a value of the masks means, for the values that do not mean
            themselves.
        instances: Whether the masks hold the ids of objects rather than labels.
    """

    class_names: tuple[str, ...] | None = None
    class_colors: tuple[tuple[int, int, int], ...] | None = None
    label_map: dict[int, int] | None = None
    instances: bool = False

    @abstractmethod
    def splits(self) -> dict[Split, list[Sample]]:
        """The samples of each split; "test" may be empty.

        What is wrong with single samples, so that they are left out here, is for
        :meth:`problems` to say.

        Raises:
            SegkitError: There is nothing to list.
        """

    def problems(self) -> list[str]:
        """What is wrong with the list of samples, such as an image without a mask, by file.

        The check of the set reports it together with what it finds in the files.
        """
        return []

    @abstractmethod
    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C), uint8, uint16 or float32."""

    @abstractmethod
    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W) integers as they stand in the masks; (H, W, N) of overlapping classes."""

    def read_markers(self, sample: Sample) -> NDArray[np.integer[Any]] | None:
        """(H, W) ids of marks, one in each object, where detection has a truth of its own.

        The Cell Tracking Challenge marks all cells and outlines some of them. None: the objects of
        the mask are all there are.
        """
        return None
