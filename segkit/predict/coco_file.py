"""The coco.json of an output folder, which several processes may write, now and after a break.

Each image leaves what belongs to it beside the record; at its end a process puts together what is
there of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.inference.objects.object_classes import ObjectClass
from segkit.predict.inputs import ImageFile
from segkit.predict.polygons import coco
from segkit.predict.record import Record
from segkit.predict.removing import remove

NAME = "coco.json"


class CocoFile:
    """The annotations of all images of an output folder.

    Args:
        record: Of the folder.
        known: The categories.
        overwrite: Whether it may be written over one that is not of this command.

    Raises:
        SegkitError: There is one that is not of this command.
    """

    def __init__(self, record: Record, known: Sequence[ObjectClass], overwrite: bool) -> None:
        self.record, self.known = record, known
        self.folder = record.folder / f"coco-{record.key}"
        self.path = record.output / NAME
        if self.path.exists() and not (overwrite or record.is_shared(self.path)):
            raise SegkitError(
                f"predict did not write {self.path}. Name another folder, or write over it with"
                " overwrite=true."
            )

    @classmethod
    def forget(cls, record: Record, removed: Iterable[Path]) -> None:
        """Remove the file of an earlier run, where it tells of an image that is done anew.

        Args:
            record: Of the folder.
            removed: The files that were removed of the image.

        Raises:
            SegkitError: It cannot be removed.
        """
        path = record.output / NAME
        parts = (each for each in removed if each.is_relative_to(record.folder))
        if any(parts) and record.is_shared(path):
            remove(path)

    def place(self, file: ImageFile, page: int | None) -> Path:
        """Where what belongs to an image, or to a page of it, is kept."""
        place = self.folder / file.stem
        if page is None:
            return place.with_name(place.name + ".json")
        return place.with_name(place.name + ".pages") / f"{page}.json"

    def add(self, file: ImageFile, page: int | None, image: dict[str, Any]) -> None:
        """Keep what :func:`segkit.predict.polygons.coco_image` gave for an image, or a page.

        Raises:
            SegkitError: It cannot be written.
        """
        text = json.dumps({"file": file.stem.as_posix(), "page": page or 0, **image})
        write_whole(self.place(file, page), text)

    def merge(self) -> None:
        """Write the file of all images that are finished.

        Raises:
            SegkitError: It cannot be written.
        """
        # Another process may finish images while this one writes, and may have written already:
        # whoever writes last has looked after writing that nothing is missing.
        self.record.begin_shared(self.path)
        merged: list[Path] | None = None
        while (parts := self._parts()) != merged:
            merged = parts
            images = [json.loads(part.read_text(encoding="utf-8")) for part in parts]
            images.sort(key=lambda image: (image["file"], image["page"]))
            write_whole(self.path, coco(images, self.known))

    def _parts(self) -> list[Path]:
        found = []
        for part in self.folder.rglob("*.json"):
            of = part.parent if part.parent.suffix == ".pages" else part
            stem = of.relative_to(self.folder).with_suffix("")
            if any(mask.exists() for mask in self.record.masks(stem)):
                found.append(part)
        return sorted(found)
