"""Conversion of any image array to 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SAMPLE = 1_000_000  # values looked at for the percentiles: enough for a slide of any size


def to_display(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert an image for display.

    Channels: 1 is grey; 2 are green and magenta, so that equal parts are grey; of 3 or more, the
    first three are red, green and blue (a fourth, alpha or infrared, is not shown).

    Brightness: 8-bit images stay as they are unless they use less than half of the range. Those and
    all 16-bit and float images are stretched between the 0.5 and the 99.5 percentile: 3 and 4
    channels together to keep hues, any other number, stains or bands, one by one.

    Args:
        image: (H, W) or (H, W, C) of bool, any integer or any float; NaN and masked values become
            black.

    Returns:
        (H, W, 3) uint8, a new array.
    """
    channels = image[..., None] if image.ndim == 2 else image
    count = channels.shape[2]
    if count in (3, 4):
        return _stretch(channels[..., :3])
    bands = [_stretch(channels[..., band]) for band in range(min(count, 3))]
    if count == 2:
        green, magenta = bands
        bands = [magenta, green, magenta]
    return np.stack(bands if count > 1 else bands * 3, axis=2)


def _stretch(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale values of any range to 0 ... 255."""
    if values.dtype == np.bool_:
        values = values * np.uint8(255)
    low, high = _find_range(values)
    if values.dtype == np.uint8 and (high - low > 127 or high == low):
        return np.asarray(np.ma.filled(values, 0)).astype(np.uint8)
    if values.dtype in (np.uint8, np.uint16):
        table = _scale(np.arange(np.iinfo(values.dtype).max + 1), low, high)
        shown = np.take(table, np.ma.getdata(values))
        return np.where(np.ma.getmaskarray(values), 0, shown) if np.ma.is_masked(values) else shown
    return _scale(np.ma.filled(values.astype(np.float64), low), low, high)


def _scale(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Scale low ... high to 0 ... 255; a constant image becomes black."""
    scale = 255.0 / (high - low) if high > low else 0.0
    shown = (np.clip(values.astype(np.float64), low, high) - low) * scale
    return np.rint(np.nan_to_num(shown)).astype(np.uint8)


def _find_range(values: NDArray[Any]) -> tuple[float, float]:
    """Find the values that become black and white."""
    values = np.ma.compressed(values) if np.ma.isMaskedArray(values) else values.reshape(-1)
    finite = values if values.dtype.kind in "iu" else values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 0.0
    sample = finite[:: max(1, finite.size // _SAMPLE)].astype(np.float64)
    low, high = np.percentile(sample, [0.5, 99.5]).tolist()
    if low == high:  # the percentiles miss a few bright pixels on a flat ground
        low, high = float(finite.min()), float(finite.max())
    return low, high
