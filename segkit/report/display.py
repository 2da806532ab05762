"""Any image array as a picture that a screen can show."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError

_LOW, _HIGH = 0.5, 99.5  # percentiles that become black and white
_SAMPLE = 1_000_000  # values looked at for the percentiles: enough for a slide of any size


def to_display(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Make an image visible.

    Channels: 1 is grey; 2 is a composite, the first green and the second magenta, so that equal
    parts are grey; 3 or more show the first three as red, green and blue (a fourth is alpha or
    infrared and not shown).

    Brightness: 8-bit images are shown as they are, unless they use less than half of the range, as
    dark fluorescence does; these and all 16-bit and float images are stretched between the 0.5 and
    the 99.5 percentile. 3 and 4 channels are stretched together, so that hues stay; any other
    number is stains or bands, which are stretched one by one.

    Args:
        image: (H, W) or (H, W, C) of bool, any integer or any float; NaN becomes black.

    Returns:
        (H, W, 3) uint8, a new array.

    Raises:
        SegkitError: the array has another shape or type.
    """
    channels = image[..., None] if image.ndim == 2 else image
    if channels.ndim != 3 or channels.size == 0 or channels.dtype.kind not in "buif":
        raise SegkitError(
            f"an image of shape {image.shape} and type {image.dtype} cannot be shown: "
            "give (H, W) or (H, W, C) of bool, integers or floats."
        )
    count = channels.shape[2]
    if count == 1:
        return np.repeat(_brightness(channels), 3, axis=2)
    if count == 2:
        green, magenta = _brightness(channels[..., 0]), _brightness(channels[..., 1])
        return np.stack([magenta, green, magenta], axis=2)
    if count <= 4:
        return _brightness(channels[..., :3])
    return np.stack([_brightness(channels[..., band]) for band in range(3)], axis=2)


def _brightness(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values of any range as 0 ... 255, same shape."""
    if values.dtype == np.bool_:
        return np.where(values, 255, 0).astype(np.uint8)
    low, high = _range(values)
    if values.dtype == np.uint8 and (high - low > 127 or high == low):
        return values.astype(np.uint8)
    # A constant image has nothing to stretch: it becomes black.
    scale = 255.0 / (high - low) if high > low else 0.0
    shown = np.clip(values.astype(np.float64), low, high)
    shown = np.nan_to_num((shown - low) * scale, nan=0.0)
    return np.rint(shown).astype(np.uint8)


def _range(values: NDArray[Any]) -> tuple[float, float]:
    """The values that become black and white."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if finite.size == 0:
        return 0.0, 0.0
    sample = finite[:: max(1, finite.size // _SAMPLE)]
    low, high = (float(value) for value in np.percentile(sample, [_LOW, _HIGH]))
    if low == high:  # a few bright pixels on a flat ground: the percentiles miss them
        low, high = float(finite.min()), float(finite.max())
    return low, high
