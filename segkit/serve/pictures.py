"""What the page shows: an image and its prediction as pictures that lie one on another."""

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
"""Pixels of the longer side of a picture; larger images are shown smaller."""
_HUES = 254


def shown_image(image: NDArray[Any]) -> bytes:
    """An image (H, W, C) of any type as a PNG that a browser shows."""
    picture = to_display(image)
    size = _shown_size(picture.shape[:2])
    if size is not None:
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return _as_png(Image.fromarray(picture))


def class_layer(labels: NDArray[Any], colors: Sequence[Color], unpainted: int | None) -> bytes:
    """Labels (H, W) as a PNG in the classes' colours, in which one class may be transparent."""
    return _layer(labels.astype(np.uint8), colors, unpainted)


def object_layer(instances: NDArray[np.int32]) -> bytes:
    """Ids of objects (H, W) as a PNG with a colour an object; the background is transparent."""
    hue = np.where(instances > 0, (instances - 1) % _HUES + 1, 0)
    return _layer(hue.astype(np.uint8), _hues(), 0)


@cache
def _hues() -> list[Color]:
    return [(0, 0, 0), *palette(_HUES)]


def _layer(indices: NDArray[np.uint8], colors: Sequence[Color], unpainted: int | None) -> bytes:
    size = _shown_size(indices.shape[:2])
    if size is not None:
        indices = cv2.resize(indices, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette([value for color in colors for value in color])
    opacity = bytes(0 if index == unpainted else 255 for index in range(len(colors)))
    return _as_png(picture, transparency=opacity)


def _shown_size(size: tuple[int, ...]) -> tuple[int, int] | None:
    """Width and height of the picture of a large image (H, W); None where it keeps its own."""
    scale = WIDEST / max(size)
    if scale >= 1:
        return None
    return max(1, round(size[1] * scale)), max(1, round(size[0] * scale))


def _as_png(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=3, **options)  # the way is short: be quick
    return file.getvalue()
