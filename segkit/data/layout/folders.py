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
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segkit.config.quoting import quote_option
from segkit.core.errors import SegkitError
from segkit.core.labels import describe_values
from segkit.data.layout.files import (
    Files,
    describe_unread,
    describe_unused,
    group_by_stem,
    iterate_folders,
    list_files,
    strip_suffix,
)
from segkit.data.layout.names import Pattern, Rule, find_kinds
from segkit.data.layout.splits import find_split
from segkit.data.sources.base import SPLITS, Split
from segkit.images.formats.base import join_array
from segkit.images.reading import ImageReader

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
MOST_LEVELS = 5
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
    divide_by_folders(layout)
    if (names.images, names.masks) == (Names().images, Names().masks):  # else the user chose
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
            [_Group(path / names.images, _require_masks(path, names, s), s) for s, path in above]
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
    inside = "{split}/" if splits else ""
    raise SegkitError(
        f"data.root: {root.resolve()} has neither a folder '{names.images}' nor"
        f" 'train/{names.images}'. It contains: {content}. Name the folders with data.images=NAME"
        " and data.masks=NAME, or give patterns of paths, such as"
        f" {quote_option('data.image_pattern', inside + '{id}/image.tif')}"
        f" {quote_option('data.mask_pattern', inside + '{id}/mask.tif')}."
    )


def _require_masks(folder: Path, names: Names, split: Split | None = None) -> Path:
    masks = folder / names.masks
    if not masks.is_dir() and split != "test":
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
    if len(masks) > 1:  # Pascal VOC has files of boxes in "Annotations"
        masks = [folder for folder in masks if list_files(folder).images]
    return (images[0], masks[0]) if len(images) == len(masks) == 1 else None


def _is_beside(images: Path, masks: Path) -> bool:
    """Whether a folder is called like that of the masks of another one."""
    rest = masks.name.lower().removeprefix(images.name.lower())
    return rest != masks.name.lower() and rest in BESIDE


def _pair_group(root: Path, group: _Group, names: Names, layout: Layout) -> None:
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
    images = _leave_out_unlisted(root, images, masks, layout)
    used = _leave_out_test(root, group.split, images, masks, layout)
    if images.images and not used.images:
        return
    images = used
    for files, kind in ((images, "images"), (masks, "masks")):
        if not files.images:
            layout.problems.append(describe_unread(files, _relative(files.folder, root), kind))
    if not images.images or not masks.images:
        return
    layout.notes += describe_unused(unused, _relative(group.images, root))
    layout.notes += describe_unused(masks.others, _relative(group.masks, root))
    partners = _find_partners(root, group.split, images, masks, names, layout)
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
    return Files(images.folder, known, images.others)


def _leave_out_test(
    root: Path, split: Split | None, images: Files, masks: Files, layout: Layout
) -> Files:
    """The images without those for testing, if these have no masks: public sets keep them back."""
    if split is not None:
        test = images.images if split == "test" and not (masks.images or masks.others) else []
    else:
        level = _find_split_level(images.images)
        test = _find_unmasked_test(
            {name: _read_split(name, level) for name in images.images},
            {_read_split(name, level) for name in (*masks.images, *masks.others)},
        )
    if not test:
        return images
    layout.notes.append(_describe_left_out([_relative(images.find(name), root) for name in test]))
    return Files(images.folder, sorted({*images.images} - {*test}), images.others)


def _find_unmasked_test(images: dict[str, Split | None], masks: set[Split | None]) -> list[str]:
    """The images for testing, by the splits of images and of masks, if no mask is of that split."""
    if "train" not in masks or "test" in masks:
        return []
    return [name for name, split in images.items() if split == "test"]


def _describe_left_out(test: Sequence[str]) -> str:
    shown = ", ".join(test[:3]) + (" ..." if len(test) > 3 else "")
    return f"{len(test)} images for testing have no masks and are left out: {shown}"


def _find_partners(
    root: Path, split: Split | None, images: Files, masks: Files, names: Names, layout: Layout
) -> dict[str, str] | None:
    """The stem of the mask of each image, by the stem of the image; None if none has one."""
    stems = list(dict.fromkeys(map(strip_suffix, images.images)))
    known = list(dict.fromkeys(map(strip_suffix, masks.images)))
    suffix = names.mask_suffix
    partners = {stem: stem + suffix for stem in stems}
    matched = len({*partners.values()}.intersection(known))
    if matched == len(stems) and (suffix or matched == len(known)):
        return partners
    if not suffix:
        for flatten in (str.casefold, lambda stem: stem.rpartition("/")[2]):
            same = _match_alike(stems, known, flatten)
            if same is not None:
                return same
    if matched:
        return partners
    kinds = [] if suffix else find_kinds(stems, known)
    if len(kinds) == 1 and len(stems) == len(known):
        found = {stem: kinds[0].mask_stem(stem) or "" for stem in stems}
        if set(found.values()) == set(known):
            rule = _state_rule(kinds[0], root, split, images, masks)
            note = f"masks are paired with images by the rule {' '.join(rule)}"
            layout.notes += [note] if note not in layout.notes else []
            return found
    parts = find_kinds(known, stems) if len(stems) > len(known) and not suffix else []
    place, first = _relative(masks.folder, root), images.images[0]
    if len(parts) > 1:
        layout.problems.append(_describe_parts(parts, root, split, images, masks))
        return None
    layout.problems.append(
        f"none of the {len(images.images)} images in {_relative(images.folder, root)} has a mask in"
        f" {place}: {_relative(images.find(first), root)} needs"
        f" {place}/{partners[strip_suffix(first)]}.png, and there is {masks.images[0]}"
        + _describe_kinds(kinds, root, split, images, masks)
    )
    return None


def _describe_parts(
    parts: list[Rule], root: Path, split: Split | None, images: Files, masks: Files
) -> str:
    """Refuse channels of images that lie in several files, as nnU-Net writes them."""
    mask = masks.images[0]
    by_stem = {strip_suffix(name): name for name in images.images}
    stems = sorted(rule.mask_stem(strip_suffix(mask)) or "" for rule in parts)
    files = [_relative(images.find(by_stem[stem]), root) for stem in stems if stem in by_stem]
    first = min(parts, key=lambda rule: rule.mask_stem(strip_suffix(mask)) or "")
    rule = Rule(first.mask_before, first.mask_after, first.image_before, first.image_after)
    return (
        f"{len(parts)} images belong to each mask: {' and '.join(files)} to"
        f" {_relative(masks.find(mask), root)}. Channels of an image are not read from several"
        " files: write them into one (a NIfTI with four axes, a TIFF with as many channels), or"
        f" take one of them with {' '.join(_state_rule(rule, root, split, images, masks))}"
    )


def _describe_kinds(
    kinds: list[Rule], root: Path, split: Split | None, images: Files, masks: Files
) -> str:
    """The rules that may be meant, with what the masks of each kind hold."""
    if not kinds:
        return ". data.pairs=FILE.csv pairs files of any names"
    options = [_state_rule(rule, root, split, images, masks) for rule in kinds]
    if len(kinds) == 1:
        return f". Did you mean {' '.join(options[0])}?"
    by_stem = {strip_suffix(name): masks.find(name) for name in masks.images}
    shown, are_classes = list[str](), True
    for rule, option in zip(kinds, options, strict=True):
        of_images = (rule.mask_stem(strip_suffix(name)) for name in images.images)
        file = next(by_stem[stem] for stem in of_images if stem in by_stem)
        content, values = _describe_content(file)
        are_classes &= 0 < values <= 2
        own = option if option[:-1] != options[0][:-1] or not shown else option[-1:]
        shown.append(f"{' '.join(own)} ({content})")
    text = f". There are {len(kinds)} masks for each image, so say which: {', or '.join(shown)}"
    if are_classes:
        word = kinds[0].mask_after.strip("_-. ")
        place = _relative(masks.folder, root)
        text += f". If each shows a class, move them into a folder for each: {place}/{word}/ ..."
    return text


def _describe_content(file: Path) -> tuple[str, int]:
    """What a mask holds, for the choice between several, and how many values; 0 if no values."""
    try:
        with ImageReader(file) as reader:
            mask = reader.read_mask(0)
    except SegkitError:
        return "cannot be read", 0
    if mask.ndim == 3:
        return ("colours" if mask.shape[2] in (3, 4) else f"{mask.shape[2]} channels"), 0
    values = np.unique(mask).tolist()
    return f"values {describe_values(values)}", len(values)


def _match_alike(stems: list[str], masks: list[str], flatten: object) -> dict[str, str] | None:
    """Partners whose names are the same after flattening, if that leaves no doubt."""
    assert callable(flatten)
    by_key = {flatten(mask): mask for mask in masks}
    keys = [flatten(stem) for stem in stems]
    if len(by_key) < len(masks) or len(set(keys)) < len(keys) or not set(keys) <= by_key.keys():
        return None
    return {stem: by_key[key] for stem, key in zip(stems, keys, strict=True)}


def _state_rule(
    rule: Rule, root: Path, split: Split | None, images: Files, masks: Files
) -> list[str]:
    """The options that state a rule, as they are typed; the last one is that of masks."""
    if not any(rule[:3]):
        return [quote_option("data.mask_suffix", rule.mask_after)]
    places = [
        "" if files.folder == root else _relative(files.folder, root) + "/"
        for files in (images, masks)
    ]
    words = (part for part in places[0].split("/") if split and find_split(part) == split)
    word = next(words, None)
    if word is not None and word in places[1]:
        places = [place.replace(word, "{split}", 1) for place in places]
    inside = _state_folders(images.images, bool(rule.image_before or rule.mask_before))
    patterns = [
        f"{place}{inside}{before}{{id}}{after}{_state_ending(files.images)}"
        for place, before, after, files in (
            (places[0], rule.image_before, rule.image_after, images),
            (places[1], rule.mask_before, rule.mask_after, masks),
        )
    ]
    keys = "data.image_pattern", "data.mask_pattern"
    return list(map(quote_option, keys, patterns))


def _state_folders(names: Sequence[str], is_before: bool) -> str:
    """The sub-folders of images in a pattern; what may differ is left to the ID where it can be.

    Args:
        names: Paths of the images.
        is_before: Whether names have something before the ID, so that it can hold no folder.
    """
    folders = [name.split("/")[:-1] for name in names]
    level, parts = _find_split_level(names), list[str]()
    for number in range(max(map(len, folders))):
        same = {inside[number] if number < len(inside) else "" for inside in folders}
        if number == level:
            parts.append("{split}/")
        elif len(same) == 1:
            parts.append(f"{same.pop()}/")
        elif is_before or number < (level or 0):
            parts.append("*/")
        else:
            break
    return "".join(parts)


def _state_ending(names: Sequence[str]) -> str:
    endings = {unicodedata.normalize("NFC", name)[len(strip_suffix(name)) :] for name in names}
    return endings.pop() if len(endings) == 1 else ".*"


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
    place = _relative(masks.folder, root)
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
        f"{_relative(masks.find(files[0]), root)} is a mask without an image" for files in left
    ]
    layout.problems += [
        "several files have the same name:"
        f" {', '.join(_relative(side.find(n), root) for n in files)}. Keep one of them"
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
    level = _find_split_level(names)
    if level is None:
        return []
    folders = dict[str, None]()
    for number, pair in enumerate(layout.pairs):
        if pair.split is None:
            split = _read_split(pair.name, level)
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


def _find_split_level(names: Sequence[str]) -> int | None:
    """The level of folders, from 0, that are those of splits: training and another one."""
    for level in range(MOST_LEVELS):
        found = {_read_split(name, level) for name in names}
        if "train" in found and len(found - {None}) > 1:
            return level
    return None


def _read_split(name: str, level: int | None) -> Split | None:
    folders = name.split("/")[:-1]
    return find_split(folders[level]) if level is not None and level < len(folders) else None


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
    has_split = any(splits.values())
    level = None if has_split else _find_split_level([names[0] for names in ids[0].values()])
    of_images, of_masks = (
        {k: find_split(splits[k]) if has_split else _read_split(n[0], level) for k, n in i.items()}
        for i in ids
    )
    test = _find_unmasked_test(of_images, set(of_masks.values()))
    if test:
        layout.notes.append(_describe_left_out([ids[0].pop(key)[0] for key in test]))
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
    folders = divide_by_folders(layout)
    if folders:
        layout.notes.append(f"the samples are divided by their folders {', '.join(folders)}")


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
