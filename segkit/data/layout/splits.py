"""How samples are divided into training, validation and test, unless folders or a table say so."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Annotated

from pydantic import Field

from segkit.core.errors import SegkitError, join_names
from segkit.data.layout.files import strip_suffix
from segkit.data.layout.pairs import Layout
from segkit.data.sources.base import SPLITS, Sample, Split

Divided = dict[Split, list[Sample]]
Fraction = Annotated[float, Field(ge=0, lt=1)]
ALIASES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    "trainval": "train",
    **dict.fromkeys(("val", "valid", "validation", "validate", "eval", "evaluation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What folders of splits are called."""
MOST_LEVELS = 5
"""Levels of sub-folders among which those of splits are looked for."""


def find_split(name: str) -> Split | None:
    """The split that a name stands for, in any case, such as "Train", "val_set" or "train_val"."""
    words = {ALIASES[word] for word in re.findall("[a-z]+", name.lower()) if word in ALIASES}
    if words == {"train", "val"}:  # what is not for testing
        return "train"
    return words.pop() if len(words) == 1 else None


def find_split_of_path(path: str) -> Split | None:
    """The split that the name of a file says, or else its folders, the nearest first.

    Example:
        >>> find_split_of_path("annotations/instances_val2017.json"), find_split_of_path("test/a")
        ('val', 'test')
    """
    return next((split for part in reversed(path.split("/")) if (split := find_split(part))), None)


def find_split_level(names: Sequence[str]) -> int | None:
    """The level of folders, from 0, that are those of splits: training and another one."""
    for level in range(MOST_LEVELS):
        found = {read_split(name, level) for name in names}
        if "train" in found and len(found - {None}) > 1:
            return level
    return None


def read_split(name: str, level: int | None) -> Split | None:
    """The split that the folder at a level of a path stands for."""
    folders = name.split("/")[:-1]
    return find_split(folders[level]) if level is not None and level < len(folders) else None


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
        shown = join_names(outside)
        layout.problems.append(
            f"{len(outside)} images are in no folder of a split ({shown}), others are: move them"
            " into one"
        )
    layout.pairs = [pair for pair in layout.pairs if pair.split is not None]
    return list(folders)


def find_unmasked(images: dict[str, Split | None], masks: set[Split | None]) -> dict[str, Split]:
    """The images of splits that have no masks, given the splits of all images and masks."""
    if "train" not in masks:
        return {}
    return {name: split for name, split in images.items() if split and split not in masks}


def describe_left_out(images: Mapping[str, Split]) -> str:
    """A line on images without masks, by their splits, that are not used."""
    shown = join_names([*images])
    known = {"train": "training", "val": "validation", "test": "testing"}
    purpose = " and ".join(known[split] for split in SPLITS if split in images.values())
    return f"{len(images)} images for {purpose} have no masks and are left out: {shown}"


def split_by_ratio(samples: list[Sample], val: float, test: float, seed: int | None) -> Divided:
    """Divide samples by fractions; a split has at least one sample unless its fraction is 0.

    The pages of a file, which may be slices of one volume, stay together if there are enough files.
    Without a seed, the last samples in natural order of their names are taken, first validation,
    then test. Splits are sorted by name. If there are too few samples, all of them are in "train"
    and the check reports the empty splits.
    """
    ordered = sorted(samples, key=natural_key)
    files = dict[object, list[Sample]]()
    for sample in ordered:
        files.setdefault(sample.name if sample.page is None else sample.image, []).append(sample)
    order = list(files.values())
    if len(order) < 1 + bool(val) + bool(test):
        order = [[sample] for sample in ordered]
    if seed is not None:
        random.Random(seed).shuffle(order)
    n_val, n_test = (max(1, round(len(order) * share)) if share else 0 for share in (val, test))
    cut = len(order) - n_val - n_test
    if cut < 1:
        return {"train": ordered, "val": [], "test": []}
    parts = order[:cut], order[cut : cut + n_val], order[cut + n_val :]
    return {
        split: sorted(chain.from_iterable(part), key=natural_key)
        for split, part in zip(SPLITS, parts, strict=True)
    }


def split_by_lists(samples: list[Sample], lists: dict[Split, Path], problems: list[str]) -> Divided:
    """Divide samples by text files with the names of a split, one per line; the rest is training.

    A name is any unambiguous end of a sample's path, with or without the extension:
    ``images/a/1.png``, ``a/1`` and ``1`` may name the same file. The name of a stack names all its
    pages, ``stack.tif#0003`` one page, and that of a folder all files in it, as of a sequence. What
    follows a name after a space, such as its mask, is not read. Unknown and ambiguous names are
    added to the problems.

    Raises:
        SegkitError: A list does not exist or is not a text file.
    """
    known: dict[str, list[Sample]] = {}
    for sample in samples:
        for name in _iterate_names(sample):
            known.setdefault(name, []).append(sample)
    folders = _list_folders(samples)
    split_of: dict[str, Split] = {}
    for split, path in lists.items():
        for line in _read_lines(split, path):
            name = line if line in known else line.split()[0]
            name = name if name in known else strip_suffix(name)  # of masks in another format
            found = known.get(name, [])
            inside = folders.get(name.strip("/"), {})
            if not found and len(inside) == 1:
                for sample in next(iter(inside.values())):
                    if split_of.setdefault(sample.name, split) != split:
                        problems.append(f"'{name}' is in the lists of two splits")
                continue
            files = sorted({str(sample.image) for sample in found})
            if not found:
                problems.append(f"'{name}' is in {path.name}, but no sample has that name")
            if len(files) > 1:
                problems.append(
                    f"'{name}' in {path.name} matches {len(files)} images: {files[0]},"
                    f" {files[1]} ... Write it with its folder"
                )
            for sample in found:
                if split_of.setdefault(sample.name, split) != split:
                    problems.append(f"'{name}' is in the lists of two splits")
    divided: Divided = {split: [] for split in SPLITS}
    for sample in samples:
        divided[split_of.get(sample.name, "train")].append(sample)
    return divided


def _list_folders(samples: Sequence[Sample]) -> dict[str, dict[str, list[Sample]]]:
    """The samples below folders, by the ends of paths of folders and by their whole paths."""
    found: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        parts = sample.name.split("/")[:-1]
        for last in range(1, len(parts) + 1):
            whole = "/".join(parts[:last])
            for first in range(last):
                inside = found.setdefault("/".join(parts[first:last]), {})
                inside.setdefault(whole, []).append(sample)
    return found


def find_lists(roots: Sequence[Path], samples: list[Sample]) -> dict[Split, Path] | None:
    """Lists of a validation and a test split that lie where public sets have them.

    They are called val.txt, val_list.txt or the like. None without one for validation whose every
    line names a sample.
    """
    for root in list_shared_folders(roots[0], samples) if len(roots) == 1 else ():
        places = [root / name for name in ("ImageSets/Segmentation", ".", "splits", "metadata")]
        for folder in (*places, *sorted(root.glob("ImageSets/*"))):
            files = _find_files(folder)
            problems = list[str]()
            with suppress(SegkitError):
                if "val" in files and split_by_lists(samples, files, problems)["val"]:
                    files = {"val": files["val"]} if problems else files
                    problems.clear()
                    split_by_lists(samples, files, problems)
                    if not problems:
                        return files
    return None


def describe_named_splits(samples: Sequence[Sample]) -> list[str]:
    """A line on images whose names begin like splits, where nothing divides by them, or none."""
    found: dict[Split, list[str]] = {}
    for sample in samples:
        name = sample.name.rpartition("/")[2]
        word = re.match("[A-Za-z]?[a-z]*", name)
        split = find_split(word[0]) if word else None
        if split is not None:
            found.setdefault(split, []).append(sample.name)
    if "train" not in found or len(found) < 2 or sum(map(len, found.values())) < len(samples):
        return []
    shown = " and ".join(f"{len(names)} for {split} ({names[0]})" for split, names in found.items())
    return [
        f"images are called {shown}, but no folder or list divides them, so they are mixed: move"
        " them into folders of these names, or list them in a file (data.split=lists,"
        " data.val_list, data.test_list)"
    ]


def list_shared_folders(root: Path, samples: Sequence[Sample]) -> list[Path]:
    """The root, and the folders below it that hold all samples."""
    parts = [sample.name.split("/")[:-1] for sample in samples]
    first, last = min(parts, default=[]), max(parts, default=[])
    differ = (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    count = next(differ, min(len(first), len(last)))
    return [root.joinpath(*first[:n]) for n in range(count + 1)]


def _find_files(folder: Path) -> dict[Split, Path]:
    """The only list of each split in a folder, or else the one that is called like it."""
    found: dict[Split, list[Path]] = {}
    for path in sorted(folder.glob("*.txt")):
        split = find_split(path.stem)
        if split is not None and split != "train":
            found.setdefault(split, []).append(path)
    for split, paths in found.items():
        found[split] = [p for p in paths if p.stem.lower() in ALIASES] or paths
    return {split: paths[0] for split, paths in found.items() if len(paths) == 1}


def natural_key(sample: Sample) -> list[tuple[int, str]]:
    """Sort key that puts slice 9 before slice 10."""
    parts = re.split(r"(\d+)", sample.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _iterate_names(sample: Sample) -> Iterator[str]:
    file, page = sample.name, ""
    if sample.page is not None:
        file, page = file[: file.rindex("#")], file[file.rindex("#") :]
    parts = file.split("/")
    for first in range(len(parts)):
        end = "/".join(parts[first:])
        for name in dict.fromkeys((end, end.removesuffix(Path(end).suffix))):
            yield name
            if page:
                yield name + page


def _read_lines(split: Split, path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SegkitError(f"data.{split}_list: there is no file {path.resolve()}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SegkitError(f"data.{split}_list: cannot read {path}: {error}.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
