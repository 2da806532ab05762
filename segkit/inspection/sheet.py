"""A contact sheet: images of a data set under their masks, and the legend of the colours."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segkit.checkpoint.values import LabelCoding
from segkit.core.labels import IGNORE_INDEX
from segkit.data.sources.base import Sample, Split
from segkit.images.writing import write_image
from segkit.inspection.description import format_values
from segkit.inspection.findings import ClassShare, Findings
from segkit.report.colors import Color, choose_colors
from segkit.report.display import to_display
from segkit.report.overlay import Layer, draw_overlay, make_object_layer
from segkit.targets.objects import number_objects

MOST, COLUMNS = 16, 4
"""Images on a sheet, and in a row."""
SIDE, GAP, LINE = 300, 18, 22
"""Side of the square that an image fits into, space between them, and height of a line of text."""
DISPLAYED = 4 * SIDE
"""Sides of large images are thinned to this before anything is converted."""
MOST_IN_LEGEND = 40
"""Classes that the legend lists."""
INK, PALE, PAPER = (32, 32, 32), (120, 120, 120), (255, 255, 255)


class Tile(NamedTuple):
    """An image under its mask, and two lines of text."""

    picture: NDArray[np.uint8]
    name: str
    facts: str


def draw_sheet(found: Findings) -> NDArray[np.uint8] | None:
    """Draw up to 16 images, spread evenly over the set; None if none can be read."""
    samples = [(s, split) for split, part in found.data.splits.items() for s in part]
    broken = {f.sample.name for f in found.data.facts if f.errors}
    samples = [(sample, split) for sample, split in samples if sample.name not in broken]
    chosen = [samples[i] for i in spread(len(samples), MOST)]
    tiles = [draw_tile(found, sample, split) for sample, split in chosen]
    if not tiles:
        return None
    title = f"{len(tiles)} of {len(samples)} images, {found.mode}"
    return lay_out(tiles, title, list_legend(found))


def write_sheet(path: Path, sheet: NDArray[np.uint8]) -> None:
    """Write it to a PNG, whole or not at all."""
    write_image(path, sheet)


def spread(count: int, most: int) -> list[int]:
    """Up to that many of the numbers below ``count``, spread evenly with the first and the last.

    Example:
        >>> spread(9, 3)
        [0, 4, 8]
    """
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def list_legend(found: Findings) -> list[tuple[str, Color | None]]:
    """Names and shares with the colours that are painted; None for what is not."""
    if found.data.source.instances:
        objects = found.objects
        return [(f"each object its own colour: {objects.count:,} objects", None)]
    unpainted = _find_unpainted(found)
    entries: list[tuple[str, Color | None]] = []
    for each in found.classes[:MOST_IN_LEGEND]:
        painted = each.label != unpainted if each.label is not None else each.values != [0]
        name = each.name if each.label is not None else f"value {format_values(each, found)}"
        rest = "" if painted else ", not painted"
        entries.append((f"{name}  {each.share:.2%}{rest}", each.color if painted else None))
    if len(found.classes) > MOST_IN_LEGEND:
        entries.append((f"and {len(found.classes) - MOST_IN_LEGEND} more", None))
    return entries


def draw_tile(found: Findings, sample: Sample, split: Split) -> Tile:
    """Draw one sample; large images are thinned first, tiny ones enlarged without smoothing."""
    source = found.data.source
    image, mask = source.read_image(sample), source.read_mask(sample)
    height, width = image.shape[:2]
    scale = min(SIDE / height, SIDE / width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    step = max(1, math.ceil(max(height, width) / DISPLAYED))
    shown = to_display(image[::step, ::step])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    shown = np.asarray(cv2.resize(shown, size[::-1], interpolation=way), np.uint8)
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(int)
        for new, old in zip(size, mask.shape[:2], strict=True)
    )
    layer = make_layer(found, np.ascontiguousarray(mask[rows][:, columns]))
    channels = f"{image.shape[2]} channel{'s' * (image.shape[2] > 1)}"
    return Tile(draw_overlay(shown, layer), sample.name, f"{split}, {height} x {width}, {channels}")


def make_layer(found: Findings, mask: NDArray[Any]) -> Layer:
    """The layer of a mask: classes, objects, or values if they cannot be read as classes."""
    source, summary = found.data.source, found.summary
    if summary is None:
        flat = mask if mask.ndim == 2 else mask.argmax(axis=2) + mask.any(axis=2)
        return _make_value_layer(flat, found.classes)
    if source.instances and mask.ndim == 2:
        return make_object_layer(number_objects(mask, summary.coding.to_label), IGNORE_INDEX)
    labels = _encode(summary.coding, mask)
    colors = [each.color for each in found.classes]
    if mask.ndim == 2:
        return Layer(labels, colors, _find_unpainted(found))
    number = np.arange(1, labels.shape[2] + 1)
    top = np.where(labels == 1, number, 0).max(axis=2)
    top = np.where((labels == IGNORE_INDEX).all(axis=2), IGNORE_INDEX, top)
    return Layer(top, [(0, 0, 0), *colors], 0)


def _encode(coding: LabelCoding, mask: NDArray[Any]) -> NDArray[np.integer[Any]]:
    return coding.encode(mask)


def _find_unpainted(found: Findings) -> int | None:
    return None if found.summary is None else found.summary.background


def _make_value_layer(values: NDArray[Any], known: list[ClassShare]) -> Layer:
    """A colour for each value, in the order of the legend; others have none."""
    listed = np.array([each.values[0] for each in known] or [0])
    places = np.searchsorted(listed, values).clip(0, len(listed) - 1)
    is_listed = (listed[places] == values) & (values != 0)
    colors = [each.color for each in known] or choose_colors(1)
    return Layer(np.where(is_listed, places + 1, 0), [(0, 0, 0), *colors], 0, None)


def lay_out(
    tiles: list[Tile], title: str, legend: list[tuple[str, Color | None]]
) -> NDArray[np.uint8]:
    """Put tiles into rows below a title and above the legend: (H, W, 3)."""
    columns = min(COLUMNS, math.ceil(math.sqrt(len(tiles))))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    columns = max(columns, 2)  # room for the legend
    plain, small = find_font(15), find_font(12)
    lines = wrap_legend(legend, columns * (SIDE + GAP) - GAP, plain)
    heights = [max(tile.picture.shape[0] for tile in row) + 2 * LINE for row in rows]
    width = columns * (SIDE + GAP) + GAP
    height = GAP + 2 * LINE + sum(h + GAP for h in heights) + len(lines) * (LINE + 4) + GAP
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, GAP), title, INK, find_font(18))
    top = GAP + 2 * LINE
    for row, tall in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = GAP + column * (SIDE + GAP)
            picture = Image.fromarray(tile.picture)
            canvas.paste(picture, (left, top))
            draw.rectangle(
                (left - 1, top - 1, left + picture.width, top + picture.height), outline=PALE
            )
            below = top + picture.height + 4
            draw.text((left, below), fit_text(tile.name, SIDE, plain), INK, plain)
            draw.text((left, below + LINE - 2), tile.facts, PALE, small)
        top += tall + GAP
    for line in lines:
        left = GAP
        for text, color, wide in line:
            if color is not None:
                draw.rectangle((left, top + 2, left + 14, top + 16), color, PALE)
            draw.text((left + LINE * (color is not None), top), text, INK, plain)
            left += wide
        top += LINE + 4
    return np.asarray(canvas, np.uint8)


def wrap_legend(
    legend: list[tuple[str, Color | None]], width: int, font: Any
) -> list[list[tuple[str, Color | None, int]]]:
    """Lines of entries that fit into the width, each with its own width."""
    lines: list[list[tuple[str, Color | None, int]]] = []
    used = width
    for text, color in legend:
        shown = fit_text(text, width - 2 * LINE, font)
        wide = LINE + math.ceil(font.getlength(shown)) + LINE
        if used + wide > width + LINE or not lines:
            lines.append([])
            used = 0
        lines[-1].append((shown, color, wide))
        used += wide
    return lines


def fit_text(text: str, width: int, font: Any) -> str:
    """A text whose beginning is left out if it is too long: the end of a path tells more."""
    text = " ".join(text.splitlines())
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        if font.getlength("…" + text[middle:]) <= width:
            high = middle
        else:
            low = middle + 1
    return "…" + text[low:]


def find_font(size: int) -> Any:
    """The font that matplotlib brings, which knows more letters than Pillow's own."""
    found = importlib.util.find_spec("matplotlib")  # does not import it
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)
