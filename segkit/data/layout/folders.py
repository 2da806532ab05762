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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from segkit.config.quoting import quote_option
from segkit.core.errors import SegkitError
from segkit.data.layout.channels import Part, describe_channels, group_images, join_files
from segkit.data.layout.discovery import OF_MASKS, discover, split_words
from segkit.data.layout.files import (
    Files,
    count_endings,
    describe_unread,
    describe_unused,
    group_by_stem,
    iterate_folders,
    list_files,
    strip_suffix,
)
from segkit.data.layout.names import Match, Pattern, find_kinds
from segkit.data.layout.pairs import NAMES, Layout, Names, Pair, relative_path
from segkit.data.layout.partners import describe_content, find_partners
from segkit.data.layout.splits import find_split, find_split_level, read_split
from segkit.data.sources.base import SPLITS, Split
from segkit.images.formats.base import find_absent, join_array

IMAGES = (
    *("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "imagestr", "rgb"),
    "image_2",
)
"""What folders of images are called, besides the name that is given."""
MASKS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "gt", "gtfine"),
    *("segmentationclass", "labelstr", "groundtruth", "ground_truth", "targets", "semantic"),
)
"""What folders of masks are called, besides the name that is given."""
BESIDE = ("annot", "_labels", "_masks", "_mask", "_gt", "masks", "labels", "-masks", "-labels")
"""What follows a folder of images in the name of the folder of its masks."""


FOREIGN = (".json", ".geojson", ".xml", ".mat")
"""Endings of annotations of other programs."""
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
    if not root.is_dir():
        raise SegkitError(f"data.root: there is no folder {root.resolve()}.")
    layout = Layout()
    if names.image_pattern is not None and names.mask_pattern is not None:
        _pair_by_patterns(root, names, layout)
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
        _note_other_content(root, groups, layout)


def find_plain_mask(root: Path, names: Names) -> Path | None:
    """A file of labels, if a folder has one for each image, and not another kind of annotation.

    Then most images have a mask of their own name.
    """
    try:
        layout = find_pairs(root, names)
    except SegkitError:
        return None
    is_plain = not layout.is_discovered and len(layout.pairs) > len(layout.problems)
    return layout.pairs[0].mask if is_plain else None


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
    beside = [
        Group(path, masks, split)
        for split, path in splits
        for masks in [next((p for p in folders if _is_beside(path, p)), None)]
        if masks is not None
    ]
    if beside:
        return _require_train(beside)
    content = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
    inside = "{split}/" if splits else ""
    raise SegkitError(
        f"data.root: {root.resolve()} has neither a folder '{names.images}' nor"
        f" 'train/{names.images}'. It contains: {content}. Name the folders with data.images=NAME"
        " and data.masks=NAME, or give patterns of paths ({channel} stands for channels in files of"
        " their own), such as"
        f" {quote_option('data.image_pattern', inside + '{id}/image.tif')}"
        f" {quote_option('data.mask_pattern', inside + '{id}/mask.tif')}."
    )


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
        _pair_by_patterns(root, patterns, layout)
    elif found:
        shown = ", or ".join(
            f"{option} {quote_option('data.mask_pattern', choice.mask)} ({choice.pairs} images,"
            f" {content})"
            for choice, option, content in found
        )
        raise SegkitError(f"data.root: say what are images and masks in {root.resolve()}: {shown}.")
    elif error is not None:
        raise SegkitError(f"{error}{_describe_foreign(root)}")


def _describe_foreign(root: Path) -> str:
    """What to do about annotations below a folder that are not read, or nothing."""
    if any(re.fullmatch(r"\d\d_GT", path.name) for path in iterate_folders(root)):
        return (
            " The layout is that of the Cell Tracking Challenge: data=tracking_challenge reads it."
        )
    files = list_files(root)
    others = [name for name in files.others if name.lower().endswith(FOREIGN)]
    if not files.images or not others:
        return ""
    return (
        f" There are {count_endings(others)} files of annotations that are not read, such as"
        f" {others[0]}: export them as COCO JSON, or write masks."
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


def _is_beside(images: Path, masks: Path) -> bool:
    """Whether a folder is called like that of the masks of another one."""
    rest = masks.name.lower().removeprefix(images.name.lower())
    return rest != masks.name.lower() and rest in BESIDE


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
        left_out = _find_unmasked(
            {name: read_split(name, level) for name in images.images},
            {read_split(name, level) for name in (*masks.images, *masks.others)},
        )
    if not left_out:
        return images
    layout.notes.append(
        describe_left_out({relative_path(images.find(n), root): s for n, s in left_out.items()})
    )
    return replace(images, images=sorted({*images.images} - {*left_out}))


def _find_unmasked(images: dict[str, Split | None], masks: set[Split | None]) -> dict[str, Split]:
    """The images of splits of which there is no mask, by the splits of images and of masks."""
    if "train" not in masks:
        return {}
    return {name: split for name, split in images.items() if split and split not in masks}


def describe_left_out(images: Mapping[str, Split]) -> str:
    """A line on images without masks, by their splits, that are not used."""
    shown = ", ".join([*images][:3]) + (" ..." if len(images) > 3 else "")
    known = {"train": "training", "val": "validation", "test": "testing"}
    purpose = " and ".join(known[split] for split in SPLITS if split in images.values())
    return f"{len(images)} images for {purpose} have no masks and are left out: {shown}"


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


def divide_by_folders(layout: Layout) -> list[str]:
    """Give pairs without a split that of their folders, if some of these are called like splits.

    So the official validation is never trained on.

    Returns:
        The names of the folders.
    """
    names = [pair.name for pair in layout.pairs if pair.split is None]
    level = find_split_level(names)
    if level is None:
        return []
    folders = dict[str, None]()
    for number, pair in enumerate(layout.pairs):
        if pair.split is None:
            split = read_split(pair.name, level)
            layout.pairs[number] = pair._replace(split=split)
            if split is not None:
                folders[pair.name.split("/")[level]] = None
    outside = [pair.name for pair in layout.pairs if pair.split is None]
    if outside:
        shown = ", ".join(outside[:3]) + (" ..." if len(outside) > 3 else "")
        layout.problems.append(
            f"{len(outside)} images are in no folder of a split ({shown}), others are: move them"
            " into one"
        )
    layout.pairs = [pair for pair in layout.pairs if pair.split is not None]
    return list(folders)


def _pair_by_patterns(root: Path, names: Names, layout: Layout) -> None:
    """Pair the files whose paths below the root match two patterns with the same ID."""
    image, mask = names.image_pattern or "", names.mask_pattern or ""
    patterns = (
        Pattern(image, "data.image_pattern", names.channel_files),
        Pattern(mask, "data.mask_pattern"),
    )
    if patterns[1].has_channel or (names.channel_files and not patterns[0].has_channel):
        raise SegkitError(
            f"data.image_pattern={image} and data.mask_pattern={mask}: {{channel}} stands for the"
            " channels of images, and not of masks, and data.channel_files needs it."
        )
    files = list_files(root)
    matches: tuple[dict[str, Match], dict[str, Match]] = ({}, {})
    parts: dict[str, Part] = {}
    of_parts: dict[str, Match] = {}  # of images in several files, by place
    unused = list(files.others)
    for name in files.images:
        # A mask's pattern is often the narrower one: "{id}.tif" also matches "a_label.tif".
        is_used = False
        for side in (1, 0):
            found = patterns[side].match(name)
            if found is not None and (not is_used or patterns[0].array != patterns[1].array):
                is_used = True
                if found.channel:
                    parts[name] = found.channel, found.place
                    of_parts[found.place] = found
                else:
                    matches[side][name] = found
        if not is_used:
            unused.append(name)
    if parts:
        joined = join_files(files, parts, names.channel_files, layout)
        matches[0].update({name: of_parts[place] for name, place in joined.items()})
    ids, splits = _group_by_id(matches)
    if not ids[0]:
        layout.problems.append(_describe_no_match(patterns[0].text, "image", files.images, root))
    if not ids[1]:
        layout.problems.append(_describe_no_match(patterns[1].text, "mask", files.images, root))
    if not ids[0] or not ids[1]:
        return
    has_split = any(splits.values())
    level = None if has_split else find_split_level([names[0] for names in ids[0].values()])
    of_images, of_masks = (
        {k: find_split(splits[k]) if has_split else read_split(n[0], level) for k, n in i.items()}
        for i in ids
    )
    left_out = _find_unmasked(of_images, set(of_masks.values()))
    if left_out:
        unmasked = {ids[0].pop(key)[0]: split for key, split in left_out.items()}
        layout.notes.append(describe_left_out(unmasked))
    for key, found_images in ids[0].items():
        found_masks = ids[1].get(key, [])
        if not found_masks:
            starts = (key[: m.start()] for m in re.finditer(r"[^A-Za-z\d]", key))
            owner = next(
                (ids[0][start][0] for start in starts if start in ids[0] and start in ids[1]), None
            )
            layout.problems.append(
                f"{found_images[0]} has no mask: no path matches {mask} with the id '{key}'"
                if owner is None or not split_words(found_images[0]) & OF_MASKS
                else f"{found_images[0]} may be a second mask of {owner}: write both into one file"
            )
        elif len(found_images) > 1 or len(found_masks) > 1:
            both = ", ".join(dict.fromkeys([*found_images, *found_masks]))
            layout.problems.append(f"several files have the id '{key}': {both}. Keep two of them")
        else:
            split = find_split(splits[key])
            if splits[key] and split is None:
                layout.problems.append(
                    f"{found_images[0]}: '{splits[key]}' is not one of {', '.join(SPLITS)}"
                )
                continue
            name = found_images[0]
            own = join_array(files.find(name), patterns[0].array)
            other = join_array(files.find(found_masks[0]), patterns[1].array)
            layout.pairs.append(Pair(name, own, other, split))
    lonely = [names[0] for key, names in ids[1].items() if key not in ids[0]]
    layout.problems += [f"{name} is a mask without an image" for name in lonely]
    layout.notes += describe_unused(unused, str(root))
    folders = divide_by_folders(layout)
    if folders:
        layout.notes.append(f"the samples are divided by their folders {', '.join(folders)}")


def _group_by_id(
    matches: tuple[dict[str, Match], dict[str, Match]],
) -> tuple[tuple[dict[str, list[str]], dict[str, list[str]]], dict[str, str]]:
    """Paths of images and of masks by ID, and the split of each ID.

    Where files have the same ID, what * stands for belongs to it, as of folders of sequences.
    """
    for with_stars in (False, True):
        ids: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
        splits: dict[str, str] = {}
        for side, found in enumerate(matches):
            for name, match in found.items():
                before = match.above if with_stars else [match.split] * bool(match.split)
                key = "/".join([*before, match.id])
                ids[side].setdefault(key, []).append(name)
                splits.setdefault(key, match.split)
        is_unique = all(len(names) == 1 for side in ids for names in side.values())
        if not with_stars:
            plain = ids, splits
        if is_unique:
            return ids, splits
    return plain


def _describe_no_match(pattern: str, kind: str, names: Sequence[str], root: Path) -> str:
    shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    return (
        f"no path below {root} matches data.{kind}_pattern={pattern}. There are {len(names)} image"
        f" files: {shown or 'none'}"
    )


def _note_other_content(root: Path, groups: list[Group], layout: Layout) -> None:
    """Note what lies beside the folders that are used."""
    used = {path.resolve() for group in groups for path in (group.images, group.masks)}
    beside: list[str] = []
    places = dict.fromkeys([root, *(g.images.parent for g in groups)])
    for place in places:
        for path in sorted(place.iterdir()):
            here = path.resolve()
            if path.name.startswith(".") or any(u.is_relative_to(here) for u in used):
                continue
            if not any(here.is_relative_to(u) for u in used):
                beside.append(relative_path(path, root) + ("/" if path.is_dir() else ""))
    if beside:
        shown = ", ".join(beside[:6]) + (" ..." if len(beside) > 6 else "")
        layout.notes.append(f"not used in {root}: {shown}")
