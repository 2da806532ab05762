"""The user's own images, and masks as files or as annotations of other programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from segkit.core.errors import SegkitError, did_you_mean
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.data.labels.base import Color, LabelFormat
from segkit.data.labels.masks import AnnotatedMasks, choose_masks, find_annotations
from segkit.data.layout.blocks import Block, Shares, divide_samples, take_whole
from segkit.data.layout.class_files import propose_classes
from segkit.data.layout.folders import find_pairs, has_plain_masks
from segkit.data.layout.pairs import Layout, Names, Pair
from segkit.data.layout.splits import (
    Divided,
    Fraction,
    find_lists,
    natural_key,
    split_by_lists,
    split_by_ratio,
)
from segkit.data.layout.table import read_pairs
from segkit.data.mask_files import (
    TRANSPARENT,
    UNLABELLED,
    MaskDecoder,
    Palettes,
    compare_palettes,
    describe_palettes,
    describe_rounding,
    fit_size,
    list_known_values,
)
from segkit.data.open_images import OpenImages, WholeImages
from segkit.data.sources.base import SPLITS, Byte, DataSource, Large, Sample, Split
from segkit.images.formats.base import may_have_pages, strip_ending
from segkit.images.place import find_shift
from segkit.images.raster import Raster, convert_channels, is_opaque
from segkit.images.reading import ImageReader, count_pages, render, wrap_errors
from segkit.images.windows import WindowedImage

Roots = Annotated[
    tuple[Path, ...], BeforeValidator(lambda v: [v] if isinstance(v, str | Path) else v)
]

LARGE = 256 * 2**20
"""Bytes of a decoded image above which only the parts that are needed are read."""
MOST_PACKED = 256
"""How much smaller the file of a large image may be; smaller ones need not be opened for this."""
NAMED = 3
"""Files that a note names."""
DividedBy = Literal["", "folders", "table", "lists"]
"""What of a set says which samples are for validation; empty if nothing does."""
FARTHEST = 0.5
"""How many pixels image and mask may lie apart: headers are rounded."""


class FolderSource(DataSource, name="folder"):
    """Images, and masks as files (paired by name, by patterns or by a table) or as annotations.

    A multi-page file is a stack with one sample per page; its mask has as many pages. With a
    multilabel head the mask of a single image may have one page per class instead.

    Args:
        mode: The head's mode.
        root: The folder with ``images`` and ``masks``, whose files are paired by name without the
            extension, including sub-folders. Folders ``train``, ``val`` and ``test`` above them,
            inside them or in their place divide the samples; if only ``val`` is missing, it is
            taken from ``train``, and a ``test`` without masks is left out. Several folders, as
            [A,B], are one data set.
        pairs: Instead of root: a CSV file (separated by comma, semicolon or tab) with the columns
            ``image``, ``mask`` and optionally ``split``; paths are relative to the file. A column
            of another name that holds only train, val and test divides too, and so do folders.
        labels: What describes the objects: "masks", one file of labels for each image; the name of
            a format of annotations, such as "coco"; or "auto", which finds out.
        images: Name of the image folder.
        masks: Name of the mask folder.
        mask_suffix: What follows the image's name in the name of its mask, such as "_mask".
        image_pattern: Paths of images below root, such as "{id}/image.tif"; {split} may stand for a
            folder of a split, * for anything. Folders of splits divide without it, too.
        mask_pattern: Paths of masks likewise, such as "{id}/mask.png".
        split: How samples are divided unless folders or the table say so: "random" draws them with
            the seed, "blocks" takes the last of the sorted names (for stacks and sequences, whose
            neighbours are alike), "lists" reads ``val_list`` and ``test_list``. "tiles" divides
            every image into blocks of all splits, for sets of one or a few large images. The blocks
            of a split lie side by side and no pixel is in two splits, but blocks next to each other
            are alike, so scores are better than on images of another place.
        tile_size: Height and width of the blocks of "tiles", at least; twice data.crop_size or more
            gives crops room. null: at least 25 blocks for each image, but none below 256.
        val_fraction: Fraction of samples (or of blocks) for validation.
        test_fraction: Fraction of samples (or of blocks) for testing.
        val_list: Text file with the names of the validation samples, one per line; the end of a
            path is enough, the rest is training.
        test_list: Text file with the names of the test samples.
        seed: Seed of the random split, or of the places of the blocks.
        channels: "auto" keeps the channels of the images but alpha, whose transparent pixels are
            ignored; 1 converts all images to grey, 3 to RGB, 4 keeps alpha as a channel.
        orientation: Whether images and masks are turned as their EXIF data say ("exif"), or masks
            were drawn on the pixels as they are stored ("stored").
        instances: Whether masks hold object ids instead of classes.
        mask_values: Whether masks hold the "exact" values of their classes, and masks in JPEG are
            an error; or each takes the "nearest" one of ``class_colors``, else of ``label_map``,
            else of the classes, with a binary head 0 and 255.
        resize_masks: Whether masks of another size are resized to their image, by nearest pixel.
        label_map: Labels of mask values that differ from their label, such as {11: 255}; the label
            255 means not labelled.
        class_names: Names of the classes in label order.
        class_colors: RGB colours of the classes in label order; masks of colours are decoded with
            them.
    """

    def __init__(
        self,
        mode: Mode,
        root: Roots | None = None,
        pairs: Path | None = None,
        labels: str = "auto",
        images: str = "images",
        masks: str = "masks",
        mask_suffix: str = "",
        image_pattern: str | None = None,
        mask_pattern: str | None = None,
        split: Literal["random", "blocks", "lists", "tiles"] = "random",
        tile_size: Annotated[int, Field(ge=16)] | None = None,
        val_fraction: Fraction = 0.2,
        test_fraction: Fraction = 0.0,
        val_list: Path | None = None,
        test_list: Path | None = None,
        seed: int = 0,
        channels: Literal["auto", 1, 3, 4] = "auto",
        orientation: Literal["exif", "stored"] = "exif",
        instances: bool = False,
        mask_values: Literal["exact", "nearest"] = "exact",
        resize_masks: bool = False,
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
        if tile_size is not None and split != "tiles":
            raise SegkitError(
                f"data.tile_size is not used with data.split={split}: set data.split=tiles."
            )
        if images == masks and not mask_suffix:
            raise SegkitError(
                f"data.images and data.masks are both '{images}': distinguish the masks with"
                " data.mask_suffix=_mask or the like."
            )
        if (image_pattern is None) != (mask_pattern is None):
            raise SegkitError(
                "data.image_pattern and data.mask_pattern belong together: give both, such as"
                " '{id}_RGB.tif' and '{id}_label.tif'."
            )
        self.roots = tuple(map(Path, [root] if isinstance(root, str | Path) else root or ()))
        if labels not in (known := ["auto", "masks", *LabelFormat.names()]):
            raise SegkitError(
                f"data.labels={labels} is not known.{did_you_mean(labels, known)} Known:"
                f" {', '.join(known)}."
            )
        self.mode, self.labels = mode, labels
        self.pairs, self.channels, self.resize_masks = pairs, channels, resize_masks
        self.path_names = Names(images, masks, mask_suffix, image_pattern, mask_pattern)
        self.layers = mode == "multilabel"  # the pages of a mask may be the classes of one image
        self.split, self.seed, self.upright = split, seed, orientation == "exif"
        self.tile_size = tile_size
        self.fractions = val_fraction, test_fraction
        given: dict[Split, Path | None] = {"val": val_list, "test": test_list}
        self.lists = {name: path for name, path in given.items() if path is not None}
        self.instances = instances
        self._label_map, self._class_names, self._class_colors = (
            label_map,
            class_names,
            class_colors,
        )
        self.nearest = list_known_values(
            mask_values, mode, class_colors, label_map, class_names, instances
        )
        self._turned, self._with_alpha = set[str](), set[str]()
        self._stored_channels = set[int]()
        self._nodata = set[float]()  # values of pixels without data in masks
        self._hidden = set[int]()  # what masks have where they are transparent or have no data
        # images and masks that name no axes, by how these are read: their number, and the first
        self._guesses = dict[tuple[str, str], tuple[int, str]]()
        # images and masks of volumes whose axes lead elsewhere: their names by both directions
        self._realigned = dict[tuple[str, str], list[str]]()
        self._large = dict[Sample, Large | None]()
        self._open, self._whole = OpenImages(), {"image": WholeImages(), "mask": WholeImages()}

    @property
    def class_names(self) -> tuple[str, ...] | None:  # type: ignore[override]  # read-only here
        """The names that are given, else those of the annotations."""
        drawn = self._drawn
        return self._class_names if drawn is None else drawn.class_names

    @property
    def class_colors(self) -> tuple[Color, ...] | None:  # type: ignore[override]  # likewise
        """The colours that are given, else those of the annotations."""
        drawn = self._drawn
        return self._class_colors or (None if drawn is None else drawn.colors)

    @property
    def label_map(self) -> dict[int, int] | None:  # type: ignore[override]  # likewise
        """The map that is given; what annotations ignore is not labelled."""
        own = dict[int, int]()
        if self._drawn is not None or self._nodata - {0} or UNLABELLED in self._hidden:
            own[UNLABELLED] = IGNORE_INDEX
        if self.instances and TRANSPARENT in self._hidden:
            own[TRANSPARENT] = 0
        return {**own, **(self._label_map or {})} if own else self._label_map

    def splits(self) -> dict[Split, list[Sample]]:
        """The samples by split, without those in :meth:`problems`.

        Raises:
            SegkitError: The folders, the table or the lists do not exist or cannot be read.
        """
        return self._found.divided

    @property
    def divided_by(self) -> DividedBy:
        """What of the set says which samples are for validation."""
        return self._found.divided_by

    def problems(self) -> list[str]:
        """Images without a mask, masks without an image, unknown names in lists ..."""
        return self._found.problems

    def notes(self) -> list[str]:
        """Files left out, palettes, and what was done to images that were read."""
        notes = [*self._found.notes, *describe_palettes(self._found.palettes)]
        notes += describe_rounding(self._decoder)
        if self._turned:
            names = sorted(self._turned)
            shown = ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
            notes.append(
                f"{len(names)} images are turned by their EXIF orientation, their masks are not:"
                f" {shown}. If masks were drawn on the pixels as they are stored, set"
                " data.orientation=stored"
            )
        if self._guesses:
            read = (
                f"as {axes} in {count} {side} ({first})"
                for (side, axes), (count, first) in self._guesses.items()
            )
            notes.append(
                f"axes of arrays that their files do not name are read {', '.join(read)}. If they"
                " mean something else, name them (HDF5, zarr, OME-TIFF), or save arrays as (pages,"
                " H, W, C)"
            )
        for (image, mask), names in self._realigned.items():
            notes.append(
                f"{len(names)} masks are turned to their images by the headers, as a viewer does:"
                f" the axes of masks lead to {mask}, those of images to {image}:"
                f" {', '.join(names[:NAMED])}{' ...' * (len(names) > NAMED)}"
            )
        for value in sorted(self._nodata):
            if value:
                notes.append(f"masks have the nodata value {value:g}: there is no label there")
            else:
                notes.append(
                    "masks have the nodata value 0, which is read as class 0"
                    " ('data.label_map={0: 255}': not labelled)"
                )
        if UNLABELLED in self._hidden:
            notes.append("masks have pixels without data (mask, alpha, NaN): no label is there")
        if self.instances and TRANSPARENT in self._hidden:
            notes.append("masks are transparent in places: no object is there")
        if self._with_alpha:
            is_rgba = self._stored_channels == {4}
            notes.append(
                f"{len(self._with_alpha)} images have an alpha channel, which is left out; their"
                " transparent pixels are ignored"
                + " (data.channels=4 keeps it as a channel)"
                * is_rgba
            )
        return notes

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C) as stored, or converted to ``channels``; masked where it has no data."""
        assert sample.image is not None
        if sample.window is None:
            with ImageReader(sample.image, self.upright) as reader:
                return self._render(sample, reader.read(sample.page))
        with self._open.open(sample.image, sample.page) as image:
            if image is not None:
                return self._render(sample, image.read_stored(*sample.window))
        whole = take_whole(sample)
        kept = self._whole["image"].fetch(whole, lambda: self.read_image(whole))
        return _cut(kept, sample.window)

    def _render(self, sample: Sample, raster: Raster) -> NDArray[Any]:
        assert sample.image is not None
        name = take_whole(sample).name
        if raster.orientation != 1:
            self._turned.add(name)
        if raster.alpha and self.channels != 4 and not is_opaque(raster.values):
            self._with_alpha.add(name)
        self._stored_channels.add(raster.values.shape[2])
        with wrap_errors(sample.image):
            image = render(raster, keep_alpha=self.channels == 4)
            return convert_channels(image, self.channels)

    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W) or (H, W, N) integers, as stored or drawn."""
        if sample.window is None:
            return self._read_whole_mask(sample)
        part = self._read_mask_part(sample, sample.window)
        if part is not None:
            return part
        whole = take_whole(sample)
        kept = self._whole["mask"].fetch(whole, lambda: self._read_whole_mask(whole))
        return _cut(kept, sample.window)

    def _read_whole_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        drawn = self._drawn
        if drawn is not None:
            with wrap_errors(sample.image or sample.name):
                return drawn.draw(sample.name, self._read_size(sample))
        assert sample.mask is not None
        with ImageReader(sample.mask, self.upright) as reader:
            rasters = [reader.read(page) for page in self._choose_pages(sample, len(reader))]
        if rasters[0].orientation != 1:
            self._turned.discard(sample.name)
        mask = self._decode(sample, rasters)
        if self.resize_masks:
            mask = fit_size(mask, self._read_size(sample))
        return mask

    def _read_mask_part(self, sample: Sample, window: Block) -> NDArray[np.integer[Any]] | None:
        """A window of a mask; None if it can only be read whole."""
        with self._open_masks(sample) as masks:
            if masks is None:
                return None
            return self._decode(sample, [mask.read_stored(*window) for mask in masks])

    @contextmanager
    def _open_masks(self, sample: Sample) -> Iterator[list[WindowedImage] | None]:
        """The mask of a sample, or its layers, by windows; None if it can only be read whole."""
        if self._drawn is not None:
            yield None
            return
        assert sample.mask is not None
        with ExitStack() as stack:
            masks = []
            for page in self._choose_pages(sample, self._count_layers(sample)):
                mask = stack.enter_context(self._open.open(sample.mask, page))
                if mask is None or not self._decoder.reads_parts(mask.kind):
                    break
                if self.resize_masks and mask.shape[:2] != self._read_size(sample):
                    break
                masks.append(mask)
            else:
                yield masks
                return
            yield None

    def _choose_pages(self, sample: Sample, count: int) -> list[int | None]:
        """The pages of a mask that belong to a sample: one, or one for each class."""
        if self.layers and sample.page is None and count > 1:
            return list(range(count))
        return [sample.page]

    def _count_layers(self, sample: Sample) -> int:
        """The pages of a mask that may be its layers."""
        assert sample.mask is not None
        return count_pages(sample.mask) if self.layers and sample.page is None else 1

    def _decode(self, sample: Sample, rasters: list[Raster]) -> NDArray[np.integer[Any]]:
        assert sample.mask is not None
        if rasters[0].nodata is not None:
            self._nodata.add(rasters[0].nodata)
        with wrap_errors(sample.mask):
            masks = [self._decoder.read(raster) for raster in rasters]
        first = rasters[0]
        if first.alpha or first.missing is not None or first.values.dtype.kind == "f":
            self._hidden |= {v for v in (UNLABELLED, TRANSPARENT) if (masks[0] == v).any()}
        return masks[0] if len(masks) == 1 else np.stack(masks, axis=2)

    def measure_large(self, sample: Sample) -> Large | None:
        """Large are images of more than LARGE bytes whose files can be read by windows."""
        if sample not in self._large:
            self._large[sample] = self._measure_large(sample)
        return self._large[sample]

    def _measure_large(self, sample: Sample) -> Large | None:
        file = sample.image
        if file is None or (file.is_file() and file.stat().st_size * MOST_PACKED < LARGE):
            return None
        with self._open.open(file, sample.page) as image:
            if image is None or math.prod(image.shape) * image.dtype.itemsize <= LARGE:
                return None
            size, may_lack_data = image.shape[:2], image.may_lack_data
            empty = self._render(sample, image.kind)
        height, width = size if sample.window is None else sample.window[2:]
        mask_shape: tuple[int, ...] | None = None
        with self._open_masks(sample) as masks:
            if masks is not None:
                layers = self._decode(sample, [mask.kind for mask in masks]).shape[2:]
                own = masks[0].shape[:2] if sample.window is None else (height, width)
                mask_shape = *own, *layers
        shape = height, width, empty.shape[2]
        return Large(shape, empty.dtype, mask_shape, may_lack_data)

    def _read_size(self, sample: Sample) -> tuple[int, int]:
        """Height and width of an image as it is read."""
        assert sample.image is not None
        with ImageReader(sample.image, self.upright) as reader:
            return reader.read_size(sample.page)

    @cached_property
    def _decoder(self) -> MaskDecoder:
        return MaskDecoder(
            by_color=self._found.palettes.differ or self._decodes_palettes,
            layers=self.layers and self._class_colors is None,
            nearest=self.nearest,
        )

    @property
    def _decodes_palettes(self) -> bool:
        """Whether the colours of the classes are in another order than in the masks' palettes."""
        usual, colours = self._found.palettes.usual, self._class_colors
        if usual is None or colours is None:
            return False
        own = [tuple(colour) for colour in usual[: len(colours)].tolist()]
        return set(own) != set(colours[: len(own)]) or own != list(colours[: len(own)])

    @property
    def _drawn(self) -> AnnotatedMasks | None:
        """The masks that are drawn from annotations, if there are any."""
        is_plain = self.labels == "masks" or self.pairs is not None
        return None if is_plain or self.path_names.image_pattern else self._found.drawn

    @cached_property
    def _found(self) -> _Found:
        problems, notes = list[str](), list[str]()
        drawn = self._find_annotations(problems)
        given: dict[Split | None, list[Sample]] = {}
        palettes = Palettes()
        if drawn is not None:
            notes += drawn.notes
            for name, image in drawn.images.items():
                sample = Sample(name, image.file, page=image.page)
                given.setdefault(image.split, []).append(sample)
        else:
            pairs = self._list_pairs(problems, notes)
            for pair in pairs:
                given.setdefault(pair.split, []).extend(self._list_pages(pair, problems))
            palettes = compare_palettes([pair.mask for pair in pairs])
            if self._class_names is None and self._class_colors is None:
                stems = {strip_ending(pair.image).name for pair in pairs}
                folder = self.roots[0] if self.pairs is None else self.pairs.parent
                notes += propose_classes(folder, stems)
        rest = given.pop(None, [])
        divided_by: DividedBy = ""
        if "val" in given:
            divided_by = "folders" if self.pairs is None else "table"
        else:
            rest += given.pop("train", [])
        if rest and self.split == "random" and not any(given.values()):
            listed = find_lists(self.roots, rest)
            if listed is not None:
                notes.append(f"the samples are divided by {', '.join(map(str, listed.values()))}")
                parts = split_by_lists(rest, listed, problems)
                given, rest = dict[Split | None, list[Sample]](parts.items()), []
                divided_by = "lists"
        divided = self._divide({s: given.get(s, []) for s in SPLITS}, rest, problems)
        return _Found(divided, problems, notes, palettes, drawn, divided_by)

    def _find_annotations(self, problems: list[str]) -> AnnotatedMasks | None:
        """The annotations below the root, unless there are masks."""
        is_plain = self.pairs is not None or self.path_names.image_pattern is not None
        if self.labels == "masks" or is_plain:
            return None
        if len(self.roots) > 1:
            if self.labels == "auto":
                return None
            raise SegkitError(
                f"data.labels={self.labels} takes one folder as data.root, not several."
            )
        if self.labels == "auto" and has_plain_masks(self.roots[0], self.path_names):
            return None
        found = find_annotations(self.roots[0], self.labels)
        if found is None:
            return None
        drawn = choose_masks(*found, self.mode, self.instances, self._class_names)
        problems += drawn.problems
        return drawn

    def _list_pairs(self, problems: list[str], notes: list[str]) -> list[Pair]:
        layouts: list[tuple[str, Layout]] = []
        if self.pairs is not None:
            layouts.append(("", read_pairs(self.pairs)))
        for root in self.roots:
            before = f"{root.name}/" if len(self.roots) > 1 else ""
            layouts.append((before, find_pairs(root, self.path_names)))
        for _, layout in layouts:
            problems += layout.problems
            notes += layout.notes
        return [
            pair._replace(name=before + pair.name)
            for before, layout in layouts
            for pair in layout.pairs
        ]

    def _divide(self, divided: Divided, rest: list[Sample], problems: list[str]) -> Divided:
        """Add the samples without a split to those that have one."""
        divided = {split: sorted(part, key=natural_key) for split, part in divided.items()}
        if not rest:
            if self.split == "lists" and any(divided.values()):
                problems.append("data.split=lists is not used: the data are already divided")
            return divided
        val, test = self.fractions
        if self.split == "lists":
            parts = split_by_lists(rest, self.lists, problems)
        elif self.split == "tiles":
            shares = Shares(val, 0 if divided["test"] else test, self.seed)
            parts = self._divide_images(rest, shares, problems)
        else:
            seed = self.seed if self.split == "random" else None
            parts = split_by_ratio(rest, val, 0 if divided["test"] else test, seed)
        return {split: divided[split] + parts[split] for split in SPLITS}

    def _divide_images(self, whole: list[Sample], shares: Shares, problems: list[str]) -> Divided:
        """Divide images into blocks."""
        samples, sizes = list[Sample](), list[tuple[int, int]]()
        for sample in whole:
            try:
                size = own = self._read_size(sample)
                if sample.mask is not None and not self.resize_masks:
                    with ImageReader(sample.mask, self.upright) as reader:
                        page = self._choose_pages(sample, len(reader))[0]
                        own = reader.read_size(page)
            except SegkitError as error:
                problems.append(str(error).rstrip("."))
                continue
            if own == size:
                samples.append(sample)
                sizes.append(size)
                continue
            problems.append(
                f"{sample.name}: the image has {size[0]} x {size[1]} pixels (height x width), its"
                f" mask {own[0]} x {own[1]}: both must have the same size (data.resize_masks=true"
                " resizes masks)"
            )
        return divide_samples(samples, sizes, self.tile_size, shares, problems)

    def _list_pages(self, pair: Pair, problems: list[str]) -> list[Sample]:
        """One sample, or one for each page of a stack."""
        name, image, mask, _ = pair
        pages, mask_pages = 1, 1
        try:
            with_pages = may_have_pages(image), may_have_pages(mask)
            with ExitStack() as stack:
                readers = [
                    stack.enter_context(ImageReader(file, self.upright)) if may else None
                    for file, may in zip((image, mask), with_pages, strict=True)
                ]
                for reader, side in zip(readers, ("images", "masks"), strict=True):
                    if reader is not None:
                        self._note_guess(reader, side)
                pages, mask_pages = (len(reader) if reader else 1 for reader in readers)
                if readers[0] and readers[1] and pages and mask_pages:
                    ways = readers[0].directions, readers[1].directions
                    if all(ways) and ways[0] != ways[1]:
                        self._realigned.setdefault(ways, []).append(name)
                    shift = self._measure_shift(readers[0], readers[1])
                    if shift >= FARTHEST:
                        apart = "in other coordinate systems"
                        if math.isfinite(shift):
                            apart = f"up to {shift:.3g} pixels apart"
                        problems.append(
                            f"{name} and its mask {mask} lie at different places by their headers,"
                            f" {apart}: write the mask on the grid of the image, with the same"
                            " affine or georeferencing"
                        )
                        return []
        except SegkitError:  # the check reports all files that cannot be read
            return [Sample(name, image, mask)]
        if pages == 1 and (mask_pages == 1 or self.layers):
            return [Sample(name, image, mask)]
        if pages != mask_pages:
            problems.append(
                f"{name} has {pages} page(s), but its mask {mask} has {mask_pages}: write both with"
                " as many, a page for each slice"
            )
            return []
        return [Sample(f"{name}#{page:04d}", image, mask, page) for page in range(pages)]

    def _note_guess(self, reader: ImageReader, side: str) -> None:
        """Keep for the notes how the axes of a file are read that does not name them."""
        if reader.guess is not None:
            axes, shape = reader.guess
            first = f"{Path(str(reader.file)).name} is {shape}"
            count, first = self._guesses.get((side, axes), (0, first))
            self._guesses[side, axes] = count + 1, first

    def _measure_shift(self, image: ImageReader, mask: ImageReader) -> float:
        """How many pixels image and mask lie apart, as far as both files say so."""
        shifts = [0.0]
        for page in {0, min(len(image), len(mask)) - 1}:
            places = image.read_place(page), mask.read_place(page)
            sizes = image.read_size(page), mask.read_size(page)
            if places[0] and places[1] and (sizes[0] == sizes[1] or self.resize_masks):
                shifts.append(find_shift((places[0], places[1]), sizes) or 0.0)
        return max(shifts)


class _Found(NamedTuple):
    """The samples by split, what is wrong with files, and what the user should know."""

    divided: Divided
    problems: list[str]
    notes: list[str]
    palettes: Palettes
    drawn: AnnotatedMasks | None
    divided_by: DividedBy


def _cut(array: NDArray[Any], window: Block) -> NDArray[Any]:
    """A copy of a part, so that the whole can be forgotten."""
    top, left, height, width = window
    return array[top : top + height, left : left + width].copy()
