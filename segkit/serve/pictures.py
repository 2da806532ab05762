"""The pictures of the page: an image, and its prediction as transparent layers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit.report.colors import Color, palette
from segkit.report.display import to_display

WIDEST = 2048
"""Longer side of a picture in pixels; larger images are reduced."""
_HUES = 254


def draw_image(image: NDArray[Any]) -> bytes:
    """An image (H, W, C) of any type as a PNG in 8 bits."""
    picture = to_display(image)
    size = _reduced_size(picture.shape[:2])
    if size is not None:
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return _as_png(Image.fromarray(picture))


def draw_classes(labels: NDArray[Any], colors: Sequence[Color], unpainted: int | None) -> bytes:
    """Labels (H, W) as a PNG in the classes' colours; one class may be transparent."""
    return _draw_layer(labels.astype(np.uint8), colors, unpainted)


def draw_objects(instances: NDArray[np.int32]) -> bytes:
    """Object ids (H, W) as a PNG with a colour for each object on a transparent background."""
    hue = np.where(instances > 0, (instances - 1) % _HUES + 1, 0)
    return _draw_layer(hue.astype(np.uint8), _object_colors(), 0)


@cache
def _object_colors() -> list[Color]:
    return [(0, 0, 0), *palette(_HUES)]


def _draw_layer(
    indices: NDArray[np.uint8], colors: Sequence[Color], unpainted: int | None
) -> bytes:
    size = _reduced_size(indices.shape[:2])
    if size is not None:
        indices = cv2.resize(indices, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette([value for color in colors for value in color])
    opacity = bytes(0 if index == unpainted else 255 for index in range(len(colors)))
    return _as_png(picture, transparency=opacity)


def _reduced_size(size: tuple[int, ...]) -> tuple[int, int] | None:
    """Width and height of the picture of a large image (H, W); None if it keeps its size."""
    scale = WIDEST / max(size)
    if scale >= 1:
        return None
    return max(1, round(size[1] * scale)), max(1, round(size[0] * scale))


def _as_png(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=3, **options)  # speed matters more than size
    return file.getvalue()
