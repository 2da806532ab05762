"""The user's own images and masks, paired by file name or by a table."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.data.sources.base import SPLITS, DataSource, Sample, Split
from segkit.images.formats.base import is_image, list_suffixes
from segkit.images.raster import convert_channels
from segkit.images.reading import ImageReader, count_pages, read_image

Divided = dict[Split, list[Sample]]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Byte = Annotated[int, Field(ge=0, le=255)]


class FolderSource(DataSource, name="folder"):
    """Images and masks as files, paired by file name or by a table.

    A multi-page TIFF is a stack with one sample per page; its mask has as many pages. With a
    multilabel head the mask of a single image may have one page per class instead.

    Args:
        mode: The head's mode.
        root: The folder with ``images`` and ``masks``, whose files are paired by name without the
            extension, including sub-folders; or with ``train``, ``val`` and ``test``, each with
            ``images`` and ``masks``. If only ``val`` is missing, it is taken from ``train``.
        pairs: Instead of root: a CSV file (separated by comma, semicolon or tab) with the columns
            ``image``, ``mask`` and optionally ``split``; paths are relative to the file.
        images: Name of the image folder.
        masks: Name of the mask folder.
        mask_suffix: What follows the image's name in the name of its mask, such as "_mask".
        split: How samples are divided unless folders or the table say so: "random" draws them with
            the seed, "blocks" takes the last of the sorted names (for stacks and sequences, whose
            neighbours are alike), "lists" reads ``val_list`` and ``test_list``.
        val_fraction: Fraction of samples for validation.
        test_fraction: Fraction of samples for testing.
        val_list: Text file with the names of the validation samples, one per line; the end of a
            path is enough, the rest is training.
        test_list: Text file with the names of the test samples.
        seed: Seed of the random split.
        channels: "auto" keeps the channels of the images; 1 converts all images to grey, 3 to RGB.
        instances: Whether masks hold object ids instead of classes.
        label_map: Labels of mask values that differ from their label, such as {11: 255}; the label
            255 means not labelled.
        class_names: Names of the classes in label order.
        class_colors: RGB colours of the classes in label order.
    """

    def __init__(
        self,
        mode: Mode,
        root: Path | None = None,
        pairs: Path | None = None,
        images: str = "images",
        masks: str = "masks",
        mask_suffix: str = "",
        split: Literal["random", "blocks", "lists"] = "random",
        val_fraction: Fraction = 0.2,
        test_fraction: Fraction = 0.0,
        val_list: Path | None = None,
        test_list: Path | None = None,
        seed: int = 0,
        channels: Literal["auto", 1, 3] = "auto",
        instances: bool = False,
        label_map: dict[int, Byte] | None = None,
        class_names: tuple[str, ...] | None = None,
        class_colors: tuple[tuple[Byte, Byte, Byte], ...] | None = None,
    ) -> None:
        if (root is None) == (pairs is None):
            raise SegkitError(
                "the location of the data is missing: give either data.root=DIR, the folder with"
                " images/ and masks/, or data.pairs=FILE.csv."
            )
        if split == "lists" and val_list is None:
            raise SegkitError(
                "data.split=lists needs data.val_list=FILE, one sample name per line."
            )
        if split != "lists" and (val_list or test_list):
            raise SegkitError(
                f"data.val_list and data.test_list are not used with data.split={split}: set"
                " data.split=lists."
            )
        if images == masks and not mask_suffix:
            raise SegkitError(
                f"data.images and data.masks are both '{images}': distinguish the masks with"
                " data.mask_suffix=_mask or the like."
            )
        self.root, self.pairs, self.channels = root, pairs, channels
        self.images, self.masks, self.mask_suffix = images, masks, mask_suffix
        self.layers = mode == "multilabel"  # the pages of a mask may be the classes of one image
        self.split, self.seed = split, seed
        self.fractions = val_fraction, test_fraction
        given: dict[Split, Path | None] = {"val": val_list, "test": test_list}
        self.lists = {name: path for name, path in given.items() if path is not None}
        self.instances, self.label_map = instances, label_map
        self.class_names, self.class_colors = class_names, class_colors

    def splits(self) -> dict[Split, list[Sample]]:
        """The samples by split, without those in :meth:`problems`.

        Raises:
            SegkitError: The folders, the table or the lists do not exist or cannot be read.
        """
        return self._divided[0]

    def problems(self) -> list[str]:
        """Images without a mask, masks without an image, unknown names in lists ..."""
        return self._divided[1]

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C) as stored, or converted to ``channels``."""
        assert sample.image is not None
        return read_with_channels(sample.image, self.channels, sample.page)

    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W) or (H, W, N) integers, as stored."""
        assert sample.mask is not None
        with ImageReader(sample.mask) as reader:
            if self.layers and sample.page is None and len(reader) > 1:
                return np.stack([reader.read_mask(page) for page in range(len(reader))], axis=2)
            return reader.read_mask(sample.page)

    @cached_property
    def _divided(self) -> tuple[Divided, list[str]]:
        problems: list[str] = []
        pair = self._pair_folders if self.pairs is None else self._pair_table
        given, rest = pair(problems)
        divided: Divided = {s: sorted(given.get(s, []), key=natural_key) for s in SPLITS}
        if not rest:
            if self.split == "lists" and any(divided.values()):
                problems.append("data.split=lists is not used: the data are already divided")
            return divided, problems
        if self.split == "lists":
            parts = split_by_lists(rest, self.lists, problems)
        else:
            val, test = self.fractions
            seed = self.seed if self.split == "random" else None
            parts = split_by_ratio(rest, val, 0 if divided["test"] else test, seed)
        return {split: divided[split] + parts[split] for split in SPLITS}, problems

    def _pair_folders(self, problems: list[str]) -> tuple[Divided, list[Sample]]:
        """The samples whose split is given by their folder, and those still to be divided."""
        assert self.root is not None
        if not self.root.is_dir():
            raise SegkitError(f"data.root: there is no folder {self.root.resolve()}.")
        if (self.root / self.images).is_dir():
            return {}, self._pair_files(self.root, problems)
        found = [split for split in SPLITS if (self.root / split / self.images).is_dir()]
        if "train" not in found:
            content = ", ".join(sorted(p.name for p in self.root.iterdir())[:8]) or "nothing"
            raise SegkitError(
                f"data.root: {self.root.resolve()} has neither a folder '{self.images}' nor"
                f" 'train/{self.images}'. It contains: {content}. Name the folders with"
                " data.images=NAME and data.masks=NAME."
            )
        given = {split: self._pair_files(self.root / split, problems) for split in found}
        if "val" in given:
            return given, []
        problems += [
            f"{name}/{self.images} is not used: rename the folder to 'val'"
            for name in ("valid", "validation")
            if (self.root / name / self.images).is_dir()
        ]
        rest = given.pop("train")
        return given, rest

    def _pair_table(self, problems: list[str]) -> tuple[Divided, list[Sample]]:
        """The samples whose split the CSV file gives, and those still to be divided."""
        assert self.pairs is not None
        table, lines = self.pairs, dict[Path, int]()
        given, rest = Divided(), list[Sample]()
        for number, row in _read_rows(table):
            image, mask, split = (row.get(key, "") for key in ("image", "mask", "split"))
            files = table.parent / image, table.parent / mask
            empty = [key for key in ("image", "mask") if not row.get(key)]
            absent = [str(path) for path in files if not path.is_file()]
            before = lines.get(files[0].resolve())
            known = next((name for name in SPLITS if name == split), None)
            problem = ""
            if empty:
                problem = f"no {' and no '.join(empty)} is given"
            elif absent:
                problem = f"there is no file {' and no file '.join(absent)}"
            elif before is not None:
                problem = f"{image} is already in line {before}"
            elif split and known is None:
                problem = f"the split is '{split}', not one of {', '.join(SPLITS)}"
            if problem:
                problems.append(f"{table.name}, line {number}: {problem}")
                continue
            lines[files[0].resolve()] = number
            samples = self._list_pages(*files, Path(image).as_posix(), problems)
            (given.setdefault(known, []) if known else rest).extend(samples)
        if rest and given:
            problems.append(
                f"{table.name}: {len(rest)} samples have no split, others have one: give it for"
                " all or none"
            )
        elif "val" not in given:
            rest += given.pop("train", [])
        return given, rest

    def _pair_files(self, folder: Path, problems: list[str]) -> list[Sample]:
        """The samples of one pair of folders, named by their path relative to the root."""
        image_folder, mask_folder = folder / self.images, folder / self.masks
        if not mask_folder.is_dir():
            raise SegkitError(
                f"data.root: there is no folder {mask_folder.resolve()}. Name it with"
                " data.masks=NAME."
            )

        def relative(path: Path) -> str:
            assert self.root is not None
            return path.relative_to(self.root).as_posix()

        images, masks = _find_files(image_folder), _find_files(mask_folder)
        if image_folder.resolve() == mask_folder.resolve():
            masks = {
                stem: files for stem, files in masks.items() if stem.endswith(self.mask_suffix)
            }
            images = {stem: files for stem, files in images.items() if stem not in masks}
        elif image_folder.resolve() in mask_folder.resolve().parents:
            inside = mask_folder.resolve().relative_to(image_folder.resolve()).as_posix() + "/"
            images = {stem: files for stem, files in images.items() if not stem.startswith(inside)}
        partner = {stem: stem + self.mask_suffix for stem in images}
        if not images:
            suffixes = ", ".join(list_suffixes())
            problems.append(f"{relative(image_folder)} contains no images. Known: {suffixes}")
        elif not masks.keys() & set(partner.values()):
            first, hint = next(iter(images)), _suggest_suffix(list(images), masks)
            problems.append(
                f"none of the {len(images)} images in {relative(image_folder)} has a mask in"
                f" {relative(mask_folder)}: {relative(images[first][0])} needs"
                f" {relative(mask_folder / partner[first])}.png{hint}"
            )
            return []

        samples: list[Sample] = []
        for stem, files in images.items():
            if partner[stem] not in masks:
                problems.append(
                    f"{relative(files[0])} has no mask: there is no"
                    f" {relative(mask_folder / partner[stem])}.png (or another extension)"
                )
            elif len(files) == len(masks[partner[stem]]) == 1:
                mask = masks[partner[stem]][0]
                samples += self._list_pages(files[0], mask, relative(files[0]), problems)
        problems += [
            f"{relative(files[0])} is a mask without an image"
            for stem, files in masks.items()
            if stem not in partner.values()
        ]
        problems += [
            f"several files have the same name: {', '.join(map(relative, files))}. Keep one of them"
            for files in (*images.values(), *masks.values())
            if len(files) > 1
        ]
        return samples

    def _list_pages(self, image: Path, mask: Path, name: str, problems: list[str]) -> list[Sample]:
        """One sample, or one for each page of a stack."""
        try:
            pages, mask_pages = count_pages(image), count_pages(mask)
        except SegkitError:  # the check reports all files that cannot be read
            return [Sample(name, image, mask)]
        if pages == 1 and (mask_pages == 1 or self.layers):
            return [Sample(name, image, mask)]
        if pages != mask_pages:
            problems.append(f"{name} has {pages} page(s), but its mask {mask} has {mask_pages}")
            return []
        return [Sample(f"{name}#{page:04d}", image, mask, page) for page in range(pages)]


def read_with_channels(
    path: Path, channels: Literal["auto", 1, 3], page: int | None = None
) -> NDArray[Any]:
    """Read an image (H, W, C), converted to grey or RGB unless ``channels`` is "auto"."""
    image = read_image(path, page)
    if channels == "auto":
        return image
    try:
        return convert_channels(image, channels)
    except SegkitError as error:
        raise SegkitError(f"{path}: {error}") from error


def _find_files(folder: Path) -> dict[str, list[Path]]:
    """Visible image files below a folder by relative path without the extension, sorted."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if not hidden and is_image(path):
            found.setdefault(inside.with_suffix("").as_posix(), []).append(path)
    return found


def _suggest_suffix(images: list[str], masks: dict[str, list[Path]]) -> str:
    """A suffix that would pair all images, as a remedy."""
    endings = [mask.removeprefix(images[0]) for mask in masks if mask.startswith(images[0])]
    fitting = [end for end in endings if all(image + end in masks for image in images)]
    return f". Did you mean data.mask_suffix={min(fitting, key=len)}?" if fitting else ""


def _read_rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with their line numbers; commas, semicolons or tabs as separators."""
    if not table.is_file():
        raise SegkitError(f"data.pairs: there is no file {table.resolve()}.")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count), restval="")
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            rows = [
                # DictReader puts surplus values into a list under the key None
                (reader.line_num, {k: v.strip() for k, v in row.items() if isinstance(v, str)})
                for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SegkitError(
            f"data.pairs: cannot read {table}: {error}. It must be a CSV file in UTF-8."
        ) from error
    missing = sorted({"image", "mask"} - set(reader.fieldnames))
    if missing:
        raise SegkitError(
            f"data.pairs: {table} has no column {' and no column '.join(missing)}. Its first line"
            f" is '{header.strip()}', it should be 'image,mask' or 'image,mask,split'."
        )
    if not rows:
        raise SegkitError(f"data.pairs: {table} has no rows below the header.")
    return rows


# --- splits ---------------------------------------------------------------------------------------


def split_by_ratio(samples: list[Sample], val: float, test: float, seed: int | None) -> Divided:
    """Divide samples by fractions; a split has at least one sample unless its fraction is 0.

    Without a seed, the last samples in natural order of their names are taken, first validation,
    then test. Splits are sorted by name. If there are too few samples, all of them are in "train"
    and the check reports the empty splits.
    """
    order = sorted(samples, key=natural_key)
    if seed is not None:
        random.Random(seed).shuffle(order)
    n_val, n_test = (max(1, round(len(order) * share)) if share else 0 for share in (val, test))
    cut = len(order) - n_val - n_test
    if cut < 1:
        return {"train": sorted(order, key=natural_key), "val": [], "test": []}
    parts = order[:cut], order[cut : cut + n_val], order[cut + n_val :]
    return {s: sorted(part, key=natural_key) for s, part in zip(SPLITS, parts, strict=True)}


def split_by_lists(samples: list[Sample], lists: dict[Split, Path], problems: list[str]) -> Divided:
    """Divide samples by text files with the names of a split, one per line; the rest is training.

    A name is any unambiguous end of a sample's path, with or without the extension:
    ``images/a/1.png``, ``a/1`` and ``1`` may name the same file. The name of a stack names all its
    pages, ``stack.tif#0003`` one page. Unknown and ambiguous names are added to the problems.

    Raises:
        SegkitError: A list does not exist or is not a text file.
    """
    known: dict[str, list[Sample]] = {}
    for sample in samples:
        for name in _iterate_names(sample):
            known.setdefault(name, []).append(sample)
    split_of: dict[str, Split] = {}
    for split, path in lists.items():
        for name in _read_lines(split, path):
            found = known.get(name, [])
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
