"""The data contract: a source lists samples by split and reads their images and masks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segkit.core.registry import Registrable

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Byte = Annotated[int, Field(ge=0, le=255)]
"""A label, or one of the three numbers of a colour, in the options of members."""


@dataclass(frozen=True)
class Sample:
    """An image and its mask, not read yet.

    Attributes:
        name: Unique in the data set; for files the path relative to the root, plus the page of a
            stack and the block of a large image.
        image: Image file, None for drawn images.
        mask: Mask file, None for drawn images.
        page: Page of a multi-page file, from 0; None for the whole file.
        index: Number of a drawn image.
        window: Top, left, height and width of the part of the image that is the sample; None for
            the whole image.
    """

    name: str
    image: Path | None = None
    mask: Path | None = None
    page: int | None = None
    index: int = 0
    window: tuple[int, int, int, int] | None = None


class Large(NamedTuple):
    """A sample whose image is too large to be read whole.

    Attributes:
        shape: (H, W, C) of its image.
        dtype: The type of its image.
        mask_shape: (H, W) or (H, W, N) of its mask; None if that can only be read whole.
        may_lack_data: Whether there can be pixels without data.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    mask_shape: tuple[int, ...] | None
    may_lack_data: bool

    @property
    def nbytes(self) -> int:
        """Bytes of its decoded image."""
        return math.prod(self.shape) * self.dtype.itemsize


class DataSource(Registrable, ABC, family="data"):
    """Where images and masks come from.

    A member takes ``mode``, the head's mode, as its first option and sets the attributes it knows.
    It must be picklable, because it is sent to the worker processes, and several threads read from
    it at once when a data set is checked.

    Attributes:
        class_names: Names of the classes in label order, None if they have no names.
        class_colors: RGB colours of the classes, None for the default palette.
        label_map: Labels of mask values that differ from their label.
        instances: Whether masks hold object ids rather than labels.
        channel_files: Names of the channels of images, in their order, that lie in files of their
            own.
    """

    class_names: tuple[str, ...] | None = None
    class_colors: tuple[tuple[int, int, int], ...] | None = None
    label_map: dict[int, int] | None = None
    instances: bool = False
    channel_files: tuple[str, ...] = ()

    @abstractmethod
    def splits(self) -> dict[Split, list[Sample]]:
        """List the samples of each split; "test" may be empty.

        Samples that cannot be used are left out here and reported by :meth:`problems`.

        Raises:
            SegkitError: There is nothing to list.
        """

    def problems(self) -> list[str]:
        """List what is wrong with single samples, such as an image without a mask, by file."""
        return []

    def notes(self) -> list[str]:
        """What the user should know once every sample has been read, such as files left out."""
        return []

    @abstractmethod
    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C), uint8, uint16 or float32; a masked array (`numpy.ma`) if pixels have no data.

        NaN counts as masked. Pixels that have no data in any channel are ignored in training and
        in scores.
        """

    @abstractmethod
    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W) integers as stored in the file; (H, W, N) for overlapping classes."""

    def measure_large(self, sample: Sample) -> Large | None:
        """Tell that only the parts of a sample that are needed should be read.

        Parts are the same sample with a smaller window. None: it is read whole, once, and cached.
        """
        return None

    def read_markers(self, sample: Sample) -> NDArray[np.integer[Any]] | None:
        """(H, W) ids of markers, one in each object, if detection has its own ground truth.

        The Cell Tracking Challenge marks all cells but outlines only some. None: the mask contains
        all objects.
        """
        return None
