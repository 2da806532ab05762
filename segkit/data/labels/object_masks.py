"""A mask file for each object: ID/images/ID.png with ID/masks/*.png.

The layout of the Data Science Bowl 2018, https://doi.org/10.1038/s41592-019-0612-7.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from segkit.data.labels.base import Annotations, LabelFormat, Shape
from segkit.data.labels.draft import Draft
from segkit.data.labels.tree import FileTree, fold
from segkit.data.layout.splits import find_split_of_path


class ObjectMasksFormat(LabelFormat, name="object_masks"):
    """Folders with one image in ``images`` and the masks of its objects in ``masks``.

    All objects are of the class "object" and numbered by the names of their masks. An empty folder
    of masks shows the background.
    """

    title = "one mask file for each object"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The folders of masks beside a folder with a single image of another name."""
        return [tree.path(f"{folder}/masks") for folder in _list_objects(tree)]

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """List the masks; the split is that of a folder."""
        draft = Draft(tree, "masks")
        number = draft.add_category("object")
        inside = _list_images_by_folder(tree)
        for path in files:
            folder = tree.relative(path)
            images = inside.get(posixpath.join(posixpath.dirname(folder), "images"), [])
            if len(images) != 1:
                draft.report(folder, f"its image is one of {len(images)}: keep one")
                continue
            masks = inside.get(folder, [])
            if not masks:
                draft.count("folders of masks are empty: their images show only the background")
            shapes = [Shape(number, tree.path(mask)) for mask in masks]
            split = find_split_of_path(posixpath.dirname(folder))
            draft.add_image(images[0], shapes, folder, split=split)
        return draft.finish()


def _list_objects(tree: FileTree) -> list[str]:
    """The folders of images that have this layout."""
    inside = _list_images_by_folder(tree)
    found = []
    for folder in sorted(tree.folders):
        parent, name = posixpath.split(folder)
        images = inside.get(f"{parent}/images", [])
        if name != "masks" or not parent or len(images) != 1:
            continue
        # a mask named like the image holds all of its labels
        if all(_find_stem(mask) != _find_stem(images[0]) for mask in inside.get(folder, [])):
            found.append(parent)
    return found if any(inside.get(f"{folder}/masks") for folder in found) else []


def _list_images_by_folder(tree: FileTree) -> dict[str, list[str]]:
    found = defaultdict(list)
    for image in tree.images:
        found[posixpath.dirname(image)].append(image)
    return found


def _find_stem(file: str) -> str:
    return fold(posixpath.splitext(posixpath.basename(file))[0])
