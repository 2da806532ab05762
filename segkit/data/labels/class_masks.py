"""A mask file for each class: masks/CLASS/NAME.png or masks/NAME/CLASS.png for images/NAME.png.

A file masks/NAME_CLASS.png is not recognised: any name may contain a "_".
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from segkit.data.labels.base import Annotations, LabelFormat, Shape
from segkit.data.labels.draft import Draft
from segkit.data.labels.tree import FileTree, find_split, fold


class ClassMasksFormat(LabelFormat, name="class_masks"):
    """Images in ``images``, and for each class a folder in ``masks``, or for each image one.

    The classes are the names of the folders, or of the files, in alphabetical order; later ones
    cover earlier ones. A class without a file does not occur in that image.
    """

    title = "one mask file for each class"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The folders ``masks`` whose sub-folders are those of classes or of images."""
        return [tree.path(f"{place}/masks".lstrip("/")) for place in _list_places(tree)]

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """List the masks; the split is that of a folder."""
        draft = Draft(tree, "masks")
        for path in files:
            folder = tree.relative(path)
            place = posixpath.dirname(folder)
            images = _list_direct(tree, posixpath.join(place, "images"))
            masks: dict[str, list[tuple[str, str]]] = defaultdict(list)
            for mask, name, label in _read_names(tree, folder, images) or []:
                masks[name].append((label, mask))
            for name in sorted(masks.keys() & images.keys()):
                if len(images[name]) > 1:
                    draft.problems.append(
                        f"several images have the same name: {', '.join(images[name])}"
                    )
                    continue
                shapes = [
                    Shape(draft.add_category(label), tree.path(mask))
                    for label, mask in sorted(masks[name])
                ]
                draft.add_image(images[name][0], shapes, folder, split=find_split(place))
            for name in sorted(masks.keys() - images.keys()):
                draft.report(masks[name][0][1], "it is the mask of no image")
        return draft.finish()


def _list_places(tree: FileTree) -> list[str]:
    """The folders with ``images`` and such ``masks``."""
    found = []
    for folder in sorted(tree.folders):
        place, name = posixpath.split(folder)
        if name == "masks" and f"{place}/images".lstrip("/") in tree.folders:
            images = _list_direct(tree, f"{place}/images".lstrip("/"))
            if _read_names(tree, folder, images):
                found.append(place)
    return found


def _read_names(
    tree: FileTree, folder: str, images: dict[str, list[str]]
) -> list[tuple[str, str, str]] | None:
    """Each mask with the name of its image and of its class; None if the layout is another one."""
    masks = [mask for mask in tree.images if mask.startswith(f"{folder}/")]
    pairs = [mask[len(folder) + 1 :].split("/") for mask in masks]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        return None
    named = [(first, posixpath.splitext(last)[0]) for first, last in pairs]
    outer, inner = {fold(first) for first, _ in named}, {fold(last) for _, last in named}
    # masks/CLASS/NAME: folders are no images. masks/NAME/CLASS: names that come back, no numbers
    if not outer & images.keys() and inner & images.keys():
        beside = posixpath.join(posixpath.dirname(folder), "images")
        if any(f"{beside}/{first}" in tree.folders for first, _ in named):
            return None  # folders of images with the same names: a mask for each image
        return [(m, fold(last), first) for m, (first, last) in zip(masks, named, strict=True)]
    repeats = len(named) > len(inner) or len(outer) == 1
    is_numbered = any(last.isdecimal() for _, last in named)
    if outer & images.keys() and not inner & images.keys() and repeats and not is_numbered:
        return [(m, fold(first), last) for m, (first, last) in zip(masks, named, strict=True)]
    return None


def _list_direct(tree: FileTree, folder: str) -> dict[str, list[str]]:
    """The images directly in a folder by their folded names without the suffix."""
    found: dict[str, list[str]] = defaultdict(list)
    for image in tree.images:
        if posixpath.dirname(image) == folder:
            found[fold(posixpath.splitext(posixpath.basename(image))[0])].append(image)
    return found
