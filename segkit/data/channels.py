"""Grey, RGB and opacity: images with another number of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import SegkitError


def with_channels(image: NDArray[Any], channels: int) -> NDArray[Any]:
    """(H, W, C) to (H, W, channels), for what has an obvious meaning.

    Grey is repeated to RGB, RGB becomes grey by its mean; a second channel of a grey image and a
    fourth of an RGB one are taken as opacity and dropped.

    Raises:
        SegkitError: There is no obvious way from C to that many channels.
    """
    given = image.shape[2]
    if given == channels:
        return image
    if channels == 3 and given in (1, 2):
        return np.repeat(image[..., :1], 3, axis=2)
    if channels == 3 and given == 4:
        return image[..., :3]
    if channels == 1 and given == 2:
        return image[..., :1]
    if channels == 1 and given in (3, 4):
        mean: NDArray[Any] = image[..., :3].mean(axis=2, keepdims=True, dtype=np.float32)
        return mean.astype(image.dtype)
    raise SegkitError(
        f"an image of {given} channels cannot be made one of {channels}: only grey and RGB, with or"
        " without opacity, become each other."
    )
