"""The pairs of images and masks below a folder, in the layouts in which data sets come.

Known are ``images`` and ``masks`` (or two folders that are called like them), with folders of
splits above them, inside them or instead of them::

    images/a.png       train/images/a.png    images/train/a.png    train/a.png
    masks/a.png        train/masks/a.png     masks/train/a.png     trainannot/a.png

and any other layout by two patterns of paths. Masks that are named after their images by one rule
are found by it. Channels may lie in several files, such as those of nnU-Net.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from segkit.config.quoting import quote_option
from segkit.core.errors import SegkitError
from segkit.data.layout.channels import describe_channels, group_images
from segkit.data.layout.discovery import discover
from segkit.data.layout.files import (
    Files,
    count_endings,
    describe_unread,
    describe_unused,
    group_by_stem,
    iterate_folders,
    list_files,
    require_folder,
    scan_folder,
    strip_suffix,
)
from segkit.data.layout.names import find_kinds
from segkit.data.layout.pairs import NAMES, Layout, Names, Pair, relative_path
from segkit.data.layout.partners import describe_content, find_partners
from segkit.data.layout.patterns import pair_by_patterns
from segkit.data.layout.splits import (
    describe_left_out,
    divide_by_folders,
    find_split,
    find_split_level,
    find_unmasked,
    read_split,
)
from segkit.data.layout.words import BESIDE, IMAGES, MASKS
from segkit.data.sources.base import Split
from segkit.images.paths import find_absent

FOREIGN = (".json", ".geojson", ".xml", ".mat")
"""Endings of annotations of other programs."""
MOST_FOLDERS = 4
"""Folders that an error names."""
OF_ARRAYS = {".h5", ".hdf5", ".npz"}
"""Endings of files that may hold image and mask at once."""
MOST_VALUES = 40
"""Values of a mask of classes, at most, in files that are not called masks."""


class Group(NamedTuple):
    """A folder of images, that of their masks, and the split of both."""

    images: Path
    masks: Path
    split: Split | None


def find_pairs(root: Path, names: Names) -> Layout:
    """Find the images below a folder and their masks.

    Raises:
        SegkitError: There is no such folder, or its layout is not known.
    """
    require_folder(root)
    layout = Layout()
    if names.image_pattern is not None and names.mask_pattern is not None:
        pair_by_patterns(root, names, layout)
    else:
        _pair_by_folders(root, names, layout)
    if layout.channels:
        layout.notes.append(describe_channels(root, layout.channels))
        # problems name the others
        layout.pairs = [pair for pair in layout.pairs if not find_absent(pair.image)]
    return layout


def _pair_by_folders(root: Path, names: Names, layout: Layout) -> None:
    """Pair by folders and names; without usual ones by what else fits, unless the user chose."""
    try:
        groups = find_groups(root, names, layout)
    except SegkitError as error:
        if names != NAMES:
            raise
        _discover(root, layout, error)
        return
    for group in groups:
        _pair_group(root, group, names, layout)
    if layout.no_rule and not layout.pairs and names == NAMES:
        _discover(root, layout)
        return
    divide_by_folders(layout)
    if (names.images, names.masks) == NAMES[:2]:
        layout.beside = _list_beside(root, groups)


def find_groups(root: Path, names: Names, layout: Layout) -> list[Group]:
    """The folders of images with those of their masks.

    Raises:
        SegkitError: The layout is not known.
    """
    if (root / names.images).is_dir():
        pair = None if (root / names.masks).is_dir() else _find_known_names(root)
        if pair is not None:
            layout.notes.append(f"images are taken from {pair[0]} and masks from {pair[1]}")
            return [Group(*pair, None)]
        return [Group(root / names.images, _require_masks(root, names), None)]
    folders = list(iterate_folders(root))
    splits = [(split, path) for path in folders if (split := find_split(path.name))]
    above = [(split, path) for split, path in splits if (path / names.images).is_dir()]
    if above:
        return _require_train(
            [Group(path / names.images, _require_masks(path, names, s), s) for s, path in above]
        )
    for place, found in [(root, None), *((path, split) for split, path in splits)]:
        pair = _find_known_names(place)
        if pair is None:
            continue
        layout.notes.append(f"images are taken from {pair[0]} and masks from {pair[1]}")
        if found is None:
            test = root / "imagesTs", root / "labelsTs"  # nnU-Net's
            if pair[0].name == "imagesTr" and all(path.is_dir() for path in test):
                return [Group(*pair, "train"), Group(*test, "test")]
            return [Group(*pair, None)]
        others = [(s, path, _find_known_names(path)) for s, path in splits]
        return _require_train([Group(*p, s) for s, _, p in others if p is not None])
    by_name = {path.name.lower(): path for path in folders}
    beside = [
        Group(path, masks[0], split)
        for split, path in splits
        if (masks := [by_name[n] for end in BESIDE if (n := path.name.lower() + end) in by_name])
    ]
    if beside:
        return _require_train(beside)
    names_here = [entry.name for entry in scan_folder(root)]
    content = ", ".join(names_here[:8]) or "nothing"
    table = next((name for name in names_here if name.lower().endswith(".csv")), None)
    hint = f" If a table lists them: data.pairs={root / table}." if table else ""
    problem = (
        f"data.root: {root.resolve()} has neither a folder '{names.images}' nor"
        f" 'train/{names.images}'. It contains: {content}."
    )
    files = list_files(root)
    if not files.images:
        raise SegkitError(f"{problem} {describe_unread(files, 'The folder', 'images')}.{hint}")
    inside = "{split}/" if splits else ""
    image, mask = inside + "{id}/image.tif", inside + "{id}/mask.tif"
    arrays = {Path(name).suffix for name in files.images} & OF_ARRAYS
    if arrays:
        image, mask = (f"{inside}{{id}}{min(arrays)}::{array}" for array in ("IMAGE", "MASK"))
    raise SegkitError(
        f"{problem} Image files lie in {_count_folders(files)}. Name the folders with"
        " data.images=NAME and data.masks=NAME, or give patterns of paths ({channel} stands for"
        " channels in files of their own), such as"
        f" {quote_option('data.image_pattern', image)} {quote_option('data.mask_pattern', mask)}."
        f"{hint}"
    )


def _count_folders(files: Files) -> str:
    """The folders with most images, and how many lie in each."""
    counts = Counter(name.rpartition("/")[0] or files.folder.name for name in files.images)
    shown = [f"'{name}' ({count})" for name, count in counts.most_common(MOST_FOLDERS)]
    return ", ".join(shown) + " ..." * (len(counts) > MOST_FOLDERS)


def _discover(root: Path, layout: Layout, error: SegkitError | None = None) -> None:
    """Pair by the only patterns that fit; where several do, say so, and where none, the error."""
    if error and any(re.fullmatch(r"\d\d_GT", path.name) for path in iterate_folders(root)):
        raise SegkitError(
            f"data.root: {root.resolve()} has the layout of the Cell Tracking Challenge:"
            " data=tracking_challenge reads it."
        )
    found = [
        (choice, quote_option("data.image_pattern", choice.image), content)
        for choice in discover(list_files(root).images)
        for content, values in [describe_content(root / choice.file)]
        if choice.is_named or 1 < values <= MOST_VALUES
    ]
    if len(found) == 1 and found[0][0].is_named:
        choice, option, _ = found[0]
        mask = quote_option("data.mask_pattern", choice.mask)
        layout.notes[:] = [f"images and masks are found by the rule {option} {mask}"]
        layout.problems.clear()
        layout.is_discovered = True
        patterns = Names(image_pattern=choice.image, mask_pattern=choice.mask)
        pair_by_patterns(root, patterns, layout)
    elif found:
        shown = ", or ".join(
            f"{option} {quote_option('data.mask_pattern', choice.mask)} ({choice.pairs} images,"
            f" {content})"
            for choice, option, content in found
        )
        masks = {choice.mask for choice, _, _ in found}
        joined = _join_channels([choice.image for choice, _, _ in found])
        if joined and len(masks) == 1:
            option = quote_option("data.image_pattern", joined)
            mask = quote_option("data.mask_pattern", masks.pop())
            shown += f", or if they are channels of the same image {option} {mask}"
        raise SegkitError(f"data.root: say what are images and masks in {root.resolve()}: {shown}.")
    elif error is not None:
        raise SegkitError(f"{error}{_describe_foreign(root)}")


def _join_channels(patterns: Sequence[str]) -> str | None:
    """One pattern where {channel} stands for the only word that differs; None if more differ.

    Example:
        >>> _join_channels(["red/red_{id}.tif", "nir/nir_{id}.tif"])
        '{channel}/{channel}_{id}.tif'
    """
    words = [re.split(r"([^a-zA-Z0-9{}]+)", pattern) for pattern in patterns]
    places = list(zip(*words, strict=False))
    differing = {place for place in places if len(set(place)) > 1}
    if len(differing) != 1 or len(set(map(len, words))) > 1:
        return None
    return "".join("{channel}" if place in differing else place[0] for place in places)


def _describe_foreign(root: Path) -> str:
    """What to do about annotations below a folder that are not read, or nothing."""
    files = list_files(root)
    others = [name for name in files.others if name.lower().endswith(FOREIGN)]
    if not files.images or not others:
        return ""
    return (
        f" Annotations are not read, such as {others[0]} ({count_endings(others)}): export them as"
        " COCO JSON, or write masks."
    )


def _require_masks(folder: Path, names: Names, split: Split | None = None) -> Path:
    masks = folder / names.masks
    if not masks.is_dir() and split != "test":
        raise SegkitError(
            f"data.root: there is no folder {masks.resolve()}. Name it with data.masks=NAME."
        )
    return masks


def _require_train(groups: list[Group]) -> list[Group]:
    if not any(group.split == "train" for group in groups):
        found = ", ".join(str(group.images) for group in groups)
        raise SegkitError(
            f"data.root: there is no folder of training images, only {found}. Name it 'train'."
        )
    return groups


def _find_known_names(folder: Path) -> tuple[Path, Path] | None:
    """The only two folders in a folder that are called like ones of images and of masks."""
    inside = {path.name.lower(): path for path in iterate_folders(folder)}
    images = [inside[name] for name in IMAGES if name in inside]
    masks = [inside[name] for name in MASKS if name in inside]
    if len(masks) > 1:  # Pascal VOC has files of boxes in "Annotations"
        masks = [folder for folder in masks if list_files(folder).images]
    if len(images) != 1 or len(masks) != 1:
        return None
    # what is called a mask may be the field of view, beside the labels
    others = [folder for folder in inside.values() if folder not in (images[0], masks[0])]
    is_doubtful = masks[0].name.lower() == "mask" and any(list_files(f).images for f in others)
    return None if is_doubtful else (images[0], masks[0])


def _pair_group(root: Path, group: Group, names: Names, layout: Layout) -> None:
    images = list_files(group.images)
    masks = list_files(group.masks) if group.masks.is_dir() else Files(group.masks)
    unused = [*images.others]
    if group.images.resolve() == group.masks.resolve():
        is_mask = {n: strip_suffix(n).endswith(names.mask_suffix) for n in masks.images}
        masks = Files(masks.folder, [n for n in masks.images if is_mask[n]])
        images = Files(images.folder, [n for n in images.images if not is_mask[n]])
    elif group.images.resolve() in group.masks.resolve().parents:
        inside = group.masks.resolve().relative_to(group.images.resolve()).as_posix() + "/"
        images = Files(images.folder, [n for n in images.images if not n.startswith(inside)])
        unused = [n for n in images.others if not n.startswith(inside)]
    images = group_images(root, images, masks, names.channel_files, layout)
    images = _leave_out_unlisted(root, images, masks, layout)
    used = _leave_out_unmasked(root, group.split, images, masks, layout)
    if images.images and not used.images:
        return
    images = used
    for files, kind in ((images, "images"), (masks, "masks")):
        if not files.images:
            layout.problems.append(describe_unread(files, relative_path(files.folder, root), kind))
    if not images.images or not masks.images:
        return
    layout.notes += describe_unused(unused, relative_path(group.images, root))
    layout.notes += describe_unused(masks.others, relative_path(group.masks, root))
    partners = find_partners(root, group.split, images, masks, names, layout)
    if partners is not None:
        _list_pairs(root, images, masks, partners, group.split, names, layout)


def _leave_out_unlisted(root: Path, images: Files, masks: Files, layout: Layout) -> Files:
    """The images with a mask or in Pascal VOC's lists: most of its images are for other tasks."""
    folder = root / "ImageSets/Segmentation"
    listed = set[str]()
    with suppress(OSError, UnicodeDecodeError):
        for path in folder.glob("*.txt"):
            listed.update(path.read_text(encoding="utf-8-sig").split())
    if not listed:
        return images
    listed.update(map(strip_suffix, masks.images))
    known = [name for name in images.images if strip_suffix(name) in listed]
    count = len(images.images) - len(known)
    if count:
        layout.notes.append(f"{count} images that no list in {folder} names have no masks")
    return replace(images, images=known)


def _leave_out_unmasked(
    root: Path, split: Split | None, images: Files, masks: Files, layout: Layout
) -> Files:
    """The images without those of splits without masks: public sets keep these back."""
    if split is not None:
        is_empty = split != "train" and not (masks.images or masks.others)
        left_out = dict.fromkeys(images.images, split) if is_empty else {}
    else:
        level = find_split_level(images.images)
        left_out = find_unmasked(
            {name: read_split(name, level) for name in images.images},
            {read_split(name, level) for name in (*masks.images, *masks.others)},
        )
    if not left_out:
        return images
    layout.notes.append(
        describe_left_out({relative_path(images.find(n), root): s for n, s in left_out.items()})
    )
    return replace(images, images=sorted({*images.images} - {*left_out}))


def _list_pairs(
    root: Path,
    images: Files,
    masks: Files,
    partners: dict[str, str],
    split: Split | None,
    names: Names,
    layout: Layout,
) -> None:
    by_stem, of_mask = group_by_stem(images.images), group_by_stem(masks.images)
    place = relative_path(masks.folder, root)
    before = "" if images.folder == root else f"{relative_path(images.folder, root)}/"
    for stem, files in by_stem.items():
        name = before + files[0]
        if partners[stem] not in of_mask:
            layout.problems.append(
                f"{name} has no mask: there is no {place}/{partners[stem]}.png (or another"
                " extension)"
            )
        elif len(files) == len(of_mask[partners[stem]]) == 1:
            mask = masks.find(of_mask[partners[stem]][0])
            layout.pairs.append(Pair(name, images.find(files[0]), mask, split))
    wanted = set(partners.values())
    left = [files for stem, files in of_mask.items() if stem not in wanted]
    if names.mask_suffix:
        foreign = [n for files in left for n in files]
        left = [f for f in left if strip_suffix(f[0]).endswith(names.mask_suffix)]
        foreign = [n for n in foreign if not strip_suffix(n).endswith(names.mask_suffix)]
        layout.notes += describe_unused(foreign, place)
    elif left and wanted <= of_mask.keys():
        kinds = find_kinds(list(by_stem), [strip_suffix(files[0]) for files in left])
        others = {rule.mask_stem(s) for rule in kinds if not rule.cuts_words for s in by_stem}
        foreign = [n for files in left for n in files if strip_suffix(n) in others]
        left = [files for files in left if strip_suffix(files[0]) not in others]
        layout.notes += describe_unused(foreign, place)
    layout.problems += [
        f"{relative_path(masks.find(files[0]), root)} is a mask without an image" for files in left
    ]
    layout.problems += [
        "several files have the same name:"
        f" {', '.join(relative_path(side.find(n), root) for n in files)}. Keep one of them"
        for side, groups in ((images, by_stem), (masks, of_mask))
        for files in groups.values()
        if len(files) > 1
    ]


def _list_beside(root: Path, groups: list[Group]) -> list[Path]:
    """What lies beside the folders that are used."""
    used = {path.resolve() for group in groups for path in (group.images, group.masks)}
    beside = list[Path]()
    for place in dict.fromkeys([root, *(group.images.parent for group in groups)]):
        for entry in scan_folder(place):
            here = (place / entry.name).resolve()
            if not any(u.is_relative_to(here) or here.is_relative_to(u) for u in used):
                beside.append(place / entry.name)
    return beside
