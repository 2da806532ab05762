"""Conversion between grey, RGB and images with an alpha channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError


def convert_channels(image: NDArray[Any], channels: int) -> NDArray[Any]:
    """Convert (H, W, C) to (H, W, channels) where the conversion is obvious.

    Grey is repeated to RGB; RGB becomes grey by its mean. A second channel of a grey image and a
    fourth of an RGB image are dropped if they are an alpha channel: if every pixel is opaque, and
    always for 8-bit RGBA. Otherwise they are measurements, which must not get lost.

    Raises:
        SegkitError: There is no obvious conversion.
    """
    given = image.shape[2]
    if given == channels:
        return image
    if channels in (1, 3) and given in (2, 4) and _has_alpha(image):
        return convert_channels(image[..., :-1], channels)
    if channels == 3 and given == 1:
        return np.repeat(image, 3, axis=2)
    if channels == 1 and given == 3:
        mean: NDArray[Any] = image.mean(axis=2, keepdims=True, dtype=np.float32)
        return mean.astype(image.dtype)
    raise SegkitError(
        f"an image with {given} channels cannot be converted to {channels}: only grey and RGB, with"
        " or without alpha, can be converted. Provide exactly the channels used in training."
    )


def _has_alpha(image: NDArray[Any]) -> bool:
    if image.dtype == np.uint8 and image.shape[2] == 4:
        return True
    opaque = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1
    return bool((image[..., -1] == opaque).all())
