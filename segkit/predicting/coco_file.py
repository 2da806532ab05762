"""The coco.json of an output folder, which several processes may write, now and after a break.

Each image leaves what belongs to it beside the record; at its end a process puts together what is
there of all of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segkit.files import write_whole
from segkit.predicting.inputs import ImageFile
from segkit.predicting.polygons import Category, coco
from segkit.predicting.record import Record

NAME = "coco.json"


class CocoFile:
    """The annotations of all images of an output folder.

    Args:
        record: Of the folder.
        known: The categories.
    """

    def __init__(self, record: Record, known: Sequence[Category]) -> None:
        self.record, self.known = record, known
        self.folder = record.folder / f"coco-{record.key}"
        self.path = record.output / NAME

    def clear(self, file: ImageFile) -> None:
        """Remove what is there of an image, before it is written anew."""
        pages = self.folder / file.stem
        shutil.rmtree(pages.with_name(pages.name + ".pages"), ignore_errors=True)
        pages.with_name(pages.name + ".json").unlink(missing_ok=True)

    def add(self, file: ImageFile, page: int | None, image: dict[str, Any]) -> None:
        """Keep what :func:`segkit.predicting.polygons.coco_image` gave for an image, or a page.

        Raises:
            SegkitError: It cannot be written.
        """
        place = self.folder / file.stem
        if page is None:
            place = place.with_name(place.name + ".json")
        else:
            place = place.with_name(place.name + ".pages") / f"{page}.json"
        write_whole(place, json.dumps({"file": file.stem.as_posix(), "page": page or 0, **image}))

    def merge(self) -> None:
        """Write the file of all images that are finished.

        Raises:
            SegkitError: It cannot be written.
        """
        # Another process may finish images while this one writes, and may have written already:
        # whoever writes last has looked after writing that nothing is missing.
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
