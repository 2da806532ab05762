"""The pairs of images and masks below a folder, in the layouts in which data sets come.

Known are ``images`` and ``masks`` (or two folders that are called like them), with folders of
splits above them, inside them or instead of them::

    images/a.png       train/images/a.png    images/train/a.png    train/a.png
    masks/a.png        train/masks/a.png     masks/train/a.png     trainannot/a.png

and any other layout by two patterns of paths. Masks that are named after their images by one rule
are found by it. Channels may lie in several files, such as those of nnU-Net.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from segkit.config.quoting import quote_option
from segkit.core.errors import SegkitError
from segkit.data.layout.channels import Part, describe_channels, group_images, join_files
from segkit.data.layout.files import (
    Files,
    describe_unread,
    describe_unused,
    group_by_stem,
    iterate_folders,
    list_files,
    strip_suffix,
)
from segkit.data.layout.names import Pattern, find_kinds
from segkit.data.layout.pairs import NAMES, Layout, Names, Pair, relative_path
from segkit.data.layout.partners import find_partners
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
        groups = find_groups(root, names, layout)
        for group in groups:
            _pair_group(root, group, names, layout)
        divide_by_folders(layout)
        if (names.images, names.masks) == NAMES[:2]:  # else the user chose
            _note_other_content(root, groups, layout)
    if layout.channels:
        layout.notes.append(describe_channels(root, layout.channels))
        # problems name the others
        layout.pairs = [pair for pair in layout.pairs if not find_absent(pair.image)]
    return layout


def find_plain_mask(root: Path, names: Names) -> Path | None:
    """A file of labels, if a folder has one for each image, and not another kind of annotation.

    Then most images have a mask of their own name.
    """
    try:
        layout = find_pairs(root, names)
    except SegkitError:
        return None
    return layout.pairs[0].mask if len(layout.pairs) > len(layout.problems) else None


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
    return (images[0], masks[0]) if len(images) == len(masks) == 1 else None


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
    used = _leave_out_test(root, group.split, images, masks, layout)
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


def _leave_out_test(
    root: Path, split: Split | None, images: Files, masks: Files, layout: Layout
) -> Files:
    """The images without those for testing, if these have no masks: public sets keep them back."""
    if split is not None:
        test = images.images if split == "test" and not (masks.images or masks.others) else []
    else:
        level = find_split_level(images.images)
        test = _find_unmasked_test(
            {name: read_split(name, level) for name in images.images},
            {read_split(name, level) for name in (*masks.images, *masks.others)},
        )
    if not test:
        return images
    layout.notes.append(
        _describe_left_out([relative_path(images.find(name), root) for name in test])
    )
    return replace(images, images=sorted({*images.images} - {*test}))


def _find_unmasked_test(images: dict[str, Split | None], masks: set[Split | None]) -> list[str]:
    """The images for testing, by the splits of images and of masks, if no mask is of that split."""
    if "train" not in masks or "test" in masks:
        return []
    return [name for name, split in images.items() if split == "test"]


def _describe_left_out(test: Sequence[str]) -> str:
    shown = ", ".join(test[:3]) + (" ..." if len(test) > 3 else "")
    return f"{len(test)} images for testing have no masks and are left out: {shown}"


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
    ids: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    splits: dict[str, str] = {}
    parts: dict[str, Part] = {}
    keys: dict[str, str] = {}  # of images in several files, by place
    unused = list(files.others)
    for name in files.images:
        # A mask's pattern is often the narrower one: "{id}.tif" also matches "a_label.tif".
        is_used = False
        for side in (1, 0):
            found = patterns[side].match(name)
            if found is not None and (not is_used or patterns[0].array != patterns[1].array):
                key = f"{found.split}/{found.id}" if found.split else found.id
                splits.setdefault(key, found.split)
                is_used = True
                if found.channel:
                    parts[name] = found.channel, found.place
                    keys[found.place] = key
                else:
                    ids[side].setdefault(key, []).append(name)
        if not is_used:
            unused.append(name)
    if parts:
        for name, place in join_files(files, parts, names.channel_files, layout).items():
            ids[0].setdefault(keys[place], []).append(name)
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
