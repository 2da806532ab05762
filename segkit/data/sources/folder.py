"""The user's own images, and masks as files or as annotations of other programs."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from segkit.core.errors import SegkitError, did_you_mean
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.data.file_reading import FileReader, Seen
from segkit.data.labels.base import Color, LabelFormat
from segkit.data.labels.masks import AnnotatedMasks
from segkit.data.layout.pairs import Names
from segkit.data.layout.splits import Fraction
from segkit.data.listing import DividedBy, Found, Rules, list_samples
from segkit.data.mask_files import (
    TRANSPARENT,
    UNLABELLED,
    MaskDecoder,
    describe_palettes,
    describe_rounding,
    list_known_values,
)
from segkit.data.sources.base import Byte, DataSource, Large, Sample, Split

Roots = Annotated[
    tuple[Path, ...], BeforeValidator(lambda v: [v] if isinstance(v, str | Path) else v)
]
Channels = Annotated[
    tuple[Annotated[str, Field(coerce_numbers_to_str=True)], ...],
    BeforeValidator(lambda v: [v] if isinstance(v, str) else v),
    Field(min_length=1),
]


class FolderSource(DataSource, name="folder"):
    """Images, and masks as files (paired by name, by patterns or by a table) or as annotations.

    A multi-page file is a stack with one sample per page; its mask has as many pages. With a
    multilabel head the mask of a single image may have one page per class instead.

    Args:
        mode: The head's mode.
        root: The folder with ``images`` and ``masks``, whose files are paired by name without the
            extension, including sub-folders; other layouts are found by words in names. Folders
            ``train``, ``val`` and ``test`` above them, inside them or in their place divide the
            samples; if only ``val`` is missing, it is taken from ``train``, and a ``test`` or
            ``val`` without masks is left out. Several folders, as [A,B], are one data set.
        pairs: Instead of root: a CSV file (separated by comma, semicolon or tab) with the columns
            ``image``, ``mask`` and optionally ``split``; paths are relative to the file. A column
            of another name that holds only train, val and test divides too, and so do folders.
        labels: What describes the objects: "masks", one file of labels for each image; the name of
            a format of annotations, such as "coco"; or "auto", which finds out.
        images: Name of the image folder.
        masks: Name of the mask folder.
        mask_suffix: What follows the image's name in the name of its mask, such as "_mask".
        image_pattern: Paths of images below root, such as "{id}/image.tif"; {split} may stand for a
            folder of a split, * for anything, which belongs to the ID where files have the same
            one, and {channel} for the channels that lie in files of their own:
            "{id}_{channel}.tif". Folders of splits divide without {split}, too.
        mask_pattern: Paths of masks likewise, such as "{id}/mask.png".
        channel_files: Names of channels that lie in files of their own, in the order of the image,
            such as [red,green,blue,nir]: a word in the names of files, or of their folders. null:
            those of nnU-Net's files (case_0000, case_0001) and of {channel}, sorted.
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
        channel_files: Channels | None = None,
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
        if labels not in (known := ["auto", "masks", *LabelFormat.names()]):
            raise SegkitError(
                f"data.labels={labels} is not known.{did_you_mean(labels, known)} Known:"
                f" {', '.join(known)}."
            )
        channel_files = tuple(channel_files or ())
        if len(set(channel_files)) < len(channel_files) or any(
            not name or set(name) & set("{},/") for name in channel_files
        ):
            raise SegkitError(
                f"data.channel_files={list(channel_files)}: give each channel once, by the word in"
                " the names of its files, such as [red,green,nir]."
            )
        given: dict[Split, Path | None] = {"val": val_list, "test": test_list}
        self.rules = Rules(
            mode=mode,
            roots=tuple(map(Path, [root] if isinstance(root, str | Path) else root or ())),
            pairs=pairs,
            labels=labels,
            names=Names(images, masks, mask_suffix, image_pattern, mask_pattern, channel_files),
            split=split,
            tile_size=tile_size,
            fractions=(val_fraction, test_fraction),
            lists={name: path for name, path in given.items() if path is not None},
            seed=seed,
            upright=orientation == "exif",
            instances=instances,
            resize_masks=resize_masks,
            class_names=class_names,
            class_colors=class_colors,
        )
        self.instances, self._channels, self._label_map = instances, channels, label_map
        self.nearest = list_known_values(
            mask_values, mode, class_colors, label_map, class_names, instances
        )
        self._seen = Seen()

    @property
    def class_names(self) -> tuple[str, ...] | None:  # type: ignore[override]  # read-only here
        """The names that are given, else those of the annotations."""
        drawn = self._drawn
        return self.rules.class_names if drawn is None else drawn.class_names

    @property
    def class_colors(self) -> tuple[Color, ...] | None:  # type: ignore[override]  # likewise
        """The colours that are given, else those of the annotations."""
        drawn = self._drawn
        return self.rules.class_colors or (None if drawn is None else drawn.colors)

    @property
    def label_map(self) -> dict[int, int] | None:  # type: ignore[override]  # likewise
        """The map that is given; what annotations ignore is not labelled."""
        own = dict[int, int]()
        if self._drawn is not None:
            own[self._drawn.ignored] = IGNORE_INDEX
        elif self._seen.nodata - {0} or UNLABELLED in self._seen.hidden:
            own[UNLABELLED] = IGNORE_INDEX
        if self.instances and TRANSPARENT in self._seen.hidden:
            own[TRANSPARENT] = 0
        return {**own, **(self._label_map or {})} if own else self._label_map

    @property
    def channel_files(self) -> tuple[str, ...]:  # type: ignore[override]  # likewise
        """The channels that are given, else those that the files have."""
        return self._found.channels

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
        return [
            *self._found.notes,
            *describe_palettes(self._found.palettes),
            *describe_rounding(self._decoder),
            *self._seen.describe(self.instances),
        ]

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C) as stored, or converted to ``channels``; masked where it has no data."""
        return self._files.read_image(sample)

    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W) or (H, W, N) integers, as stored or drawn."""
        return self._files.read_mask(sample)

    def measure_large(self, sample: Sample) -> Large | None:
        """Large are images that take much memory, and whose files can be read by windows."""
        return self._files.measure_large(sample)

    @cached_property
    def _found(self) -> Found:
        return list_samples(self.rules)

    @property
    def _drawn(self) -> AnnotatedMasks | None:
        """The masks that are drawn from annotations, if there are any."""
        return None if self.rules.are_files else self._found.drawn

    @cached_property
    def _files(self) -> FileReader:
        return FileReader(self.rules, self._channels, self._decoder, self._drawn, self._seen)

    @cached_property
    def _decoder(self) -> MaskDecoder:
        return MaskDecoder(
            by_color=self._found.palettes.differ or self._decodes_palettes,
            layers=self.rules.layers and self.rules.class_colors is None,
            nearest=self.nearest,
        )

    @property
    def _decodes_palettes(self) -> bool:
        """Whether the colours of the classes are in another order than in the masks' palettes."""
        usual, colours = self._found.palettes.usual, self.rules.class_colors
        if usual is None or colours is None:
            return False
        own = [tuple(colour) for colour in usual[: len(colours)].tolist()]
        return set(own) != set(colours[: len(own)]) or own != list(colours[: len(own)])
