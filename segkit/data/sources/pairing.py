"""Which image belongs to which mask: by the names in two folders, or by a table."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from segkit.core.errors import SegkitError
from segkit.data.sources.base import SPLITS, Sample, Split
from segkit.images.reading import IMAGE_SUFFIXES, count_pages

Files = dict[str, list[Path]]
"""Files by their path below a folder, without the ending."""


@dataclass
class Pairs:
    """Images with their masks.

    Attributes:
        given: Samples whose split is told.
        rest: Samples that are yet to be divided.
        problems: What belongs to nothing or cannot be used, by file.
    """

    given: dict[Split, list[Sample]] = field(default_factory=dict)
    rest: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """How folders and files are called.

    Attributes:
        images: Name of the images' folder.
        masks: Name of the masks' folder.
        mask_suffix: What the name of a mask has after the name of its image.
        layers: Whether the pages of a mask may be the classes of one image.
    """

    images: str
    masks: str
    mask_suffix: str
    layers: bool


def pair_folders(root: Path, layout: Layout) -> Pairs:
    """Pair the files of a folder that holds images and masks, or train, val and test with them.

    Raises:
        SegkitError: There are no such folders.
    """
    if not root.is_dir():
        raise SegkitError(f"data.root: there is no folder {root.resolve()}.")
    pairs = Pairs()
    if (root / layout.images).is_dir():
        pairs.rest = _pair(root, root, layout, pairs.problems)
        return pairs
    found = {split: root / split for split in SPLITS if (root / split / layout.images).is_dir()}
    if "train" not in found:
        held = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
        raise SegkitError(
            f"data.root: {root.resolve()} has neither a folder '{layout.images}' nor"
            f" 'train/{layout.images}'. It holds: {held}. Name the folders with data.images=NAME"
            " and data.masks=NAME."
        )
    for split, folder in found.items():
        pairs.given[split] = _pair(folder, root, layout, pairs.problems)
    if "val" not in found:
        pairs.problems += [
            f"{name}/{layout.images} is not used: rename the folder to 'val'"
            for name in ("valid", "validation")
            if (root / name / layout.images).is_dir()
        ]
        pairs.rest = pairs.given.pop("train")
    return pairs


def pair_table(table: Path, layout: Layout) -> Pairs:
    """Pair the files that a CSV file names, relative to itself, in the columns image and mask.

    Raises:
        SegkitError: The file cannot be read, or has not these columns or no lines.
    """
    pairs = Pairs()
    lines: dict[Path, int] = {}
    for number, row in _rows(table):
        image, mask, split = (row.get(key, "") for key in ("image", "mask", "split"))
        files = table.parent / image, table.parent / mask
        empty = [key for key in ("image", "mask") if not row.get(key)]
        absent = [str(path) for path in files if not path.is_file()]
        before = lines.get(files[0].resolve())
        known = next((name for name in SPLITS if name == split), None)
        problem = ""
        if empty:
            problem = f"it names no {' and no '.join(empty)}"
        elif absent:
            problem = f"there is no file {' and no file '.join(absent)}"
        elif before is not None:
            problem = f"{image} stands in line {before} already"
        elif split and known is None:
            problem = f"the split is '{split}', not one of {', '.join(SPLITS)}"
        if problem:
            pairs.problems.append(f"{table.name}, line {number}: {problem}")
            continue
        lines[files[0].resolve()] = number
        samples = _samples(*files, Path(image).as_posix(), layout, pairs.problems)
        (pairs.given.setdefault(known, []) if known else pairs.rest).extend(samples)
    if pairs.rest and pairs.given:
        pairs.problems.append(
            f"{table.name}: {len(pairs.rest)} samples have no split, others have one: give it for"
            " all or none"
        )
    elif "val" not in pairs.given:
        pairs.rest += pairs.given.pop("train", [])
    return pairs


def _pair(folder: Path, root: Path, layout: Layout, problems: list[str]) -> list[Sample]:
    """The samples of one pair of folders; files are named by their path below the root."""
    image_folder, mask_folder = folder / layout.images, folder / layout.masks
    if not mask_folder.is_dir():
        raise SegkitError(
            f"data.root: there is no folder {mask_folder.resolve()}. Name it with data.masks=NAME."
        )

    def below(path: Path) -> str:
        return path.relative_to(root).as_posix()

    images, masks = _files(image_folder, mask_folder, layout.mask_suffix)
    partner = {stem: stem + layout.mask_suffix for stem in images}
    if not images:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        problems.append(f"{below(image_folder)} holds no images. Their endings may be {endings}")
    elif not masks.keys() & set(partner.values()):
        first = next(iter(images))
        problems.append(
            f"none of the {len(images)} images in {below(image_folder)} has a mask of its name in"
            f" {below(mask_folder)}: {below(images[first][0])} should have"
            f" {below(mask_folder / partner[first])}.png{_suggestion(list(images), masks)}"
        )
        return []

    samples: list[Sample] = []
    for stem, files in images.items():
        if partner[stem] not in masks:
            problems.append(
                f"{below(files[0])} has no mask: there is no {below(mask_folder / partner[stem])}"
                ".png (or another ending)"
            )
        elif len(files) == len(masks[partner[stem]]) == 1:
            mask = masks[partner[stem]][0]
            samples += _samples(files[0], mask, below(files[0]), layout, problems)
    problems += [
        f"{below(files[0])} is a mask without an image"
        for stem, files in masks.items()
        if stem not in partner.values()
    ]
    problems += [
        f"several files have one name: {', '.join(map(below, files))}. Keep one of them"
        for files in (*images.values(), *masks.values())
        if len(files) > 1
    ]
    return samples


def _files(image_folder: Path, mask_folder: Path, suffix: str) -> tuple[Files, Files]:
    """The images and the masks, also where both lie in one folder or the masks in the images'."""
    images, masks = _by_stem(image_folder), _by_stem(mask_folder)
    if image_folder.resolve() == mask_folder.resolve():
        masks = {stem: files for stem, files in masks.items() if stem.endswith(suffix)}
        images = {stem: files for stem, files in images.items() if stem not in masks}
    elif image_folder.resolve() in mask_folder.resolve().parents:
        inside = mask_folder.resolve().relative_to(image_folder.resolve()).as_posix() + "/"
        images = {stem: files for stem, files in images.items() if not stem.startswith(inside)}
    return images, masks


def _by_stem(folder: Path) -> Files:
    """Images below a folder by their path without the ending, in order; none that is hidden."""
    found: Files = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file():
            found.setdefault(inside.with_suffix("").as_posix(), []).append(path)
    return found


def _suggestion(images: list[str], masks: Files) -> str:
    """What all masks have after the names of their images, as the remedy."""
    endings = [mask.removeprefix(images[0]) for mask in masks if mask.startswith(images[0])]
    fitting = [end for end in endings if all(image + end in masks for image in images)]
    return f". Did you mean data.mask_suffix={min(fitting, key=len)}?" if fitting else ""


def _samples(
    image: Path, mask: Path, name: str, layout: Layout, problems: list[str]
) -> list[Sample]:
    """One sample, or one for each page of a stack."""
    try:
        pages, mask_pages = count_pages(image), count_pages(mask)
    except SegkitError:  # the check will say so, of all files that cannot be read
        return [Sample(name, image, mask)]
    if pages == 1 and (mask_pages == 1 or layout.layers):
        return [Sample(name, image, mask)]
    if pages != mask_pages:
        problems.append(f"{name} has {pages} page(s), but its mask {mask} has {mask_pages}")
        return []
    return [Sample(f"{name}#{page:04d}", image, mask, page) for page in range(pages)]


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV file with their numbers; commas, semicolons or tabs between columns."""
    if not table.is_file():
        raise SegkitError(f"data.pairs: there is no file {table.resolve()}.")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count), restval="")
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            rows = [
                # surplus values are a list, under no key
                (reader.line_num, {k: v.strip() for k, v in row.items() if isinstance(v, str)})
                for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SegkitError(
            f"data.pairs: {table} cannot be read: {error}. It should be a CSV file in UTF-8."
        ) from error
    missing = sorted({"image", "mask"} - set(reader.fieldnames))
    if missing:
        raise SegkitError(
            f"data.pairs: {table} has no column {' and no column '.join(missing)}. Its first line"
            f" is '{header.strip()}', it should be 'image,mask' or 'image,mask,split'."
        )
    if not rows:
        raise SegkitError(f"data.pairs: {table} has no lines after the first.")
    return rows
