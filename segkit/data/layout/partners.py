"""Which mask belongs to which image, by their names."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkit.config.quoting import quote_option
from segkit.core.errors import SegkitError
from segkit.core.labels import describe_values
from segkit.data.layout.channels import find_channel, sort_channels
from segkit.data.layout.files import Files, strip_suffix
from segkit.data.layout.names import Rule, find_kinds
from segkit.data.layout.pairs import Layout, Names, relative_path
from segkit.data.layout.splits import find_split, find_split_level
from segkit.data.sources.base import Split
from segkit.images.formats.base import JOINTS, drop_channels
from segkit.images.reading import ImageReader


def find_partners(
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
    place, first = relative_path(masks.folder, root), images.images[0]
    if len(parts) > 1:
        layout.problems.append(_describe_parts(parts, root, split, images, masks))
        return None
    layout.no_rule |= not kinds
    layout.problems.append(
        f"none of the {len(images.images)} images in {relative_path(images.folder, root)} has a"
        f" mask in {place}: {relative_path(images.find(first), root)} needs"
        f" {place}/{partners[strip_suffix(first)]}.png, and there is {masks.images[0]}"
        + _describe_kinds(kinds, root, split, images, masks)
    )
    return None


def _describe_parts(
    parts: list[Rule], root: Path, split: Split | None, images: Files, masks: Files
) -> str:
    """Say how several images for each mask may be meant."""
    mask = masks.images[0]
    by_stem = {strip_suffix(name): name for name in images.images}
    stem = strip_suffix(mask)
    names = sorted(by_stem[s] for rule in parts if (s := rule.mask_stem(stem)) in by_stem)
    files = [relative_path(images.find(name), root) for name in names]
    first = min(parts, key=lambda rule: rule.mask_stem(stem) or "")
    rule = Rule(first.mask_before, first.mask_after, first.image_before, first.image_after)
    words = [(rule.mask_before or rule.mask_after).strip(JOINTS) for rule in parts]
    channels = sort_channels({word for word in words if word})
    found = {
        drop_channels(strip_suffix(part[1]))
        for name in names
        if (part := find_channel(name, channels))
    }
    join = (
        f"{quote_option('data.channel_files', list(channels))} makes one image of them, with the"
        " channels in this order"
    )
    if found != {stem}:
        join = (
            "'x_{red,nir}.tif' in a table (data.pairs=FILE.csv) is one image of x_red.tif and"
            " x_nir.tif"
        )
    return (
        f"{len(parts)} images belong to each mask: {' and '.join(files)} to"
        f" {relative_path(masks.find(mask), root)}. If they are channels of the same image, {join};"
        f" {' '.join(_state_rule(rule, root, split, images, masks))} takes one of them"
    )


def _describe_kinds(
    kinds: list[Rule], root: Path, split: Split | None, images: Files, masks: Files
) -> str:
    """The rules that may be meant, with what the masks of each kind hold."""
    if not kinds:
        return ". data.pairs=FILE.csv pairs files of any names"
    options = [_state_rule(rule, root, split, images, masks) for rule in kinds]
    if len(kinds) == 1:
        more = " Or data.labels=class_masks, if each mask shows a class?"
        has_more = len(masks.images) > len(images.images)
        return f". Did you mean {' '.join(options[0])}?{more * has_more}"
    by_stem = {strip_suffix(name): masks.find(name) for name in masks.images}
    shown, are_classes = list[str](), True
    for rule, option in zip(kinds, options, strict=True):
        of_images = (rule.mask_stem(strip_suffix(name)) for name in images.images)
        file = next(by_stem[stem] for stem in of_images if stem in by_stem)
        content, values = describe_content(file)
        are_classes &= 0 < values <= 2
        own = option if option[:-1] != options[0][:-1] or not shown else option[-1:]
        shown.append(f"{' '.join(own)} ({content})")
    text = f". There are {len(kinds)} masks for each image, so say which: {', or '.join(shown)}"
    if are_classes:
        text += ". If each shows a class, data.labels=class_masks reads them as classes"
    return text


def describe_content(file: Path) -> tuple[str, int]:
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
        "" if files.folder == root else relative_path(files.folder, root) + "/"
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
    level, parts = find_split_level(names), list[str]()
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
