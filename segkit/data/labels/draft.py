"""What a format collects while it reads: images, categories, notes and problems."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from segkit.core.errors import SegkitError
from segkit.data.labels.base import (
    BACKGROUND,
    AnnotatedImage,
    Annotations,
    Color,
    Shape,
    pack_shapes,
)
from segkit.data.labels.tree import FileTree
from segkit.data.sources.base import Split

_BACKGROUNDS = frozenset({"background", "_background_"})


class Draft:
    """Annotations that are still being read.

    Args:
        tree: The files.
        shape: What the format calls its shapes, for messages.

    Attributes:
        stuff: As of :class:`Annotations`.
    """

    def __init__(self, tree: FileTree, shape: str = "shapes") -> None:
        self.tree, self.shape = tree, shape
        self.notes: list[str] = []
        self.problems: list[str] = []
        self.stuff: set[str] | None = None
        self._numbers: dict[str, int] = {}
        self._colors: dict[str, Color] = {}
        self._counts: Counter[str] = Counter()
        self._images: dict[tuple[str, int | None], AnnotatedImage] = {}
        self._places: dict[tuple[str, int | None], str] = {}
        self._repeated: Counter[tuple[str, str]] = Counter()
        self._repeated_names: dict[tuple[str, str], str] = {}

    def add_category(self, name: str, color: Color | None = None) -> int:
        """The number of a category, a new one for a new name; BACKGROUND for "background"."""
        if name.strip().lower() in _BACKGROUNDS:
            return BACKGROUND
        if color is not None:
            self._colors.setdefault(name, color)
        return self._numbers.setdefault(name, len(self._numbers))

    @property
    def categories(self) -> list[str]:
        """The names so far."""
        return list(self._numbers)

    def count(self, what: str, number: int = 1) -> None:
        """Count something that ends up in one note, such as "points are not used"."""
        self._counts[what] += number

    def report(self, place: str, problem: object) -> None:
        """Add a problem of a place in a file."""
        self.problems.append(f"{place}: {problem}")

    def add_image(
        self,
        file: str,
        shapes: Iterable[Shape],
        place: str,
        *,
        split: Split | None = None,
        size: tuple[int, int] | None = None,
        page: int | None = None,
    ) -> bool:
        """Add an image of the tree; one that was added before is a problem.

        Args:
            file: Its path relative to the root.
            shapes: In the order in which they are drawn.
            place: The file that annotates it, for messages.
            split: As stated.
            size: As stated.
            page: Of a file with several.
        """
        key = file, page
        before = self._places.setdefault(key, place)
        if key in self._images:
            self._repeated[before, place] += 1
            self._repeated_names.setdefault((before, place), file)
            return False
        shapes = list(shapes)
        self._images[key] = AnnotatedImage(
            self.tree.path(file),
            file,
            split,
            size,
            page,
            tuple(shape.category for shape in shapes),
            pack_shapes(shapes),
        )
        return True

    def finish(self, order: Sequence[str] | None = None) -> Annotations:
        """Make the annotations.

        Args:
            order: The categories in their final order; None sorts them by name.
        """
        given = self.categories
        names = sorted(given) if order is None else list(order)
        new = {self._numbers[name]: number for number, name in enumerate(names)}
        new[BACKGROUND] = BACKGROUND
        images = list(self._images.values())
        for image in images:
            image.categories = tuple(new[number] for number in image.categories)
        counted = [f"{what} ({number})" for what, number in self._counts.items()]
        notes = [*self.notes, *counted]
        for (before, place), number in self._repeated.items():
            name = self._repeated_names[before, place]
            self.problems.append(
                f"{name} is annotated twice, in {place} again: keep one of them"
                if before == place and number == 1
                else f"{number} image(s), such as {name}, are annotated in {before} and in {place}"
                " again, which is not used: keep one of them"
            )
        if images and not any(image.categories for image in images):
            self.problems.append(
                "; ".join([f"no image has {self.shape} that can be drawn", *counted])
            )
        if unused := self._list_unused():
            notes.append(
                f"images in the same folders are not annotated and not used ({len(unused)}):"
                f" {', '.join(unused[:3])}{' ...' if len(unused) > 3 else ''}"
            )
        colors = [self._colors.get(name) for name in names]
        known = [color for color in colors if color is not None]
        return Annotations(
            tuple(names),
            tuple(known) if names and len(known) == len(names) else None,
            images,
            notes,
            self.problems,
            None if self.stuff is None else frozenset(self.stuff),
        )

    def _list_unused(self) -> list[str]:
        used = {file for file, _ in self._images}
        folders = {posixpath.dirname(file) for file in used}
        return [
            file
            for file in self.tree.images
            if file not in used and posixpath.dirname(file) in folders
        ]


def read_size(height: Any, width: Any) -> tuple[int, int] | None:
    """Height and width, None if they are not stated or no numbers of pixels."""
    try:
        size = int(height), int(width)
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def read_color(value: Any) -> Color | None:
    """A colour as ``[r, g, b]``, "#rrggbb", or a number with 8 bits for each of them."""
    if isinstance(value, str):
        try:
            value = int(value.strip().removeprefix("#"), 16) if len(value.strip()) == 7 else None
        except ValueError:
            return None
    if isinstance(value, int) and not isinstance(value, bool):
        return (value >> 16) & 255, (value >> 8) & 255, value & 255
    if isinstance(value, list) and len(value) >= 3:
        parts = [part for part in value[:3] if isinstance(part, int) and 0 <= part <= 255]
        return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None
    return None


def explain(error: SegkitError) -> str:
    """The text of an error as the end of a sentence."""
    return str(error).rstrip(".")
