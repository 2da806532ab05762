"""The files written for an image. The mask comes last: it marks the image as finished.

| file | content |
|---|---|
| ``NAME.png`` | the mask; ``.tif`` for several pages, or for overlapping classes |
| ``overlays/NAME.png`` | the image with the mask over it |
| ``instances/NAME.png`` | ids of objects, 8 or 16 bit; ``.tif`` above 65535 |
| ``probabilities/NAME.tif`` | 16 bit, a page per channel: the value / 65535 |
| ``polygons/NAME.geojson`` | outlines |
| ``coco.json`` | outlines of all images |

For a file of several pages, all but the mask are in a folder NAME, a file per page. For images that
are predicted window by window see :mod:`segkit.predict.large`. Files are recorded before they are
written, and those of an earlier run are removed before an image is redone.
"""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.config.settings import OutputOptions
from segkit.core.files import write_whole
from segkit.images.writing import write_image, write_mask
from segkit.inference.predictor import Prediction
from segkit.predict.inputs import ImageFile
from segkit.predict.masks import mask_values
from segkit.predict.polygons import (
    CocoFile,
    find_outlines,
    list_categories,
    to_coco_image,
    to_geojson,
)
from segkit.predict.record import Record, remove, remove_empty
from segkit.predict.stacks import StackFile
from segkit.report.colors import palette
from segkit.report.overlay import flatten_labels, make_legend, overlay

ENDINGS = (".png", ".tif", ".zarr")
"""Suffixes of masks."""
FULL = 65535
"""The value of a probability of 1."""


class Page(NamedTuple):
    """A page of an image file: its number from 0, the number of pages, its pixels (H, W, C)."""

    file: ImageFile
    number: int
    total: int
    image: NDArray[Any]


class Outputs:
    """Writes the files of an output folder; threads may share it. A failed write is a SegkitError.

    ``overwrite`` allows to replace a coco.json that this command did not write.
    """

    def __init__(
        self,
        record: Record,
        wanted: OutputOptions,
        card: ModelCard,
        with_objects: bool,
        overwrite: bool = False,
    ) -> None:
        self.record, self.wanted, self.card = record, wanted, card
        self.folder = record.output
        self.categories = list_categories(card, with_objects)
        self.coco = None
        if wanted.polygons == "coco":
            self.coco = CocoFile(record, self.categories, overwrite)
        self._written = {self.folder / name for name in wanted.folders(with_objects)}
        if self.coco is not None:
            self._written.add(self.coco.folder)
        self._emptied: set[Path] = set()
        self._stacks: dict[Path, StackFile] = {}
        self._lock = threading.RLock()

    def write(self, page: Page, result: Prediction) -> bool:
        """Write all files of a page. Return whether its file is finished."""
        mask = self.mask(result.labels)
        if page.total > 1:
            stack = self.stack(page.file, page.total)
            self._write_extras(page, result)
            finished = stack.add(page.number, mask)
            if finished:
                self.finish_stack(page.file, stack)
            return finished
        path = self.path(page.file.stem, ".png" if mask.ndim == 2 else ".tif")
        self.clear(page.file, path)
        self._write_extras(page, result)
        self.record.finish(page.file, path)
        write_mask(path, mask)
        return True

    def stack(self, file: ImageFile, pages: int) -> StackFile:
        """The mask of a multi-page file; created at the first call."""
        with self._lock:
            if file.stem not in self._stacks:
                path = self.path(file.stem, ".tif")
                self.clear(file, path)
                self._stacks[file.stem] = StackFile(path, pages)
            return self._stacks[file.stem]

    def finish_stack(self, file: ImageFile, stack: StackFile) -> None:
        """Publish the mask of a multi-page file once all pages are written."""
        self.record.finish(file, stack.path)
        stack.finish()
        self.drop(file)

    def mask(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Labels as the values that masks are written in."""
        if self.wanted.values == "ids":
            return labels
        return mask_values(labels, self.card.mode, self.card)

    def write_overlay(
        self,
        path: Path,
        image: NDArray[Any],
        labels: NDArray[Any],
        instances: NDArray[Any] | None = None,
    ) -> None:
        """Write an image (H, W, C) with its objects or classes over it."""
        shown = flatten_labels(labels, self.card.mode)
        _, colors, background = make_legend(self.card)
        if instances is not None:
            shown = instances
            colors, background = tuple(palette(int(shown.max()) + 1)), 0
        picture = overlay(image, shown, colors, background=background, ignore_index=-1)
        write_image(path, picture)

    def clear(self, file: ImageFile, mask: Path) -> None:
        """Remove the files of earlier runs for an image, and any file in place of its mask.

        Either mask would mark the image as finished.
        """
        known = self.record.files(file)
        for path in dict.fromkeys([mask, *known]):
            remove(path)
        CocoFile.remove_outdated(self.record, known)
        self.record.forget(file)
        extras = set(known).difference(self.record.masks(file.stem))
        with self._lock:
            self._emptied |= {
                path.parent for path in extras if self._written.isdisjoint(path.parents)
            }

    def drop(self, file: ImageFile) -> None:
        """Remove the unfinished mask of a multi-page file."""
        with self._lock:
            stack = self._stacks.pop(file.stem, None)
        if stack is not None:
            stack.drop()

    def drop_all(self) -> None:
        """Remove all unfinished masks."""
        for stem in list(self._stacks):
            self.drop(ImageFile(stem, stem))

    def finish(self) -> None:
        """Write the files that cover all images."""
        if self.coco is not None:
            self.coco.write()
        remove_empty(self._emptied, self.folder)

    def _write_extras(self, page: Page, result: Prediction) -> None:
        places = self._places(page, result)
        self.record.begin(page.file, places.values())
        if self.wanted.overlays:
            self.write_overlay(places["overlays"], page.image, result.labels, result.instances)
        if result.instances is not None:
            write_mask(places["instances"], result.instances)
        if self.wanted.probabilities:
            write_whole(places["probabilities"], _tiff(to_16_bits(result.probabilities)))
        if self.wanted.polygons is None:
            return
        found = find_outlines(result.labels, result.instances, self.card)
        if self.coco is None:
            write_whole(places["polygons"], to_geojson(found, self.categories))
        else:
            number = page.number if page.total > 1 else None
            name = page.file.stem.with_name(page.file.path.name).as_posix()
            size = result.labels.shape[-2:]
            self.coco.add(page.file, number, to_coco_image(found, name, size, number))

    def _places(self, page: Page, result: Prediction) -> dict[str, Path]:
        """The files of a page besides its mask, by folder."""
        several, ids = page.total > 1, result.instances
        stem = page_stem(page.file, page.number) if several else page.file.stem
        places = {}
        if self.wanted.overlays:
            places["overlays"] = self.path("overlays" / stem, ".png")
        if ids is not None:
            ending = ".png" if ids.max(initial=0) <= FULL else ".tif"
            places["instances"] = self.path("instances" / stem, ending)
        if self.wanted.probabilities:
            places["probabilities"] = self.path("probabilities" / stem, ".tif")
        if self.wanted.polygons == "geojson":
            places["polygons"] = self.path("polygons" / stem, ".geojson")
        elif self.coco is not None:
            places["coco"] = self.coco.part(page.file, page.number if several else None)
        return places

    def path(self, stem: Path, ending: str) -> Path:
        """The file of an image in the output folder, or in one below it."""
        return self.folder / stem.with_name(stem.name + ending)


def page_stem(file: ImageFile, number: int) -> Path:
    """The path of the files of a page, without the suffix."""
    return file.stem / f"{number:04d}"


def to_16_bits(probabilities: NDArray[Any]) -> NDArray[np.uint16]:
    """Probabilities as integers; the error is at most 1 / 131070."""
    return np.rint(probabilities * FULL).astype(np.uint16)


def _tiff(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        values,
        photometric="minisblack",
        compression="zlib",
        compressionargs={"level": 1},
        metadata=None,
    )
    return buffer.getvalue()
