"""The files written for an image. The mask comes last: it marks the image as finished.

| file | content |
|---|---|
| ``NAME.png`` | the mask; ``.tif`` for several pages, overlapping classes, or a known place of
  the pixels, which is written too; ``.nii.gz`` for volumes |
| ``overlays/NAME.png`` | the image with the mask over it |
| ``instances/NAME.png`` | ids of objects, 8 or 16 bit; ``.tif`` above 65535; ``.nii.gz`` for
  volumes, whose ids go on from slice to slice |
| ``probabilities/NAME.tif`` | 16 bit, a page per channel: the value / 65535; ``.nii.gz`` of float32
  for volumes, with the channels as last axis |
| ``polygons/NAME.geojson`` | outlines |
| ``coco.json`` | outlines of all images |

For a file of several pages, all but the mask and the maps of volumes are in a folder NAME, a file
per page. For images that are predicted window by window see :mod:`segkit.predict.large`. Files are
recorded before they are written, and those of an earlier run are removed before an image is redone.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.values import find_empty
from segkit.config.settings import PredictSettings
from segkit.core.files import write_whole
from segkit.core.labels import IGNORE_INDEX
from segkit.images.paths import split_channels
from segkit.images.place import Place, to_tiff_options
from segkit.images.windows import WindowedImage
from segkit.images.writing import write_image, write_mask
from segkit.inference.masks import choose_suffix, make_mask
from segkit.inference.predictor import Prediction
from segkit.predict.inputs import ImageFile, Page
from segkit.predict.polygons import (
    CocoFile,
    Outline,
    find_outlines,
    list_categories,
    to_coco_image,
    to_geojson,
)
from segkit.predict.record import Record, remove, remove_empty
from segkit.predict.stacks import StackFile, VolumeFile
from segkit.report.overlay import draw_overlay, make_class_layer, make_object_layer

FULL = 65535
"""The value of a probability of 1."""


class Outputs:
    """Writes the files of an output folder, from any thread. A failed write is a SegkitError."""

    def __init__(
        self, record: Record, wanted: PredictSettings, card: ModelCard, with_objects: bool
    ) -> None:
        self.record, self.wanted, self.card = record, wanted, card
        self.categories = list_categories(card, with_objects)
        self.coco = None
        self._written = {record.output / name for name in wanted.folders(with_objects)}
        if wanted.polygons == "coco":
            self.coco = CocoFile(record, self.categories, wanted.overwrite)
            self._written.add(self.coco.folder)
        self._emptied: set[Path] = set()
        self._stacks: dict[Path, StackFile | VolumeFile] = {}
        self._lock = threading.RLock()

    def write(self, page: Page, result: Prediction) -> bool:
        """Write all files of a page. Return whether its file is finished."""
        colored = self.card.has_colored_masks and self.wanted.values == "training"
        colored = colored and page.total == 1 and page.maps is None
        mask = self.make_mask(result.labels, colored)
        if page.total > 1 or page.maps is not None:
            stack = self.open_stack(page)
            self._write_extras(page, result, stack)
            finished = stack.add(page.number, mask, self.place_options(page))
            if finished:
                self.finish_stack(page.file, stack)
            return finished
        path = self.find_path(page.stem, ".tif" if page.place else choose_suffix(mask, colored))
        self.clear(page.file, path)
        self._write_extras(page, result)
        self.record.finish(page.file, path)
        write_mask(path, mask, colored, page.place, self.find_nodata(page))
        return True

    def find_nodata(self, page: Page) -> int | None:
        """The mask value of pixels without data, if the image can have any."""
        if isinstance(page.image, WindowedImage):
            may_lack_data = page.image.may_lack_data
        else:
            has_value = page.place is not None and page.place.nodata is not None
            may_lack_data = has_value or find_empty(page.image) is not None
        if self.card.mode == "multilabel" or not may_lack_data:
            return None
        return IGNORE_INDEX if self.wanted.values == "ids" else self.card.unlabelled_value

    def place_options(self, page: Page) -> dict[str, Any]:
        """The arguments of tifffile that state where the pixels of a mask lie."""
        return to_tiff_options(page.place, self.find_nodata(page))

    def open_stack(self, page: Page) -> StackFile | VolumeFile:
        """Return the mask of the file of a page; it is created at the first call."""
        file, kind = page.file, page.maps
        with self._lock:
            if file.stem not in self._stacks:
                path = self.find_path(file.stem, kind.maps_suffix if kind else ".tif")
                self.clear(file, path)
                self._stacks[file.stem] = (
                    VolumeFile(path, page.total, split_channels(file.path)[0], kind)
                    if kind
                    else StackFile(path, page.total)
                )
            return self._stacks[file.stem]

    def finish_stack(self, file: ImageFile, stack: StackFile | VolumeFile) -> None:
        """Publish the mask of a multi-page file once all pages are written."""
        if isinstance(stack, VolumeFile):
            self.record.begin(file, stack.extras)
            stack.write_extras()
        self.record.finish(file, stack.path)
        stack.finish()
        self.drop(file)

    def make_mask(self, labels: NDArray[Any], colored: bool = False) -> NDArray[Any]:
        """Convert labels to the values that masks are written in; colours only if ``colored``."""
        if self.wanted.values == "ids" or (self.card.has_colored_masks and not colored):
            return labels
        return make_mask(labels, self.card)

    def write_overlay(
        self,
        path: Path,
        image: NDArray[Any],
        labels: NDArray[Any],
        ids: NDArray[Any] | None = None,
        place: Place | None = None,
    ) -> None:
        """Write an image (H, W, C) with its objects or classes over it."""
        layer = make_class_layer(labels, self.card) if ids is None else make_object_layer(ids)
        write_image(path, draw_overlay(image, layer), place)

    def clear(self, file: ImageFile, mask: Path) -> None:
        """Remove the files of earlier runs for an image, and any file in place of its mask.

        Either mask would mark the image as finished.
        """
        known = self.record.list_files(file)
        for path in dict.fromkeys([mask, *known]):
            remove(path)
        CocoFile.remove_outdated(self.record, known)
        self.record.forget(file)
        extras = set(known).difference(self.record.list_masks(file.stem))
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
        remove_empty(self._emptied, self.record.output)

    def find_path(self, stem: Path, suffix: str) -> Path:
        """Find the file of an image in the output folder, or in one below it."""
        return self.record.output / stem.with_name(stem.name + suffix)

    def _write_extras(
        self, page: Page, result: Prediction, stack: StackFile | VolumeFile | None = None
    ) -> None:
        """Write the files of a page besides its mask; a volume keeps its maps until the end."""
        labels, ids, wanted = result.labels, result.instances, self.wanted
        extras: dict[Path, Callable[[Path], None]] = {}
        if wanted.overlays:
            path = self.find_path("overlays" / page.stem, choose_overlay_suffix(page.place))
            extras[path] = lambda path: self.write_overlay(
                path, page.image, labels, ids, page.place
            )
        if isinstance(stack, VolumeFile):
            self._keep_maps(page, result, stack)
        elif ids is not None:
            suffix = ".tif" if page.place else choose_suffix(ids)
            path = self.find_path("instances" / page.stem, suffix)
            extras[path] = lambda path: write_mask(path, ids, place=page.place)
        if wanted.probabilities and not isinstance(stack, VolumeFile):
            path = self.find_path("probabilities" / page.stem, ".tif")
            extras[path] = lambda path: _write_probabilities(
                path, result.probabilities, page.place, find_empty(page.image)
            )
        if wanted.polygons is not None:
            found = find_outlines(labels, ids, self.card)
            if self.coco is not None:
                text = json.dumps(to_coco_image(page, found))
                extras[self.coco.find_part(page)] = lambda path: write_whole(path, text)
            else:
                path = self.find_path("polygons" / page.stem, ".geojson")
                write_outlines = partial(self._write_geojson, found, page.place)
                if isinstance(stack, VolumeFile) and ids is not None:
                    stack.keep_outlines(path, page.number, write_outlines)
                else:
                    extras[path] = write_outlines
        self.record.begin(page.file, extras)
        for path, write in extras.items():
            write(path)

    def _write_geojson(
        self, found: list[Outline], place: Place | None, path: Path, before: int = 0
    ) -> None:
        """Write outlines; ids go on after those of so many objects before."""
        numbered = [outline._replace(id=outline.id + before) for outline in found]
        write_whole(path, to_geojson(numbered, self.categories, place))

    def _keep_maps(self, page: Page, result: Prediction, volume: VolumeFile) -> None:
        """Keep the ids and probabilities of a page until its volume is complete."""
        ending = volume.kind.maps_suffix
        if result.instances is not None:
            path = self.find_path("instances" / page.file.stem, ending)
            volume.keep(path, page.number, result.instances, are_ids=True)
        if self.wanted.probabilities:
            path = self.find_path("probabilities" / page.file.stem, ending)
            volume.keep(path, page.number, result.probabilities)


def to_16_bits(probabilities: NDArray[Any]) -> NDArray[np.uint16]:
    """Convert probabilities to integers; the error is at most 1 / 131070."""
    return np.rint(probabilities * FULL).astype(np.uint16)


def _write_probabilities(
    path: Path,
    probabilities: NDArray[Any],
    place: Place | None,
    empty: NDArray[np.bool_] | None,
) -> None:
    values, nodata = to_16_bits(probabilities), None
    if place is not None and place.tags and empty is not None:
        values, nodata = np.minimum(values, FULL - 1), FULL
        values[:, empty] = FULL
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        values,
        photometric="minisblack",
        compression="zlib",
        compressionargs={"level": 1},
        metadata=None,
        **to_tiff_options(place, nodata),
    )
    write_whole(path, buffer.getvalue())


def choose_overlay_suffix(place: Place | None) -> str:
    """Choose TIFF for what is georeferenced, and PNG for all else."""
    return ".tif" if place is not None and place.tags else ".png"
