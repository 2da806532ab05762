"""Grey, RGB and opacity: images with another number of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError


def with_channels(image: NDArray[Any], channels: int) -> NDArray[Any]:
    """(H, W, C) to (H, W, channels), for what has an obvious meaning.

    Grey is repeated to RGB, RGB becomes grey by its mean. A second channel of a grey image and a
    fourth of an RGB one are dropped where they are opacity: where every pixel is opaque, and of
    8-bit RGBA always. Else they are channels of a measurement, which must not get lost.

    Raises:
        SegkitError: There is no obvious way from C to that many channels.
    """
    given = image.shape[2]
    if given == channels:
        return image
    if channels in (1, 3) and given in (2, 4) and _has_opacity(image):
        return with_channels(image[..., :-1], channels)
    if channels == 3 and given == 1:
        return np.repeat(image, 3, axis=2)
    if channels == 1 and given == 3:
        mean: NDArray[Any] = image.mean(axis=2, keepdims=True, dtype=np.float32)
        return mean.astype(image.dtype)
    raise SegkitError(
        f"an image of {given} channels cannot be made one of {channels}: only grey and RGB, with or"
        " without opacity, become each other. Give the channels of the training alone."
    )


def _has_opacity(image: NDArray[Any]) -> bool:
    """Whether the last channel says how opaque a pixel is."""
    if image.dtype == np.uint8 and image.shape[2] == 4:
        return True
    opaque = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1
    return bool((image[..., -1] == opaque).all())
