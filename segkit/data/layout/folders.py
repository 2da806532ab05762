"""The pairs of images and masks below a folder, in the layouts in which data sets come.

Known are ``images`` and ``masks`` (or two folders that are called like them), with folders of
splits above them, inside them or instead of them::

    images/a.png       train/images/a.png    images/train/a.png    train/a.png
    masks/a.png        train/masks/a.png     masks/train/a.png     trainannot/a.png

and any other layout by two patterns of paths. Masks that are named after their images by one rule
are found by it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from segkit.core.errors import SegkitError
from segkit.data.layout.files import (
    Files,
    describe_unused,
    group_by_stem,
    iterate_folders,
    list_files,
    strip_suffix,
)
from segkit.data.layout.names import Pattern, Rule, find_rules
from segkit.data.layout.splits import find_split
from segkit.data.sources.base import SPLITS, Split
from segkit.images.formats.base import join_array, list_suffixes

IMAGES = ("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "imagestr", "rgb")
"""What folders of images are called, besides the name that is given."""
MASKS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "gt", "gtfine"),
    *("segmentationclass", "labelstr", "groundtruth", "ground_truth", "targets"),
)
"""What folders of masks are called, besides the name that is given."""
MOST_LEVELS = 4
"""Levels of sub-folders among which those of splits are looked for."""
BESIDE = ("annot", "_labels", "_masks", "_mask", "_gt", "masks", "labels", "-masks", "-labels")
"""What follows a folder of images in the name of the folder of its masks."""


class Pair(NamedTuple):
    """An image and its mask, with its path below the root as name and the split of its folder."""

    name: str
    image: Path
    mask: Path
    split: Split | None


@dataclass
class Layout:
    """What was found below a folder.

    Attributes:
        pairs: Images with their masks.
        problems: What is wrong with single files.
        notes: What the user should know, such as files that are not used.
    """

    pairs: list[Pair] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Names(NamedTuple):
    """What the config says about names: of the two folders, of masks, and patterns of paths."""

    images: str = "images"
    masks: str = "masks"
    mask_suffix: str = ""
    image_pattern: str | None = None
    mask_pattern: str | None = None


class _Group(NamedTuple):
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
        _pair_by_patterns(root, names.image_pattern, names.mask_pattern, layout)
        return layout
    groups = _find_groups(root, names, layout)
    for group in groups:
        _pair_group(root, group, names, layout)
    _note_other_content(root, groups, layout)
    return layout


def has_plain_masks(root: Path, names: Names) -> bool:
    """Whether a folder has one file of labels for each image, and not another kind of annotation.

    Then most images have a mask of their own name.
    """
    try:
        layout = find_pairs(root, names)
    except SegkitError:
        return False
    return len(layout.pairs) > len(layout.problems)


def _find_groups(root: Path, names: Names, layout: Layout) -> list[_Group]:
    """The folders of images with those of their masks."""
    if (root / names.images).is_dir():
        pair = None if (root / names.masks).is_dir() else _find_known_names(root)
        if pair is not None:
            layout.notes.append(f"images are taken from {pair[0]} and masks from {pair[1]}")
            return [_Group(*pair, None)]
        return [_Group(root / names.images, _require_masks(root, names), None)]
    folders = list(iterate_folders(root))
    splits = [(split, path) for path in folders if (split := find_split(path.name))]
    above = [(split, path) for split, path in splits if (path / names.images).is_dir()]
    if above:
        return _require_train(
            [_Group(path / names.images, _require_masks(path, names), s) for s, path in above]
        )
    for place, found in [(root, None), *((path, split) for split, path in splits)]:
        pair = _find_known_names(place)
        if pair is None:
            continue
        layout.notes.append(f"images are taken from {pair[0]} and masks from {pair[1]}")
        if found is None:
            test = root / "imagesTs", root / "labelsTs"  # nnU-Net's
            if pair[0].name == "imagesTr" and all(path.is_dir() for path in test):
                return [_Group(*pair, "train"), _Group(*test, "test")]
            return [_Group(*pair, None)]
        others = [(s, path, _find_known_names(path)) for s, path in splits]
        return _require_train([_Group(*p, s) for s, _, p in others if p is not None])
    beside = [
        _Group(path, masks, split)
        for split, path in splits
        for masks in [next((p for p in folders if _is_beside(path, p)), None)]
        if masks is not None
    ]
    if beside:
        return _require_train(beside)
    content = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
    raise SegkitError(
        f"data.root: {root.resolve()} has neither a folder '{names.images}' nor"
        f" 'train/{names.images}'. It contains: {content}. Name the folders with data.images=NAME"
        " and data.masks=NAME, or give patterns of paths, such as"
        " 'data.image_pattern=\"{id}/image.tif\"' 'data.mask_pattern=\"{id}/mask.tif\"'."
    )


def _require_masks(folder: Path, names: Names) -> Path:
    masks = folder / names.masks
    if not masks.is_dir():
        raise SegkitError(
            f"data.root: there is no folder {masks.resolve()}. Name it with data.masks=NAME."
        )
    return masks


def _require_train(groups: list[_Group]) -> list[_Group]:
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
    return (images[0], masks[0]) if len(images) == len(masks) == 1 else None


def _is_beside(images: Path, masks: Path) -> bool:
    """Whether a folder is called like that of the masks of another one."""
    rest = masks.name.lower().removeprefix(images.name.lower())
    return rest != masks.name.lower() and rest in BESIDE


def _pair_group(root: Path, group: _Group, names: Names, layout: Layout) -> None:
    images, masks = list_files(group.images), list_files(group.masks)
    unused = [*images.others]
    if group.images.resolve() == group.masks.resolve():
        is_mask = {n: strip_suffix(n).endswith(names.mask_suffix) for n in masks.images}
        masks = Files(masks.folder, [n for n in masks.images if is_mask[n]])
        images = Files(images.folder, [n for n in images.images if not is_mask[n]])
    elif group.images.resolve() in group.masks.resolve().parents:
        inside = group.masks.resolve().relative_to(group.images.resolve()).as_posix() + "/"
        images = Files(images.folder, [n for n in images.images if not n.startswith(inside)])
        unused = [n for n in images.others if not n.startswith(inside)]
    layout.notes += describe_unused(unused, _relative(group.images, root))
    layout.notes += describe_unused(masks.others, _relative(group.masks, root))
    if not images.images:
        layout.problems.append(
            f"{_relative(group.images, root)} contains no images. Known:"
            f" {', '.join(list_suffixes())}"
        )
        return
    partners = _find_partners(root, images, masks, names, layout)
    if partners is None:
        return
    _list_pairs(root, images, masks, partners, group.split, names, layout)


def _find_partners(
    root: Path, images: Files, masks: Files, names: Names, layout: Layout
) -> dict[str, str] | None:
    """The stem of the mask of each image, by the stem of the image; None if none has one."""
    stems = list(dict.fromkeys(map(strip_suffix, images.images)))
    known = dict.fromkeys(map(strip_suffix, masks.images))
    suffix = names.mask_suffix
    partners = {stem: stem + suffix for stem in stems}
    matched = sum(mask in known for mask in partners.values())
    if matched == len(stems) and (suffix or matched == len(known)):
        return partners
    if not suffix:
        for flatten in (str.casefold, lambda stem: stem.rpartition("/")[2]):
            same = _match_alike(stems, list(known), flatten)
            if same is not None:
                return same
    rules = [] if suffix else find_rules(stems, list(known))
    best = [rule for rule, count in rules if count == rules[0][1]]
    if matched == 0 and len(stems) == len(known) and rules and rules[0][1] == len(stems):
        found = {stem: best[0].mask_stem(stem) or "" for stem in stems}
        if all({s: r.mask_stem(s) for s in stems} == found for r in best):
            rule = _describe_rule(best[0], root, images, masks)
            layout.notes.append(f"masks are paired with images by the rule {rule}")
            return found
    if matched == 0:
        hint = ""
        if best and best[0].image_before == best[0].image_after == best[0].mask_before == "":
            hint = f". Did you mean data.mask_suffix={best[0].mask_after}?"
        elif best:
            hint = f". Did you mean {_describe_rule(best[0], root, images, masks)}?"
        hint = hint or ". data.pairs=FILE.csv pairs files of any names"
        place = _relative(masks.folder, root)
        first = images.images[0]
        layout.problems.append(
            f"none of the {len(images.images)} images in {_relative(images.folder, root)} has a"
            f" mask in {place}: {_relative(images.find(first), root)} needs"
            f" {place}/{partners[strip_suffix(first)]}.png, and there is"
            f" {masks.images[0] if masks.images else 'nothing'}{hint}"
        )
        return None
    return partners


def _match_alike(stems: list[str], masks: list[str], flatten: object) -> dict[str, str] | None:
    """Partners whose names are the same after flattening, if that leaves no doubt."""
    assert callable(flatten)
    by_key = {flatten(mask): mask for mask in masks}
    keys = [flatten(stem) for stem in stems]
    if len(by_key) < len(masks) or len(set(keys)) < len(keys) or not set(keys) <= by_key.keys():
        return None
    return {stem: by_key[key] for stem, key in zip(stems, keys, strict=True)}


def _describe_rule(rule: Rule, root: Path, images: Files, masks: Files) -> str:
    first = [_relative(files.find(files.images[0]), root) for files in (images, masks)]
    return rule.describe(*first)


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
    level = None if split is not None else _find_split_level(images.images)
    outside, place = [], _relative(masks.folder, root)
    before = "" if images.folder == root else f"{_relative(images.folder, root)}/"
    for stem, files in by_stem.items():
        name = before + files[0]
        if partners[stem] not in of_mask:
            layout.problems.append(
                f"{name} has no mask: there is no {place}/{partners[stem]}.png (or another"
                " extension)"
            )
        elif len(files) == len(of_mask[partners[stem]]) == 1:
            mask = masks.find(of_mask[partners[stem]][0])
            own = split if level is None else _read_split(files[0], level)
            if level is not None and own is None:
                outside.append(files[0])
                continue
            layout.pairs.append(Pair(name, images.find(files[0]), mask, own))
    if outside:
        shown = ", ".join(outside[:3]) + (" ..." if len(outside) > 3 else "")
        layout.problems.append(
            f"{len(outside)} images in {_relative(images.folder, root)} are in no folder of a split"
            f" ({shown}), others are: move them into one"
        )
    wanted = set(partners.values())
    left = [files for stem, files in of_mask.items() if stem not in wanted]
    if names.mask_suffix:
        foreign = [n for files in left for n in files]
        left = [f for f in left if strip_suffix(f[0]).endswith(names.mask_suffix)]
        foreign = [n for n in foreign if not strip_suffix(n).endswith(names.mask_suffix)]
        layout.notes += describe_unused(foreign, place)
    layout.problems += [
        f"{_relative(masks.find(files[0]), root)} is a mask without an image" for files in left
    ]
    layout.problems += [
        "several files have the same name:"
        f" {', '.join(_relative(side.find(n), root) for n in files)}. Keep one of them"
        for side, groups in ((images, by_stem), (masks, of_mask))
        for files in groups.values()
        if len(files) > 1
    ]


def _find_split_level(names: Sequence[str]) -> int | None:
    """The level of folders, from 0, that are those of splits: training and another one."""
    for level in range(MOST_LEVELS):
        found = {_read_split(name, level) for name in names}
        if "train" in found and len(found - {None}) > 1:
            return level
    return None


def _read_split(name: str, level: int) -> Split | None:
    folders = name.split("/")[:-1]
    return find_split(folders[level]) if level < len(folders) else None


def _pair_by_patterns(root: Path, image: str, mask: str, layout: Layout) -> None:
    """Pair the files whose paths below the root match two patterns with the same ID."""
    patterns = Pattern(image, "data.image_pattern"), Pattern(mask, "data.mask_pattern")
    files = list_files(root)
    ids: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    splits: dict[str, str] = {}
    unused = list(files.others)
    for name in files.images:
        # A mask's pattern is often the narrower one: "{id}.tif" also matches "a_label.tif".
        is_used = False
        for side in (1, 0):
            found = patterns[side].match(name)
            if found is not None and (not is_used or patterns[0].array != patterns[1].array):
                key = f"{found[1]}/{found[0]}" if found[1] else found[0]
                ids[side].setdefault(key, []).append(name)
                splits.setdefault(key, found[1])
                is_used = True
        if not is_used:
            unused.append(name)
    if not ids[0]:
        layout.problems.append(_describe_no_match(patterns[0].text, "image", files.images, root))
    if not ids[1]:
        layout.problems.append(_describe_no_match(patterns[1].text, "mask", files.images, root))
    if not ids[0] or not ids[1]:
        return
    for key, found_images in ids[0].items():
        found_masks = ids[1].get(key, [])
        if not found_masks:
            layout.problems.append(
                f"{found_images[0]} has no mask: no path matches {mask} with the id '{key}'"
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


def _describe_no_match(pattern: str, kind: str, names: Sequence[str], root: Path) -> str:
    shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    return (
        f"no path below {root} matches data.{kind}_pattern={pattern}. There are {len(names)} image"
        f" files: {shown or 'none'}"
    )


def _note_other_content(root: Path, groups: list[_Group], layout: Layout) -> None:
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
                beside.append(_relative(path, root) + ("/" if path.is_dir() else ""))
    if beside:
        shown = ", ".join(beside[:6]) + (" ..." if len(beside) > 6 else "")
        layout.notes.append(f"not used in {root}: {shown}")


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix() if path != root else root.name
