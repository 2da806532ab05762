"""The user's own images and masks, in folders or in a table of pairs, as a data source."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.data.sources.base import SPLITS, DataSource, Sample, Split
from segkit.data.sources.pairing import Layout, pair_folders, pair_table
from segkit.data.sources.splitting import Divided, by_lists, by_ratio, natural
from segkit.images.channels import convert_channels
from segkit.images.reading import count_pages, read_image, read_mask

Fraction = Annotated[float, Field(ge=0, lt=1)]
Color = tuple[
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
]


class FolderSource(DataSource, name="folder"):
    """Images and masks as files.

    ``root`` holds the folders ``images`` and ``masks``, whose files belong together by their names
    without the ending, also in sub-folders; or the folders ``train``, ``val`` and ``test``, each
    with ``images`` and ``masks``. Or ``pairs`` names a CSV file with the columns ``image`` and
    ``mask``, and perhaps ``split``, of paths relative to the file. Where only the validation
    samples are not told, they are taken from those of the training.

    A multi-page TIFF is a stack of as many samples, its mask has as many pages. With a multilabel
    head the mask of a single image may have a page for each class instead.

    Args:
        mode: The head's mode.
        root: The folder.
        pairs: A CSV file instead of a folder.
        images: Name of the images' folder.
        masks: Name of the masks' folder.
        mask_suffix: What the name of a mask has after the name of its image, such as "_mask".
        split: How samples come into the splits where folders or the table do not say it: "random"
            draws them with the seed, "blocks" takes the last of the sorted names (for stacks and
            sequences, whose neighbours are alike), "lists" reads ``val_list`` and ``test_list``.
        val_fraction: Share of the validation samples.
        test_fraction: Share of the test samples.
        val_list: A text file with the names of the validation samples, one a line; the rest trains.
        test_list: The same for the test samples.
        seed: Seed of the random split.
        channels: "auto" takes the images as they are; 1 or 3 makes all of them grey or RGB.
        instances: Whether the masks hold ids of objects rather than classes.
        label_map: Labels of mask values that do not mean themselves; 255 is the label of pixels to
            ignore.
        class_names: Names of the classes in the order of the labels.
        class_colors: RGB colours of the classes.
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
        label_map: dict[int, Annotated[int, Field(ge=0, le=255)]] | None = None,
        class_names: tuple[str, ...] | None = None,
        class_colors: tuple[Color, ...] | None = None,
    ) -> None:
        if (root is None) == (pairs is None):
            raise SegkitError(
                "where the data are must be said: either data.root=DIR, the folder with images/ and"
                " masks/, or data.pairs=FILE.csv."
            )
        if split == "lists" and val_list is None:
            raise SegkitError(
                "data.split=lists needs data.val_list=FILE, one sample's name a line."
            )
        if split != "lists" and (val_list or test_list):
            raise SegkitError(
                f"data.val_list and data.test_list are not read with data.split={split}: use"
                " data.split=lists."
            )
        if images == masks and not mask_suffix:
            raise SegkitError(
                f"data.images and data.masks are both '{images}': tell the masks apart with"
                " data.mask_suffix=_mask or the like."
            )
        self.root, self.pairs, self.channels = root, pairs, channels
        self.layout = Layout(images, masks, mask_suffix, layers=mode == "multilabel")
        self.split, self.seed = split, seed
        self.fractions = val_fraction, test_fraction
        self.lists: dict[Split, Path] = {}
        if val_list is not None:
            self.lists["val"] = val_list
        if test_list is not None:
            self.lists["test"] = test_list
        self.instances = instances
        self.label_map = label_map
        self.class_names, self.class_colors = class_names, class_colors

    def splits(self) -> dict[Split, list[Sample]]:
        """The samples by split; those that :meth:`problems` names are left out.

        Raises:
            SegkitError: The folders, the table or the lists are not there or cannot be read.
        """
        return self._listed[0]

    def problems(self) -> list[str]:
        """Images without a mask, masks without an image, names in lists that nothing has ..."""
        return self._listed[1]

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C) as stored, or with the ``channels`` that were asked for."""
        assert sample.image is not None
        image = read_image(sample.image, sample.page)
        if self.channels == "auto":
            return image
        try:
            return convert_channels(image, self.channels)
        except SegkitError as error:
            raise SegkitError(f"{sample.image}: {error}") from error

    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W) integers, or (H, W, N), as stored."""
        assert sample.mask is not None
        if self.layout.layers and sample.page is None:
            pages = count_pages(sample.mask)
            if pages > 1:
                return np.stack([read_mask(sample.mask, page) for page in range(pages)], axis=2)
        return read_mask(sample.mask, sample.page)

    @cached_property
    def _listed(self) -> tuple[Divided, list[str]]:
        if self.pairs is not None:
            found = pair_table(self.pairs, self.layout)
        else:
            assert self.root is not None
            found = pair_folders(self.root, self.layout)
        divided: Divided = {
            split: sorted(found.given.get(split, []), key=natural) for split in SPLITS
        }
        problems = list(found.problems)
        if not found.rest:
            if self.split == "lists" and any(divided.values()):
                problems.append("data.split=lists is not used: the splits are given already")
            return divided, problems
        if self.split == "lists":
            rest, unsplit = by_lists(found.rest, self.lists)
            problems += unsplit
        else:
            val, test = self.fractions
            seed = self.seed if self.split == "random" else None
            rest = by_ratio(found.rest, val, 0 if divided["test"] else test, seed)
        return {split: divided[split] + rest[split] for split in SPLITS}, problems
