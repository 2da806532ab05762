"""Crops that are put together from several: CutMix, mosaics, objects of other images.

A mix chooses pixels, and image and marks follow together, before the labels are drawn: borders,
gaps and weights are those of the objects in the result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segkit.core.errors import SegkitError
from segkit.core.labels import GUESS, IGNORE_INDEX
from segkit.core.registry import Registrable
from segkit.targets.objects import MOST_OBJECTS, make_ids, number_regions

Probability = Annotated[float, Field(gt=0, le=1)]
Marked = tuple[NDArray[Any], NDArray[Any]]
"""A crop, (H, W, C), and its labels or ids, (H, W) or (H, W, N); an image may have a border."""


class Mix(Registrable, ABC, family="mix"):
    """Base of every mix: which pixels of other crops cover a crop.

    Attributes:
        others: The number of other crops that it takes.
        p: Share of the crops that are mixed.
    """

    others: ClassVar[int] = 1
    p: float = 0.5

    @classmethod
    def build(cls, name: str, /, *, p: Probability = 0.5, **options: Any) -> Mix:
        """Build a mix by name.

        Args:
            name: Name of a member.
            p: Share of the crops that are mixed.
            options: Those of the constructor.
        """
        member, bound = cls.bind(name, {**options, "p": p})
        share = bound.pop("p")
        mix = member(**bound)
        mix.p = share
        return mix

    @abstractmethod
    def choose(
        self, objects: Sequence[NDArray[np.uint16]], rng: np.random.Generator
    ) -> list[NDArray[np.bool_]]:
        """Choose the pixels that cover the crop.

        Args:
            objects: The ids of the objects in each of the other crops, (H, W), 0 where there is
                none, 255 where it is not known. Of classes, each connected region is an object.

        Returns:
            For each of the other crops (H, W), true where it covers the crop.
        """


class CutMix(Mix, name="cutmix"):
    """A rectangle of another crop at the same place (Yun et al. 2019; French et al. 2020).

    Its share of the area is Beta(alpha, alpha) distributed, its proportions are those of the crop,
    and its centre lies anywhere, so that it may be cut off.

    Args:
        alpha: Parameter of the distribution; 1: every share is equally probable.
    """

    def __init__(self, alpha: Annotated[float, Field(gt=0)] = 1.0) -> None:
        self.alpha = alpha

    def choose(
        self, objects: Sequence[NDArray[np.uint16]], rng: np.random.Generator
    ) -> list[NDArray[np.bool_]]:
        """See :meth:`Mix.choose`."""
        shape = objects[0].shape
        side = np.sqrt(rng.beta(self.alpha, self.alpha))
        covered = np.zeros(shape, np.bool_)
        rows, columns = (
            slice(max(0, round(c - side * n / 2)), max(0, round(c + side * n / 2)))
            for c, n in ((rng.uniform(0, n), n) for n in shape)
        )
        covered[rows, columns] = True
        return [covered]


class Mosaic(Mix, name="mosaic"):
    """Four crops around a point, each with its own quarter (Bochkovskiy et al. 2020, YOLOv4).

    The point lies in the middle half of the crop; the upper left part is of the crop itself.
    """

    others = 3

    def choose(
        self, objects: Sequence[NDArray[np.uint16]], rng: np.random.Generator
    ) -> list[NDArray[np.bool_]]:
        """See :meth:`Mix.choose`."""
        height, width = objects[0].shape
        below = np.arange(height)[:, None] >= round(rng.uniform(0.25, 0.75) * height)
        right = np.arange(width) >= round(rng.uniform(0.25, 0.75) * width)
        return [~below & right, below & ~right, below & right]


class CopyPaste(Mix, name="copy_paste"):
    """Objects of another crop, each with the same probability (Ghiasi et al. 2021).

    What is covered vanishes; objects of which only a part is covered keep the rest.

    Args:
        share: Mean share of the objects that are copied; it is drawn anew, between 0 and twice it.
    """

    def __init__(self, share: Annotated[float, Field(gt=0, le=0.5)] = 0.5) -> None:
        self.share = share

    def choose(
        self, objects: Sequence[NDArray[np.uint16]], rng: np.random.Generator
    ) -> list[NDArray[np.bool_]]:
        """See :meth:`Mix.choose`."""
        ids = np.unique(objects[0])
        ids = ids[(ids != 0) & (ids != IGNORE_INDEX)]
        chosen = ids[rng.random(len(ids)) < rng.uniform(0, 2 * self.share)]
        return [np.isin(objects[0], chosen)]


def build_mixes(wanted: Sequence[str | dict[str, Any]]) -> list[Mix]:
    """Build mixes from names, or from mappings of a name and options.

    Raises:
        SegkitError: A name or an option is unknown or refused.
    """
    mixes = []
    for each in wanted:
        options = dict(each) if isinstance(each, dict) else {"name": each}
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise SegkitError(f"{each} has no name. Known: {', '.join(Mix.names())}.")
        mixes.append(Mix.build(name, **options))
    return mixes


def find_objects(marks: NDArray[Any], from_ids: bool, background: int | None) -> NDArray[np.uint16]:
    """The objects of a crop: its ids, or the connected regions of its classes.

    Args:
        marks: (H, W) uint16 ids; or uint8 labels, (H, W) or (H, W, N).
        from_ids: Whether they are ids.
        background: The label that is no object; None: each label is one.
    """
    if from_ids:
        return marks
    if marks.ndim == 3:
        labels = (marks == 1).any(axis=2).astype(np.int32)
        return number_regions(np.where((marks == IGNORE_INDEX).all(axis=2), IGNORE_INDEX, labels))
    if background == 0:
        return number_regions(marks)
    moved = marks.astype(np.int32) + IGNORE_INDEX + 1  # so that every label but one is an object
    moved[marks == IGNORE_INDEX] = IGNORE_INDEX
    if background is not None:
        moved[marks == background] = 0
    return number_regions(moved)


def cover(below: Marked, above: Marked, where: NDArray[np.bool_], from_ids: bool) -> Marked:
    """A crop with pixels of another one; objects of both keep ids of their own.

    Args:
        below: The crop, and its labels or ids.
        above: The other one, of the same shapes.
        where: (H, W), true where the other one is seen. Where images have a border around the
            labels, for networks without padding, it shows what its nearest pixel shows.
        from_ids: Whether the marks are ids.
    """
    (image, marks), (other, other_marks) = below, above
    border = (image.shape[0] - marks.shape[0]) // 2
    seen = np.pad(where, border, mode="edge")[..., None]
    if from_ids:
        other_marks = _renumber(other_marks, where, marks)
    is_covered = where if marks.ndim == 2 else where[..., None]
    return np.where(seen, other, image), np.where(is_covered, other_marks, marks)


def _renumber(
    ids: NDArray[np.uint16], where: NDArray[np.bool_], taken: NDArray[np.uint16]
) -> NDArray[np.uint16]:
    """Give the objects that are seen ids that are not taken."""
    used, own = np.unique(taken[~where]), np.unique(ids[where])
    kept = [0, IGNORE_INDEX, GUESS["uint16"]]
    own = own[~np.isin(own, kept)]
    free = np.setdiff1d(make_ids(min(MOST_OBJECTS, len(used) + len(own))), used)
    table = np.zeros(2**16, np.uint16)
    table[kept] = kept
    table[own] = free[: len(own)]
    return table[ids]
