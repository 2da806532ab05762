"""CVAT for images 1.1: one XML file for many images.

https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, iterparse

import numpy as np

from segkit.core.errors import SegkitError
from segkit.data.labels.base import Annotations, LabelFormat, Region, Shape
from segkit.data.labels.draft import Draft, explain, read_color, read_size
from segkit.data.labels.outlines import (
    check_ring,
    fill_ring,
    make_box,
    make_ellipse,
    read_points,
    rotate_ring,
)
from segkit.data.labels.runs import encode_mask, read_counts
from segkit.data.labels.tree import FileTree, contains_all, read_start
from segkit.data.layout.splits import find_split

_UNUSED = {
    "polyline": "polylines are not used: they have no area",
    "points": "points are not used: they have no area",
    "tag": "tags of whole images are not used",
    "cuboid": "cuboids are not used",
    "skeleton": "skeletons are not used",
}


class CvatFormat(LabelFormat, name="cvat"):
    """XML files with ``annotations`` and ``image``: polygons, masks, boxes and ellipses.

    Shapes cover each other in the order of ``z_order``. Classes are the labels of the task, with
    their colours. Shapes of the same group and label are one object.
    """

    title = "CVAT for images (XML)"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The XML files of CVAT, those of videos included, which are then refused."""
        return [path for path in map(tree.path, tree.list_files(".xml")) if _is_cvat(path)]

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """Read all files; the split is that of an image's subset."""
        draft = Draft(tree)
        order: list[str] = []
        for path in files:
            file = tree.relative(path)
            try:
                _read_file(path, file, order, draft)
            except (OSError, ParseError, ValueError, LookupError) as error:
                draft.report(file, f"it is no XML that can be read: {error}")
        known = draft.categories
        return draft.finish([name for name in dict.fromkeys([*order, *known]) if name in known])


def _is_cvat(path: Path) -> bool:
    start = read_start(path)
    return (
        start[:1] == b"<" and b"<annotations" in start and contains_all(path, [rb"<(image|meta)"])
    )


def _read_file(path: Path, file: str, order: list[str], draft: Draft) -> None:
    labels: set[str] = set()
    tracks = 0
    near = draft.tree.list_near(file)
    for element in _iterate_elements(path):
        if element.tag == "label":
            name = (element.findtext("name") or "").strip()
            if name:
                labels.add(name)
                order.append(name)
                draft.add_category(name, read_color(element.findtext("color")))
        elif element.tag == "track":
            tracks += 1
        elif element.tag == "image":
            _read_image(element, file, near, labels, draft)
    if tracks:
        draft.report(
            file, f"it is CVAT for video ({tracks} tracks): export it as CVAT for images 1.1"
        )


def _iterate_elements(path: Path) -> Iterator[Element]:
    """The complete labels, images and tracks; what was used is freed."""
    with path.open("rb") as opened:
        events = iterparse(opened, events=("start", "end"))
        _, root = next(events)
        if root.tag != "annotations":
            raise ValueError(f"it begins with <{root.tag}>, not with <annotations>")
        for event, element in events:
            if event == "end" and element.tag in ("label", "image", "track"):
                yield element
                if element.tag != "label":
                    root.clear()


def _read_image(
    element: Element, file: str, near: list[str], labels: set[str], draft: Draft
) -> None:
    name, subset = element.get("name", ""), element.get("subset", "")
    place = f"{file}, image {element.get('id', name)}"
    folders = [posixpath.join(folder, subset) for folder in near] if subset else []
    folders = [folder for folder in folders if folder in draft.tree.folders]
    try:
        image = draft.tree.find_image(name, [*folders, *near])
    except SegkitError as error:
        draft.report(place, explain(error))
        return
    size = read_size(element.get("height"), element.get("width"))
    draft.add_image(
        image,
        _read_shapes(element, place, size, labels, draft),
        file,
        split=find_split(subset),
        size=size,
    )


def _read_shapes(
    image: Element, place: str, size: tuple[int, int] | None, labels: set[str], draft: Draft
) -> Iterable[Shape]:
    found: list[tuple[int, Shape]] = []
    for number, element in enumerate(image, start=1):
        if element.tag in _UNUSED:
            draft.count(_UNUSED[element.tag])
            continue
        label = (element.get("label") or "").strip()
        try:
            if not label or (labels and label not in labels):
                raise SegkitError(f"the task has no label '{label}'")
            depth, group = _read_whole(element, "z_order"), _read_whole(element, "group_id")
            region = _read_region(element, size)
        except SegkitError as error:
            draft.report(f"{place}, shape {number}", f"{element.tag}: {explain(error)}")
            continue
        if element.tag == "box":
            draft.count("boxes are used as rectangles")
        found.append((depth, Shape(draft.add_category(label), region, group=group or None)))
    return [shape for _, shape in sorted(found, key=lambda pair: pair[0])]


def _read_region(element: Element, size: tuple[int, int] | None) -> Region:
    kind = element.tag
    if kind == "polygon":
        pairs = [pair.split(",") for pair in element.get("points", "").split(";") if pair.strip()]
        return fill_ring(read_points(pairs))
    if kind == "box":
        left, top, right, bottom = _read_floats(element, "xtl", "ytl", "xbr", "ybr")
        ring, x, y = make_box(left, top, right, bottom), (left + right) / 2, (top + bottom) / 2
    elif kind == "ellipse":
        x, y, radius_x, radius_y = _read_floats(element, "cx", "cy", "rx", "ry")
        ring = make_ellipse(x, y, radius_x, radius_y)
    elif kind == "mask":
        return _read_mask(element, size)
    else:
        raise SegkitError("this kind of shape is not known")
    return fill_ring(check_ring(rotate_ring(ring, _read_floats(element, "rotation")[0], x, y)))


def _read_mask(element: Element, size: tuple[int, int] | None) -> Region:
    """A mask in a box: run lengths along its rows, background first."""
    if size is None:
        raise SegkitError("a mask needs the width and height of the image")
    left, top, width, height = (
        _read_whole(element, key) for key in ("left", "top", "width", "height")
    )
    if width < 1 or height < 1 or width * height > 4 * size[0] * size[1]:
        raise SegkitError(f"its box has {width} x {height} pixels")
    counts = read_counts([value for value in element.get("rle", "").split(",") if value.strip()])
    if len(counts) and counts.min() < 0:
        raise SegkitError("a run length is negative")
    if counts.sum() != width * height:
        raise SegkitError(
            f"its run lengths cover {counts.sum()} pixels, but its box has {width} x {height}"
        )
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    return encode_mask(values.reshape(height, width), size, top, left)


def _read_floats(element: Element, *keys: str) -> list[float]:
    """Attributes; a rotation that is not given is 0."""
    try:
        return [float(element.get(key, "0" if key == "rotation" else "")) for key in keys]
    except ValueError:
        raise SegkitError(f"its {', '.join(keys)} are no numbers") from None


def _read_whole(element: Element, key: str) -> int:
    text: Any = element.get(key) or 0
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise SegkitError(f"its {key} is '{text}', not a whole number") from None
