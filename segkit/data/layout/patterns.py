"""The pairs of images and masks below a folder by two patterns of paths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segkit.core.errors import SegkitError, join_names
from segkit.data.layout.channels import Part, join_files
from segkit.data.layout.files import describe_unused, list_files
from segkit.data.layout.names import Match, Pattern
from segkit.data.layout.pairs import Layout, Names, Pair
from segkit.data.layout.splits import (
    describe_left_out,
    divide_by_folders,
    find_split,
    find_split_level,
    find_unmasked,
    read_split,
)
from segkit.data.layout.words import OF_MASKS, split_words
from segkit.data.sources.base import SPLITS
from segkit.images.paths import join_array


def pair_by_patterns(root: Path, names: Names, layout: Layout) -> None:
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
    left_out = find_unmasked(of_images, set(of_masks.values()))
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
    shown = join_names(names)
    return (
        f"no path below {root} matches data.{kind}_pattern={pattern}. There are {len(names)} image"
        f" files: {shown or 'none'}"
    )
