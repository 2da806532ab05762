"""Pictures as PNG bytes, and at a size that suits a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WIDEST, _ENLARGED = 1600, 800


def as_png(picture: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3) uint8 as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def sized(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) at a width for the page: at most 1600 pixels, tiny ones enlarged.

    Enlarged are whole pixels a whole number of times, so that a 7 x 5 image stays crisp.
    """
    height, width = picture.shape[:2]
    if width > _WIDEST:
        size = _WIDEST, max(1, round(height * _WIDEST / width))
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    times = max(1, _ENLARGED // max(width, height))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def data_uri(picture: NDArray[np.uint8]) -> str:
    """A picture (H, W, 3) uint8 as the source of an `<img>` that needs no file."""
    return "data:image/png;base64," + base64.b64encode(as_png(picture)).decode("ascii")
