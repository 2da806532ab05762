"""LabelMe: one JSON file for each image.

https://github.com/wkentaro/labelme
"""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.core.errors import SegkitError
from segkit.data.labels.base import BACKGROUND, Annotations, LabelFormat, Region, Shape
from segkit.data.labels.draft import Draft, explain, read_size
from segkit.data.labels.json_files import read_json
from segkit.data.labels.outlines import check_ring, fill_ring, make_box, make_ellipse, read_pairs
from segkit.data.labels.runs import encode_mask
from segkit.data.labels.tree import FileTree, contains_all, read_start
from segkit.data.layout.splits import find_split_of_path
from segkit.images.reading import read_image

_IGNORED = "__ignore__"
_LINES = {"line": "lines", "linestrip": "lines", "point": "points", "points": "points"}
_KEYS = [rb'"shapes"\s*:\s*\[', rb'"imagePath"\s*:']


class LabelmeFormat(LabelFormat, name="labelme"):
    """JSON files with ``shapes`` and ``imagePath``.

    The classes are the labels in alphabetical order; ``_background_`` is the background and
    ``__ignore__`` is ignored. Shapes with the same ``group_id`` and label are one object.
    """

    title = "LabelMe JSON"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The JSON files with shapes and the path of an image."""
        return [
            path
            for path in map(tree.path, tree.list_files(".json"))
            if read_start(path, 1) == b"{" and contains_all(path, _KEYS)
        ]

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """Read one file after the other; the split is that of a file's folder."""
        draft = Draft(tree)
        for path in files:
            file = tree.relative(path)
            try:
                content = read_json(path)
                if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                    raise SegkitError("it is not an object with a list 'shapes'")
                image = _find_image(content, file, tree)
            except SegkitError as error:
                draft.report(file, explain(error))
                continue
            size = read_size(content.get("imageHeight"), content.get("imageWidth"))
            draft.add_image(
                image,
                _read_shapes(content["shapes"], file, size, draft),
                file,
                split=find_split_of_path(posixpath.dirname(file)),
                size=size,
            )
        return draft.finish()


def _find_image(content: dict[str, Any], file: str, tree: FileTree) -> str:
    near = [posixpath.dirname(file), ""]
    name = content.get("imagePath")
    try:
        return tree.find_image(name if isinstance(name, str) else "", near)
    except SegkitError as error:
        stem = posixpath.splitext(posixpath.basename(file))[0]
        try:  # the image was renamed together with its annotation
            return tree.find_by_stem(stem, near[:1])
        except SegkitError:
            hint = ""
            if content.get("imageData"):
                hint = "; it is embedded (imageData): write it with labelme_export_json"
            raise SegkitError(explain(error) + hint) from error


def _read_shapes(
    entries: Iterable[Any], file: str, size: tuple[int, int] | None, draft: Draft
) -> Iterable[Shape]:
    for number, entry in enumerate(entries, start=1):
        place = f"{file}, shape {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
            draft.report(place, "it has no 'label'")
            continue
        kind, label = str(entry.get("shape_type") or "polygon"), entry["label"]
        if kind in _LINES:
            draft.count(f"{_LINES[kind]} are not used: they have no area")
            continue
        try:
            region = _read_region(kind, entry, size)
        except SegkitError as error:
            draft.report(place, f"{label}: {explain(error)}")
            continue
        group = entry.get("group_id")
        is_ignored = label == _IGNORED
        yield Shape(
            BACKGROUND if is_ignored else draft.add_category(label),
            region,
            is_ignored,
            group if isinstance(group, int) else None,
        )


def _read_region(kind: str, entry: dict[str, Any], size: tuple[int, int] | None) -> Region:
    points = read_pairs(entry.get("points") or [])
    if kind in ("polygon", "oriented_rectangle", "rotation"):
        return fill_ring(check_ring(points))
    if kind not in ("rectangle", "circle", "mask"):
        raise SegkitError(f"the shape_type '{kind}' is not known")
    if len(points) < 2:
        raise SegkitError(f"a {kind} has 2 points, not {len(points)}")
    low, high = points.min(axis=0), points.max(axis=0)
    if kind == "rectangle":  # some programs write its four corners
        return fill_ring(make_box(*low, *high))
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        return fill_ring(make_ellipse(points[0, 0], points[0, 1], radius, radius))
    return _read_mask(entry.get("mask"), low, size)


def _read_mask(encoded: Any, corner: Any, size: tuple[int, int] | None) -> Region:
    """The mask of a box, as a PNG in base64."""
    if size is None:
        raise SegkitError("a mask needs imageHeight and imageWidth")
    if not isinstance(encoded, str):
        raise SegkitError("it has no mask")
    try:
        values = read_image(base64.b64decode(encoded, validate=True))
    except ValueError:
        raise SegkitError("its mask is not base64") from None
    left, top = (int(value) for value in corner)
    return encode_mask(values.max(axis=2), size, top, left)
