"""The masks of a data set that is annotated by shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, Mode, find_background
from segkit.data.labels.base import (
    BACKGROUND,
    AnnotatedImage,
    Annotations,
    LabelFormat,
    find_formats,
    read_annotations,
)
from segkit.data.labels.drawing import (
    IGNORED_ID,
    draw_ids,
    draw_labels,
    draw_layers,
    find_ignored_label,
)
from segkit.data.labels.tree import FileTree
from segkit.data.layout.pairs import Names

Target = Literal["classes", "layers", "ids", "foreground"]
"""What is drawn: a label a pixel, a layer a class, ids of objects, or 1 for all of them."""


@dataclass
class AnnotatedMasks:
    """Draws the masks of annotated images.

    Attributes:
        title: The name of the format.
        target: What is drawn.
        class_names: Names of the classes in label order.
        colors: Their colours, if the files have them.
        images: The images by name.
        count: The number of categories.
        label_of: The label of each category; of layers the category of each.
        notes: What the user should know.
        problems: What is wrong.
        stuff: The categories that are no objects: of ids, the background.
    """

    title: str
    target: Target
    class_names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] | None
    images: dict[str, AnnotatedImage]
    count: int
    label_of: tuple[int, ...]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    stuff: frozenset[int] = frozenset()

    @property
    def ignored(self) -> int:
        """The value of pixels that are not labelled."""
        if self.target == "ids":
            return IGNORED_ID
        return find_ignored_label(self.count) if self.target == "classes" else IGNORE_INDEX

    def draw(self, name: str, size: tuple[int, int]) -> NDArray[np.integer[Any]]:
        """Draw the mask of an image: (H, W), or (H, W, N) layers.

        Raises:
            SegkitError: The image has not the size that was annotated.
        """
        shapes = self.images[name].read_shapes(size)
        count = self.count
        if self.target == "ids":
            objects = [
                replace(s, category=BACKGROUND) if s.category in self.stuff else s for s in shapes
            ]
            return draw_ids(objects, size)
        if self.target == "layers":
            layers = draw_layers(shapes, size, count)
            return layers if self._keeps_order else layers[..., list(self.label_of)]
        drawn = draw_labels(shapes, size, count)
        ignored = IGNORE_INDEX if drawn.dtype == np.uint8 else IGNORED_ID
        if self.target == "foreground":
            return np.where(drawn == ignored, IGNORE_INDEX, drawn != 0).astype(np.uint8)
        if self._keeps_order:
            return drawn
        table = np.array([0, *self.label_of, *[0] * (IGNORE_INDEX - count - 1), ignored])
        return table[drawn].astype(drawn.dtype)

    @property
    def _keeps_order(self) -> bool:
        first = 0 if self.target == "layers" else 1
        return self.label_of == tuple(range(first, self.count + first))


def find_annotations(root: Path, labels: str, names: Names) -> tuple[str, Annotations] | None:
    """Read the annotations below a folder, in the named format, or the only one if "auto".

    Args:
        root: The folder.
        labels: The format.
        names: What the config calls the folders of images and of masks.

    Raises:
        SegkitError: There are none in the named format, or several formats fit.
    """
    tree = FileTree(root, names)
    if labels != "auto":
        kind = LabelFormat.resolve(labels, {})[0]
        files = kind.find_named(tree)
        if not files:
            raise SegkitError(
                f"data.labels={labels}: there is no {kind.title} in {root.resolve()}."
            )
        return labels, read_annotations(labels, files, tree)
    found = find_formats(tree)
    if len(found) > 1:
        kinds = "; ".join(
            f"{LabelFormat.members()[name].title} ({tree.relative(files[0])}), data.labels={name}"
            for name, files in found
        )
        raise SegkitError(
            f"data.root: {root.resolve()} has annotations in several formats, choose one: {kinds}."
        )
    return (found[0][0], read_annotations(found[0][0], found[0][1], tree)) if found else None


def choose_masks(
    name: str,
    annotations: Annotations,
    mode: Mode,
    instances: bool,
    class_names: Sequence[str] | None,
) -> AnnotatedMasks:
    """Decide what is drawn of annotations, and which category is which label.

    Names of classes that are given choose categories, whatever is left is background.
    """
    title, categories = LabelFormat.members()[name].title, annotations.categories
    notes = [f"annotations are {title}: {len(annotations.images)} images, {_count(categories)}"]
    problems, colors = list(annotations.problems), annotations.colors
    stuff = [i for i, name in enumerate(categories) if name in (annotations.stuff or ())]
    target: Target = "ids" if instances else "classes"
    if mode == "binary" and not instances:
        target = "foreground"
        own = categories[0] if len(categories) == 1 else "foreground"
        names = tuple(class_names or ("background", own))
        label_of = tuple(1 for _ in categories)
        if len(categories) > 1:
            notes.append(
                f"all {len(categories)} classes are foreground; head=multiclass tells them apart"
            )
        colors = None
    elif instances:
        names = tuple(class_names or ("background", "object"))
        label_of, colors = tuple(1 for _ in categories), None
        if stuff:
            notes.append(f"no objects, so background: {', '.join(categories[i] for i in stuff)}")
    else:
        target = "layers" if mode == "multilabel" else "classes"
        first = () if mode == "multilabel" else ("background",)
        if annotations.stuff is not None and not _has_background(annotations, class_names):
            first = ()
        names = (*first, *categories)
        label_of = tuple(range(len(first), len(names)))
        if colors is not None:
            colors = ((0, 0, 0), *colors) if first else colors
        if class_names is not None and tuple(class_names) != names:
            names, colors = tuple(class_names), None
            has_background = bool(first) and find_background(names, mode) == 0
            if first and not has_background:
                names = ("background", *names)
            label_of = tuple(names.index(c) if c in names else 0 for c in categories)
            if target == "layers":
                label_of = tuple(categories.index(n) for n in names if n in categories)
            unknown = [n for n in names[len(first) :] if n not in categories]
            if unknown:
                problems.append(
                    f"data.class_names: {', '.join(unknown)} is not among the classes of the"
                    f" annotations: {', '.join(categories)}"
                )
            left = [c for c in categories if c not in names]
            if left:
                notes.append(f"not in data.class_names, so background: {', '.join(left)}")
    return AnnotatedMasks(
        title,
        target,
        names,
        colors,
        {get_name(image): image for image in annotations.images},
        len(categories),
        label_of,
        notes + annotations.notes,
        problems,
        frozenset(stuff),
    )


def _has_background(annotations: Annotations, class_names: Sequence[str] | None) -> bool:
    """Whether pixels that all have shapes have one of the background, or of a class left out."""
    left = class_names is not None and not {*annotations.categories} <= {*class_names}
    return left or "background" in (annotations.stuff or ())


def get_name(image: AnnotatedImage) -> str:
    """The name of the sample, with the page of a stack."""
    return image.name if image.page is None else f"{image.name}#{image.page:04d}"


def _count(categories: Sequence[str]) -> str:
    shown = ", ".join(categories[:8]) + (" ..." if len(categories) > 8 else "")
    return f"1 class: {shown}" if len(categories) == 1 else f"{len(categories)} classes: {shown}"
