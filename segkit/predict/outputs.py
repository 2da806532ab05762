"""What is written for an image, and in which order: the mask last, so that it means finished.

| | |
|---|---|
| ``NAME.png`` | the mask; ``.tif`` for several pages, or for classes that overlap |
| ``overlays/NAME.png`` | the image with the mask over it |
| ``instances/NAME.png`` | ids of objects, 16 bit where they need it; ``.tif`` above 65535 |
| ``probabilities/NAME.tif`` | 16 bit, a page for each channel: the value / 65535 |
| ``polygons/NAME.geojson`` | outlines |
| ``coco.json`` | outlines of all images |

Of a file of several pages, all but the mask are in a folder NAME, a file for each page. For images
that go by windows see :mod:`segkit.predict.large`. What is written is noted in the record first,
and what an earlier run wrote of an image is removed before the image is done anew.
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
from segkit.images.reading import write_image, write_mask
from segkit.inference.predictor import Prediction
from segkit.predict.coco_file import CocoFile
from segkit.predict.inputs import ImageFile
from segkit.predict.masks import mask_values
from segkit.predict.polygons import categories, coco_image, geojson, outlines
from segkit.predict.record import Record
from segkit.predict.removing import remove, remove_empty
from segkit.predict.stacks import StackFile
from segkit.report.overlay import flatten_labels, make_legend, overlay, palette

ENDINGS = (".png", ".tif", ".zarr")
"""Of masks."""
FULL = 65535
"""What a probability of 1 is written as."""


class Page(NamedTuple):
    """A page of an image file, read.

    Attributes:
        file: The file.
        number: Which page it is, from 0.
        total: How many the file has.
        image: (H, W, C) as stored.
    """

    file: ImageFile
    number: int
    total: int
    image: NDArray[Any]


class Outputs:
    """The files of an output folder; threads may share it.

    Args:
        record: Of the folder.
        wanted: What is written.
        card: Of the model.
        with_objects: Whether the model tells objects apart.
        overwrite: Whether files that are not of this command may be written over.

    Raises:
        SegkitError: The file of all images is there and is not of this command.
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
        self.known = categories(card, with_objects)
        self.coco = None
        if wanted.polygons == "coco":
            self.coco = CocoFile(record, self.known, overwrite)
        self._written = {self.folder / name for name in wanted.folders(with_objects)}
        if self.coco is not None:
            self._written.add(self.coco.folder)
        self._emptied: set[Path] = set()
        self._stacks: dict[Path, StackFile] = {}
        self._lock = threading.RLock()

    def write(self, page: Page, result: Prediction) -> bool:
        """Write what belongs to a page; say whether its file is finished with it.

        Raises:
            SegkitError: Something cannot be written.
        """
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
        """The mask of a file of several pages, begun if it is not yet.

        Raises:
            SegkitError: What an earlier run wrote cannot be removed.
        """
        with self._lock:
            if file.stem not in self._stacks:
                path = self.path(file.stem, ".tif")
                self.clear(file, path)
                self._stacks[file.stem] = StackFile(path, pages)
            return self._stacks[file.stem]

    def finish_stack(self, file: ImageFile, stack: StackFile) -> None:
        """Let the mask of a file of several pages appear, of which all are written.

        Raises:
            SegkitError: It cannot be written.
        """
        self.record.finish(file, stack.path)
        stack.finish()
        self.drop(file)

    def mask(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Labels in the values that masks are written in."""
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
        """Write an image (H, W, C) with its objects or classes over it.

        Raises:
            SegkitError: It cannot be written.
        """
        shown = flatten_labels(labels, self.card.mode)
        _, colors, background = make_legend(self.card)
        if instances is not None:
            shown = instances
            colors, background = tuple(palette(int(shown.max()) + 1)), 0
        picture = overlay(image, shown, colors, background=background, ignore_index=-1)
        write_image(path, picture)

    def clear(self, file: ImageFile, mask: Path) -> None:
        """Remove what earlier runs wrote of an image, and what is in the place of its mask.

        Either mask would say that the image is finished.

        Raises:
            SegkitError: Something cannot be removed.
        """
        known = self.record.files(file)
        for path in dict.fromkeys([mask, *known]):
            remove(path)
        CocoFile.forget(self.record, known)
        self.record.forget(file)
        extras = set(known).difference(self.record.masks(file.stem))
        with self._lock:
            self._emptied |= {
                path.parent for path in extras if self._written.isdisjoint(path.parents)
            }

    def drop(self, file: ImageFile) -> None:
        """Remove what is begun of a file."""
        with self._lock:
            stack = self._stacks.pop(file.stem, None)
        if stack is not None:
            stack.drop()

    def drop_all(self) -> None:
        """Remove what is begun and was not finished."""
        for stem in list(self._stacks):
            self.drop(ImageFile(stem, stem))

    def finish(self) -> None:
        """Write what belongs to all images together.

        Raises:
            SegkitError: It cannot be written.
        """
        if self.coco is not None:
            self.coco.merge()
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
        found = outlines(result.labels, result.instances, self.card)
        if self.coco is None:
            write_whole(places["polygons"], geojson(found, self.known))
        else:
            number = page.number if page.total > 1 else None
            name = page.file.stem.with_name(page.file.path.name).as_posix()
            size = result.labels.shape[-2:]
            self.coco.add(page.file, number, coco_image(found, name, size, number))

    def _places(self, page: Page, result: Prediction) -> dict[str, Path]:
        """What is written besides the mask of a page, and where to."""
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
            places["coco"] = self.coco.place(page.file, page.number if several else None)
        return places

    def path(self, stem: Path, ending: str) -> Path:
        """The file of an image in the output folder, or in one below it."""
        return self.folder / stem.with_name(stem.name + ending)


def page_stem(file: ImageFile, number: int) -> Path:
    """Where what belongs to a page of a file of several pages goes, without the ending."""
    return file.stem / f"{number:04d}"


def to_16_bits(probabilities: NDArray[Any]) -> NDArray[np.uint16]:
    """Probabilities as they are written, with an error of 1 / 131070 at most."""
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
