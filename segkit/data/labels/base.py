"""The contract of annotation formats: shapes of images, and where to find them."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.registry import Registrable
from segkit.data.labels.tree import FileTree
from segkit.data.sources.base import Split

Ring = NDArray[np.float64]
"""(N, 2) corners x, y of a closed outline; pixel (0, 0) covers [0, 1] x [0, 1]."""

Color = tuple[int, int, int]

BACKGROUND = -1
"""The category of a shape that shows the background, so that its label is 0."""


class Polygon(NamedTuple):
    """An outline and the holes in it."""

    outer: Ring
    holes: tuple[Ring, ...] = ()


class Polygons(NamedTuple):
    """A region in several parts.

    Attributes:
        parts: They may overlap.
        relative: Whether x and y are fractions of the image's width and height, not pixels.
    """

    parts: tuple[Polygon, ...]
    relative: bool = False


class Rle(NamedTuple):
    """COCO's run lengths, down the columns.

    Attributes:
        size: Height and width of the image.
        counts: COCO's compressed string.
    """

    size: tuple[int, int]
    counts: bytes


class Runs(NamedTuple):
    """Runs in an image of unknown size.

    Attributes:
        starts: The first pixels of the runs, from 0.
        lengths: The numbers of pixels.
        along_rows: Whether pixels are counted along the rows, and not down the columns.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    along_rows: bool = False


class Segment(NamedTuple):
    """The pixels of a file whose colour R, G, B is the id R + 256 G + 65536 B.

    Attributes:
        file: The file.
        id: The id.
        others: Of pixels without a segment, the ids of all segments: another one is an error.
    """

    file: Path
    id: int
    others: tuple[int, ...] = ()


Region = Polygons | Rle | Runs | Segment | Path
"""What a shape covers; a path is that of a mask file whose pixels are not 0 there."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A region of one image.

    Attributes:
        category: Index into the categories, or BACKGROUND.
        region: The pixels.
        ignored: Whether they are not labelled, such as a crowd of COCO.
        group: Shapes of one category with the same group are parts of one object.
    """

    category: int
    region: Region
    ignored: bool = False
    group: int | None = None


@dataclass(slots=True)
class AnnotatedImage:
    """An image with its shapes, which are packed: a million arrays would not fit into memory.

    Attributes:
        file: The image file.
        name: Its path relative to the root, with "/".
        split: The split that the annotation states, if it does.
        size: Height and width as the annotation states them.
        page: Page of a multi-page file, from 0; None for the whole file.
        categories: The category of each shape.
        packed: The shapes otherwise.
    """

    file: Path
    name: str
    split: Split | None
    size: tuple[int, int] | None
    page: int | None
    categories: tuple[int, ...]
    packed: bytes = field(repr=False)

    @property
    def shapes(self) -> list[Shape]:
        """The shapes in the order in which they are drawn."""
        return self.read_shapes()

    def read_shapes(self, size: tuple[int, int] | None = None) -> list[Shape]:
        """Unpack the shapes, for an image of a height and width.

        Raises:
            SegkitError: The annotation was made for another size.
        """
        if size is not None and self.size is not None and tuple(size) != self.size:
            turned = " It was annotated before it was rotated." if size == self.size[::-1] else ""
            raise SegkitError(
                f"{self.name} has {size[1]} x {size[0]} pixels, but was annotated with"
                f" {self.size[1]} x {self.size[0]}.{turned} Use the images that were annotated."
            )
        rest = pickle.loads(self.packed)
        return [
            Shape(category, _unpack_region(region), ignored, group)
            for category, (region, ignored, group) in zip(self.categories, rest, strict=True)
        ]


@dataclass
class Annotations:
    """All annotated images of a folder.

    Attributes:
        categories: Names of the classes, without the background.
        colors: Their RGB colours, if the files have them.
        images: In the order of the files.
        notes: What was found and what is not used, for the user to read.
        problems: What is wrong with files, images or shapes; these are left out.
        stuff: The categories that are no objects, such as sky, and "background" if there is one, if
            every pixel has a shape; None if pixels without one are background.
    """

    categories: tuple[str, ...]
    colors: tuple[Color, ...] | None
    images: list[AnnotatedImage]
    notes: list[str]
    problems: list[str]
    stuff: frozenset[str] | None = None


class LabelFormat(Registrable, ABC, family="label_format"):
    """A format of annotation files.

    Attributes:
        title: Its name in messages.
    """

    title: ClassVar[str]

    @classmethod
    @abstractmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The annotation files of this format, or their folders, found by their content."""

    @classmethod
    def find_named(cls, tree: FileTree) -> list[Path]:
        """The files if the user names the format: also what may mean something else."""
        return cls.find(tree)

    @classmethod
    def claims(cls, mask: Path) -> bool:
        """Whether a file or folder, named like a mask, is one of the format's."""
        return False

    @classmethod
    @abstractmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """Read the files that :meth:`find` has found; whatever is wrong becomes a problem."""


def find_formats(tree: FileTree) -> list[tuple[str, list[Path]]]:
    """The formats that a folder contains, by name, and their files; there may be several.

    Raises:
        SegkitError: There is no such folder.
    """
    found = [(name, LabelFormat.members()[name].find(tree)) for name in LabelFormat.names()]
    return [(name, files) for name, files in found if files]


def is_annotation(mask: Path) -> bool:
    """Whether a format claims what is named like a mask."""
    return any(LabelFormat.members()[name].claims(mask) for name in LabelFormat.names())


def read_annotations(name: str, files: Sequence[Path], tree: FileTree) -> Annotations:
    """Read the files of a format.

    Raises:
        SegkitError: There is no such format.
    """
    return LabelFormat.resolve(name, {})[0].read(files, tree)


def pack_shapes(shapes: Iterable[Shape]) -> bytes:
    """What AnnotatedImage keeps of shapes besides the categories."""
    return pickle.dumps([(_pack_region(s.region), s.ignored, s.group) for s in shapes], protocol=5)


def _pack_region(region: Region) -> tuple[str, Any, Any]:
    """Plain Python, because each array would take a hundred bytes for its header."""
    if isinstance(region, Polygons):
        rings = [[ring.tobytes() for ring in (part.outer, *part.holes)] for part in region.parts]
        return "polygons", rings, region.relative
    if isinstance(region, Rle):
        return "rle", region.size, region.counts
    if isinstance(region, Runs):
        return "runs", (region.starts.tobytes(), region.lengths.tobytes()), region.along_rows
    if isinstance(region, Segment):
        return "segment", str(region.file), region[1:]
    return "file", str(region), None


def _unpack_region(packed: tuple[str, Any, Any]) -> Region:
    kind, first, second = packed
    if kind == "polygons":
        parts = [[np.frombuffer(ring).reshape(-1, 2) for ring in rings] for rings in first]
        return Polygons(tuple(Polygon(outer, tuple(holes)) for outer, *holes in parts), second)
    if kind == "rle":
        return Rle(first, second)
    if kind == "runs":
        starts, lengths = (np.frombuffer(part, np.int64) for part in first)
        return Runs(starts, lengths, second)
    if kind == "segment":
        return Segment(Path(first), *second)
    return Path(first)
