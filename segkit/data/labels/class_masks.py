"""A mask file for each class, for images/NAME.png.

masks/CLASS/NAME.png, masks/CLASS/NAME_SUFFIX.png and masks/NAME/CLASS.png are recognised;
masks/NAME_CLASS.png and masks/CLASS_NAME.png only if the format is named, because any name may
contain a "_".
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from segkit.data.labels.base import Annotations, LabelFormat, Shape
from segkit.data.labels.draft import Draft
from segkit.data.labels.tree import FileTree, find_split, fold, read_split
from segkit.data.layout.folders import find_groups
from segkit.data.layout.names import find_rules
from segkit.data.layout.pairs import Layout
from segkit.images.formats.base import list_suffixes

_MARKS = "_. -"
"""What separates the words of a name."""
_MASK = re.compile(rf"^(mask|label|seg|segmentation|gt)s?[{_MARKS}]+", re.IGNORECASE)
"""What a name may have before the class."""


class ClassMasksFormat(LabelFormat, name="class_masks"):
    """Images in ``images``, and in ``masks`` a folder or a file for each class.

    The config may give the two folders other names. The classes are the names of the folders, or of
    the files without those of the images and a word such as "mask", in alphabetical order; later
    ones cover earlier ones. A class without a file does not occur in that image.
    """

    title = "one mask file for each class"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The folders ``masks`` whose sub-folders are those of classes or of images."""
        pairs = [(folder, _find_beside(tree, folder)) for folder in sorted(tree.folders)]
        return [
            tree.path(folder)
            for folder, beside in pairs
            if beside is not None and _read_folders(tree, folder, beside)
        ]

    @classmethod
    def find_named(cls, tree: FileTree) -> list[Path]:
        """Also folders whose files may be of classes by their names."""
        found = cls.find(tree)
        return found or [group.masks for group in find_groups(tree.root, tree.names, Layout())]

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """List the masks; the split is that of a folder."""
        draft = Draft(tree, "masks")
        for path in files:
            folder = tree.relative(path)
            beside = _find_images(tree, path, draft)
            images = _list_direct(tree, beside)
            named = _read_folders(tree, folder, beside)
            if named is None:
                images = _list_below(tree, beside)
                named = _read_files(tree, folder, images, draft)
            masks: dict[str, list[tuple[str, str]]] = defaultdict(list)
            for mask, name, label in named:
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
                split = find_split(posixpath.dirname(images[name][0]))
                draft.add_image(images[name][0], shapes, folder, split=split)
            for name in sorted(masks.keys() - images.keys()):
                draft.report(masks[name][0][1], "it is the mask of no image")
        return draft.finish()


def _find_beside(tree: FileTree, folder: str) -> str | None:
    """The folder of images beside one of masks, by the names of the config."""
    place = folder.removesuffix(tree.names.masks)
    beside = place + tree.names.images
    is_named = folder != place and (not place or place.endswith("/"))
    return beside if is_named and beside in tree.folders else None


def _find_images(tree: FileTree, masks: Path, draft: Draft) -> str:
    """The folder of the images that belong to a folder of masks."""
    beside = _find_beside(tree, tree.relative(masks))
    if beside is not None:
        return beside
    layout = Layout()
    groups = find_groups(tree.root, tree.names, layout)
    draft.notes += [note for note in layout.notes if note not in draft.notes]
    return next(tree.relative(group.images) for group in groups if group.masks == masks)


def _read_folders(tree: FileTree, folder: str, beside: str) -> list[tuple[str, str, str]] | None:
    """Each mask with the name of its image and of its class; None if the layout is another one."""
    images = _list_direct(tree, beside)
    masks = [mask for mask in tree.images if mask.startswith(f"{folder}/")]
    pairs = [mask[len(folder) + 1 :].split("/") for mask in masks]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        return None
    named = [(first, posixpath.splitext(last)[0]) for first, last in pairs]
    outer, inner = {fold(first) for first, _ in named}, {fold(last) for _, last in named}
    # masks/CLASS/NAME: folders are no images. masks/NAME/CLASS: names that come back, no numbers
    if not outer & images.keys():
        if any(f"{beside}/{first}" in tree.folders or read_split(first) for first, _ in named):
            return None  # folders of images with the same names: a mask for each image
        names = {(f, last): fold(last) for f, last in named}
        if not inner & images.keys():
            names = _cut_suffixes(named, images)
        return (
            [(mask, names[pair], pair[0]) for mask, pair in zip(masks, named, strict=True)]
            if names
            else None
        )
    repeats = len(named) > len(inner) or len(outer) == 1
    is_numbered = any(last.isdecimal() for _, last in named)
    if not inner & images.keys() and repeats and not is_numbered:
        return [(m, fold(first), last) for m, (first, last) in zip(masks, named, strict=True)]
    return None


def _cut_suffixes(
    named: list[tuple[str, str]], images: Container[str]
) -> dict[tuple[str, str], str]:
    """The image of each mask, by folder and name, if all of a folder add the same; else none."""
    found, suffixes = {}, dict[str, str]()
    for folder, last in named:
        cuts = [(core, rest) for core, rest in _split_name(last) if fold(core) in images]
        if not cuts or suffixes.setdefault(folder, cuts[0][1]) != cuts[0][1]:
            return {}
        found[folder, last] = fold(cuts[0][0])
    return found


def _read_files(
    tree: FileTree, folder: str, images: dict[str, list[str]], draft: Draft
) -> list[tuple[str, str, str]]:
    """As :func:`_read_folders`, of masks NAME_CLASS or CLASS_NAME in the folders of their images.

    Whatever all images have before or after their names, as in NAME_image, masks need not have.
    """
    below = [m for m in tree.images if m.startswith(f"{folder}/")]
    stems = [posixpath.splitext(mask[len(folder) + 1 :])[0] for mask in below]
    rules = find_rules(list(images), list(map(fold, stems)))
    whole = {rules[0][0].image_id(name) or name: name for name in images} if rules else {}
    whole |= {name: name for name in images}
    found = []
    for mask, stem in zip(below, stems, strict=True):
        inside, name = posixpath.split(stem)
        cuts = list(_split_name(name))
        cuts += [(rest, core) for core, rest in reversed(cuts)]
        for core, label in cuts:
            key = fold(posixpath.join(inside, core))
            if key in whole:
                found.append((mask, whole[key], label))
                break
        else:
            draft.report(mask, "its name is not that of an image and of a class, as NAME_CLASS")
    return [(mask, name, _MASK.sub("", label) or label) for mask, name, label in found]


def _split_name(name: str) -> Iterator[tuple[str, str]]:
    """The beginnings of a name that end where a word does, the longest first, and the rest."""
    for end in range(len(name) - 2, 0, -1):
        if name[end] in _MARKS:
            yield name[:end], name[end + 1 :]


def _list_direct(tree: FileTree, folder: str) -> dict[str, list[str]]:
    """The images directly in a folder by their folded names without the suffix."""
    found: dict[str, list[str]] = defaultdict(list)
    for image in tree.images:
        if posixpath.dirname(image) == folder:
            found[fold(posixpath.splitext(posixpath.basename(image))[0])].append(image)
    return found


def _list_below(tree: FileTree, folder: str) -> dict[str, list[str]]:
    """The images below a folder by their folded paths in it without the suffix."""
    found: dict[str, list[str]] = defaultdict(list)
    for image in tree.list_files(*list_suffixes(), below=folder):
        found[fold(posixpath.splitext(posixpath.relpath(image, folder or "."))[0])].append(image)
    return found
