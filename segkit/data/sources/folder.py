"""The user's own images and masks, paired by file name or by a table."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.data.sources.base import SPLITS, DataSource, Sample, Split
from segkit.data.sources.splitting import Divided, natural_key, split_by_lists, split_by_ratio
from segkit.images.raster import convert_channels
from segkit.images.reading import IMAGE_SUFFIXES, ImageReader, count_pages, read_image

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
        self.layout = Layout(images, masks, mask_suffix, layers=mode == "multilabel")
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
            if self.layout.layers and sample.page is None and len(reader) > 1:
                return np.stack([reader.read_mask(page) for page in range(len(reader))], axis=2)
            return reader.read_mask(sample.page)

    @cached_property
    def _divided(self) -> tuple[Divided, list[str]]:
        if self.pairs is not None:
            found = pair_table(self.pairs, self.layout)
        else:
            assert self.root is not None
            found = pair_folders(self.root, self.layout)
        divided: Divided = {s: sorted(found.given.get(s, []), key=natural_key) for s in SPLITS}
        problems = list(found.problems)
        if not found.rest:
            if self.split == "lists" and any(divided.values()):
                problems.append("data.split=lists is not used: the data are already divided")
            return divided, problems
        if self.split == "lists":
            rest, unsplit = split_by_lists(found.rest, self.lists)
            problems += unsplit
        else:
            val, test = self.fractions
            seed = self.seed if self.split == "random" else None
            rest = split_by_ratio(found.rest, val, 0 if divided["test"] else test, seed)
        return {split: divided[split] + rest[split] for split in SPLITS}, problems


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


@dataclass
class Pairs:
    """Images with their masks.

    Attributes:
        given: Samples whose split is given.
        rest: Samples that still have to be divided.
        problems: Files without a partner or that cannot be used.
    """

    given: dict[Split, list[Sample]] = field(default_factory=dict)
    rest: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """How folders and files are named.

    Attributes:
        images: Name of the image folder.
        masks: Name of the mask folder.
        mask_suffix: What follows the image's name in the name of its mask.
        layers: Whether the pages of a mask may be the classes of one image.
    """

    images: str
    masks: str
    mask_suffix: str
    layers: bool


def pair_folders(root: Path, layout: Layout) -> Pairs:
    """Pair the files below a folder with images and masks, or with train, val and test.

    Raises:
        SegkitError: The folders do not exist.
    """
    if not root.is_dir():
        raise SegkitError(f"data.root: there is no folder {root.resolve()}.")
    pairs = Pairs()
    if (root / layout.images).is_dir():
        pairs.rest = _pair(root, root, layout, pairs.problems)
        return pairs
    found = {split: root / split for split in SPLITS if (root / split / layout.images).is_dir()}
    if "train" not in found:
        content = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
        raise SegkitError(
            f"data.root: {root.resolve()} has neither a folder '{layout.images}' nor"
            f" 'train/{layout.images}'. It contains: {content}. Name the folders with"
            " data.images=NAME and data.masks=NAME."
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
    """Pair the files in the columns image and mask of a CSV file, relative to it.

    Raises:
        SegkitError: The file cannot be read, lacks these columns or has no rows.
    """
    pairs = Pairs()
    lines: dict[Path, int] = {}
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
            pairs.problems.append(f"{table.name}, line {number}: {problem}")
            continue
        lines[files[0].resolve()] = number
        samples = _list_pages(*files, Path(image).as_posix(), layout, pairs.problems)
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
    """The samples of one pair of folders, named by their path relative to the root."""
    image_folder, mask_folder = folder / layout.images, folder / layout.masks
    if not mask_folder.is_dir():
        raise SegkitError(
            f"data.root: there is no folder {mask_folder.resolve()}. Name it with data.masks=NAME."
        )

    def relative(path: Path) -> str:
        return path.relative_to(root).as_posix()

    images, masks = _find_files(image_folder), _find_files(mask_folder)
    if image_folder.resolve() == mask_folder.resolve():
        masks = {stem: files for stem, files in masks.items() if stem.endswith(layout.mask_suffix)}
        images = {stem: files for stem, files in images.items() if stem not in masks}
    elif image_folder.resolve() in mask_folder.resolve().parents:
        inside = mask_folder.resolve().relative_to(image_folder.resolve()).as_posix() + "/"
        images = {stem: files for stem, files in images.items() if not stem.startswith(inside)}
    partner = {stem: stem + layout.mask_suffix for stem in images}
    if not images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        problems.append(f"{relative(image_folder)} contains no images. Known: {suffixes}")
    elif not masks.keys() & set(partner.values()):
        first = next(iter(images))
        problems.append(
            f"none of the {len(images)} images in {relative(image_folder)} has a mask in"
            f" {relative(mask_folder)}: {relative(images[first][0])} needs"
            f" {relative(mask_folder / partner[first])}.png{_suggest_suffix(list(images), masks)}"
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
            samples += _list_pages(files[0], mask, relative(files[0]), layout, problems)
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


def _find_files(folder: Path) -> dict[str, list[Path]]:
    """Visible image files below a folder by relative path without the extension, sorted."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file():
            found.setdefault(inside.with_suffix("").as_posix(), []).append(path)
    return found


def _suggest_suffix(images: list[str], masks: dict[str, list[Path]]) -> str:
    """A suffix that would pair all images, as a remedy."""
    endings = [mask.removeprefix(images[0]) for mask in masks if mask.startswith(images[0])]
    fitting = [end for end in endings if all(image + end in masks for image in images)]
    return f". Did you mean data.mask_suffix={min(fitting, key=len)}?" if fitting else ""


def _list_pages(
    image: Path, mask: Path, name: str, layout: Layout, problems: list[str]
) -> list[Sample]:
    """One sample, or one for each page of a stack."""
    try:
        pages, mask_pages = count_pages(image), count_pages(mask)
    except SegkitError:  # the check reports all files that cannot be read
        return [Sample(name, image, mask)]
    if pages == 1 and (mask_pages == 1 or layout.layers):
        return [Sample(name, image, mask)]
    if pages != mask_pages:
        problems.append(f"{name} has {pages} page(s), but its mask {mask} has {mask_pages}")
        return []
    return [Sample(f"{name}#{page:04d}", image, mask, page) for page in range(pages)]


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
