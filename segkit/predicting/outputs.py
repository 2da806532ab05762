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
that go by windows see :mod:`segkit.predicting.large`.
"""

from __future__ import annotations

import io
import secrets
import shutil
import threading
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from pydantic import BaseModel

from segkit.card import ModelCard
from segkit.data.reading import write_image, write_mask
from segkit.data.zarr_store import is_zarr
from segkit.errors import SegkitError
from segkit.files import write_whole
from segkit.inference.predictor import Prediction
from segkit.inference.summary import flat, legend
from segkit.predicting.coco_file import CocoFile
from segkit.predicting.inputs import ImageFile
from segkit.predicting.masks import mask_values
from segkit.predicting.polygons import categories, coco_image, geojson, outlines
from segkit.predicting.record import Record
from segkit.predicting.stacks import StackFile
from segkit.report.overlay import overlay, palette

ENDINGS = (".png", ".tif", ".zarr")
"""Of masks."""
FULL = 65535
"""What a probability of 1 is written as."""


class Wanted(BaseModel):
    """What is written besides masks, and what stands in them; see conf/predict.yaml."""

    values: Literal["training", "ids"] = "training"
    overlays: bool = True
    probabilities: bool = False
    polygons: Literal["geojson", "coco"] | None = None
    large_format: Literal["tif", "zarr"] = "tif"
    pyramid: bool = False

    def needs_whole_maps(self, with_objects: bool) -> bool:
        """Whether large images cannot go by windows, for something is found in the whole map."""
        return with_objects or self.polygons is not None

    def folders(self, with_objects: bool) -> dict[str, tuple[str, ...]]:
        """The folders that are written to besides masks, with the endings of their files."""
        written = {
            "overlays": (self.overlays, (".png",)),
            "instances": (with_objects, (".png", ".tif")),
            "probabilities": (self.probabilities, (".tif", ".zarr")),
        }
        return {folder: endings for folder, (is_on, endings) in written.items() if is_on}


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
    """

    def __init__(self, record: Record, wanted: Wanted, card: ModelCard, with_objects: bool) -> None:
        self.record, self.wanted, self.card = record, wanted, card
        self.folder = record.output
        self.known = categories(card, with_objects)
        self.coco = CocoFile(record, self.known) if wanted.polygons == "coco" else None
        self._stacks: dict[Path, StackFile] = {}
        self._lock = threading.Lock()

    def write(self, page: Page, result: Prediction) -> bool:
        """Write what belongs to a page; say whether its file is finished with it.

        Raises:
            SegkitError: Something cannot be written.
        """
        stack = self._begin(page)
        self._write_extras(page, result)
        mask = self.mask(result.labels)
        if stack is not None:
            finished = stack.add(page.number, mask)
            if finished:
                self.record.finish(page.file)
                stack.finish()
                self.drop(page.file)
            return finished
        self.record.finish(page.file)
        write_mask(self.path(page.file.stem, ".png" if mask.ndim == 2 else ".tif"), mask)
        return True

    def mask(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Labels in the values that masks are written in."""
        if self.wanted.values == "ids":
            return labels
        return mask_values(labels, self.card.mode, self.card)

    def write_overlay(
        self,
        stem: Path,
        image: NDArray[Any],
        labels: NDArray[Any],
        instances: NDArray[Any] | None = None,
    ) -> None:
        """Write an image (H, W, C) with its objects or classes over it.

        Raises:
            SegkitError: It cannot be written.
        """
        mode = self.card.mode
        shown, colors = flat(labels, mode), legend(self.card, mode)[1]
        background = self.card.background
        if instances is not None:
            shown = instances
            colors, background = tuple(palette(int(shown.max()) + 1)), 0
        picture = overlay(image, shown, colors, background=background, ignore_index=-1)
        write_image(self.path("overlays" / stem, ".png"), picture)

    def clear(self, file: ImageFile) -> None:
        """Remove the mask of an earlier run, which would say that the image is finished.

        Raises:
            SegkitError: It cannot be removed.
        """
        for mask in self.record.masks(file.stem):
            try:
                if is_zarr(mask):
                    old = mask.with_name(f".{secrets.token_hex(8)}.old")
                    mask.rename(old)  # at once: half of a mask would pass for a finished one
                    shutil.rmtree(old)
                else:
                    mask.unlink(missing_ok=True)
            except OSError as error:
                raise SegkitError(
                    f"cannot remove '{mask}', in whose place the mask belongs:"
                    f" {error.strerror or error}. Remove it, or name another output folder."
                ) from error
        if self.coco is not None:
            self.coco.clear(file)

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

    def _begin(self, page: Page) -> StackFile | None:
        if page.total == 1:
            self.clear(page.file)
            return None
        with self._lock:
            if page.file.stem not in self._stacks:
                self.clear(page.file)
                path = self.path(page.file.stem, ".tif")
                self._stacks[page.file.stem] = StackFile(path, page.total)
            return self._stacks[page.file.stem]

    def _write_extras(self, page: Page, result: Prediction) -> None:
        several = page.total > 1
        stem = page.file.stem / f"{page.number:04d}" if several else page.file.stem
        if self.wanted.overlays:
            self.write_overlay(stem, page.image, result.labels, result.instances)
        if result.instances is not None:
            ending = ".png" if result.instances.max(initial=0) <= FULL else ".tif"
            write_mask(self.path("instances" / stem, ending), result.instances)
        if self.wanted.probabilities:
            maps = to_16_bits(result.probabilities)
            write_whole(self.path("probabilities" / stem, ".tif"), _tiff(maps))
        if self.wanted.polygons is None:
            return
        found = outlines(result.labels, result.instances, self.card)
        if self.coco is None:
            write_whole(self.path("polygons" / stem, ".geojson"), geojson(found, self.known))
        else:
            number = page.number if several else None
            name = page.file.stem.with_name(page.file.path.name).as_posix()
            size = result.labels.shape[-2:]
            self.coco.add(page.file, number, coco_image(found, name, size, number))

    def path(self, stem: Path, ending: str) -> Path:
        """The file of an image in the output folder, or in one below it."""
        return self.folder / stem.with_name(stem.name + ending)


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
