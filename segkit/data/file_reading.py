"""The images and masks of a data set of files, read whole or by windows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import join_names
from segkit.data.labels.masks import AnnotatedMasks
from segkit.data.layout.blocks import Block, take_whole
from segkit.data.listing import Rules
from segkit.data.mask_files import TRANSPARENT, UNLABELLED, MaskDecoder, fit_size
from segkit.data.open_images import OpenImages, WholeImages
from segkit.data.sources.base import Large, Sample
from segkit.images.paths import list_parts
from segkit.images.raster import Raster, convert_channels, is_opaque, require_room
from segkit.images.reading import ImageReader, count_pages, render, wrap_errors
from segkit.images.windows import WindowedImage

LARGE = 256 * 2**20
"""Bytes of a decoded image above which only the parts that are needed are read."""
MOST_PACKED = 256
"""How much smaller the file of a large image may be; smaller ones need not be opened for this."""


@dataclass
class Seen:
    """What was met in files that were read.

    Attributes:
        turned: Names of samples whose image is turned by its EXIF orientation, and the mask not.
        with_alpha: Names of samples whose image has an alpha channel that hides pixels.
        stored_channels: Numbers of channels of images.
        nodata: Values of pixels without data in masks.
        hidden: What masks have where they are transparent or have no data.
    """

    turned: set[str] = field(default_factory=set)
    with_alpha: set[str] = field(default_factory=set)
    stored_channels: set[int] = field(default_factory=set)
    nodata: set[float] = field(default_factory=set)
    hidden: set[int] = field(default_factory=set)

    def describe(self, instances: bool) -> list[str]:
        """Notes for the user."""
        notes = []
        if self.turned:
            notes.append(
                f"{len(self.turned)} images are turned by their EXIF orientation, their masks are"
                f" not: {join_names(sorted(self.turned))}. If masks were drawn on the pixels as"
                " they are stored, set data.orientation=stored"
            )
        for value in sorted(self.nodata):
            if value:
                notes.append(f"masks have the nodata value {value:g}: there is no label there")
            else:
                notes.append(
                    "masks have the nodata value 0, which is read as class 0"
                    " ('data.label_map={0: 255}': not labelled)"
                )
        if UNLABELLED in self.hidden:
            notes.append("masks have pixels without data (mask, alpha, NaN): no label is there")
        if instances and TRANSPARENT in self.hidden:
            notes.append("masks are transparent in places: no object is there")
        if self.with_alpha:
            is_rgba = self.stored_channels == {4}
            notes.append(
                f"{len(self.with_alpha)} images have an alpha channel, which is left out; their"
                " transparent pixels are ignored"
                + " (data.channels=4 keeps it as a channel)"
                * is_rgba
            )
        return notes


class FileReader:
    """Reads the files of samples. Several threads may read at once, and it can be pickled."""

    def __init__(
        self,
        rules: Rules,
        channels: Literal["auto", 1, 3, 4],
        decoder: MaskDecoder,
        drawn: AnnotatedMasks | None,
        seen: Seen,
    ) -> None:
        self._rules, self._channels, self._decoder, self._drawn = rules, channels, decoder, drawn
        self._seen = seen
        self._large = dict[Sample, Large | None]()
        self._open, self._whole = OpenImages(), {"image": WholeImages(), "mask": WholeImages()}

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C) as stored, or converted to ``channels``; masked where it has no data."""
        assert sample.image is not None
        if sample.window is None:
            with ImageReader(sample.image, self._rules.upright) as reader:
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
            self._seen.turned.add(name)
        if raster.alpha and self._channels != 4 and not is_opaque(raster.values):
            self._seen.with_alpha.add(name)
        self._seen.stored_channels.add(raster.values.shape[2])
        with wrap_errors(sample.image):
            image = render(raster, keep_alpha=self._channels == 4)
            return convert_channels(image, self._channels)

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
        if self._drawn is not None:
            with wrap_errors(sample.image or sample.name):
                return self._drawn.draw(sample.name, self._read_size(sample))
        assert sample.mask is not None
        with ImageReader(sample.mask, self._rules.upright) as reader:
            rasters = [reader.read(page) for page in self._rules.choose_pages(sample, len(reader))]
        if rasters[0].orientation != 1:
            self._seen.turned.discard(sample.name)
        mask = self._decode(sample, rasters)
        if self._rules.resize_masks:
            mask = fit_size(mask, self._read_size(sample))
        return mask

    def _read_size(self, sample: Sample) -> tuple[int, int]:
        """Height and width of an image, whose mask is to be made as large."""
        assert sample.image is not None
        size = self._rules.read_size(sample)
        if self.measure_large(sample) is None:
            with wrap_errors(sample.image):
                require_room(size)
        return size

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
            for page in self._rules.choose_pages(sample, self._count_layers(sample)):
                mask = stack.enter_context(self._open.open(sample.mask, page))
                if mask is None or not self._decoder.reads_parts(mask.kind):
                    break
                if self._rules.resize_masks and mask.shape[:2] != self._rules.read_size(sample):
                    break
                masks.append(mask)
            else:
                yield masks
                return
            yield None

    def _count_layers(self, sample: Sample) -> int:
        """The pages of a mask that may be its layers."""
        assert sample.mask is not None
        return count_pages(sample.mask) if self._rules.layers and sample.page is None else 1

    def _decode(self, sample: Sample, rasters: list[Raster]) -> NDArray[np.integer[Any]]:
        assert sample.mask is not None
        if rasters[0].nodata is not None:
            self._seen.nodata.add(rasters[0].nodata)
        with wrap_errors(sample.mask):
            masks = [self._decoder.read(raster) for raster in rasters]
        first = rasters[0]
        if first.alpha or first.missing is not None or first.values.dtype.kind == "f":
            self._seen.hidden |= {v for v in (UNLABELLED, TRANSPARENT) if (masks[0] == v).any()}
        return masks[0] if len(masks) == 1 else np.stack(masks, axis=2)

    def measure_large(self, sample: Sample) -> Large | None:
        """Large are images of more than LARGE bytes whose files can be read by windows."""
        if sample not in self._large:
            self._large[sample] = self._measure_large(sample)
        return self._large[sample]

    def _measure_large(self, sample: Sample) -> Large | None:
        file = sample.image
        if file is None:
            return None
        parts = list_parts(file)
        sizes = [part.stat().st_size for part in parts if part.is_file()]
        if len(sizes) == len(parts) and sum(sizes) * MOST_PACKED < LARGE:
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


def _cut(array: NDArray[Any], window: Block) -> NDArray[Any]:
    """A copy of a part, so that the whole can be forgotten."""
    top, left, height, width = window
    return array[top : top + height, left : left + width].copy()
