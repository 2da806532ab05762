"""Pixels in memory: what the readers of all formats return, and conversions of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from segkit.core.errors import SegkitError
from segkit.core.labels import FIRST_COLOR
from segkit.core.memory import find_max_pixels

Array = npt.NDArray[Any]

ORIENTATION = 0x0112
"""The orientation tag of EXIF and TIFF."""
NO_PIXELS = "it has no pixels, only {} x {}: save it again or remove it"
"""What is wrong with an image of such a size, as faulty cropping programs leave them."""


class Raster(NamedTuple):
    """Pixels as stored, in native byte order, and how to display them."""

    values: Array  # (H, W, C); palette indices; bool for 1 bit
    palette: Array | None = None  # (K, 3) uint8
    is_rgb: bool = False  # the first three channels are one colour
    is_cmyk: bool = False  # the first four channels are inks
    alpha: Literal["", "straight", "premultiplied"] = ""  # what the last channel is, if it is alpha
    white_is_zero: bool = False
    bits: int = 0  # of a grey value; 0 where it fills its dtype
    missing: Array | None = None  # (H, W) bool, the pixels without data
    is_painted: bool = False  # what is transparent was not painted on, and can be background
    nodata: float | None = None  # a pixel with this value in all channels has no data
    step: float = 0.0  # values were rounded to multiples of it, and fractions may be whole numbers
    is_lossy: bool = False  # compressed so that values have changed
    orientation: int = 1  # of EXIF, still to be applied


class Extent(NamedTuple):
    """The size of an image as its header states it, before its orientation is applied."""

    height: int
    width: int
    channels: int

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width


class TooLargeError(SegkitError):
    """An image may not be decoded at once."""


def require_room(shape: Sequence[int]) -> None:
    """Check the shape of what is to be decoded at once: (H, W, C), or that of a volume.

    More than four values a pixel count as more pixels.

    Raises:
        TooLargeError: There are more pixels than :func:`segkit.core.memory.find_max_pixels`.
    """
    limit = find_max_pixels()
    if max(math.prod(shape[:2]), math.prod(shape) // 4) > limit:
        raise TooLargeError(
            f"it would be decoded to {' x '.join(map(str, shape))} values, and the limit is"
            f" {limit} pixels, by default those that fit into memory. If the file is not damaged,"
            " set max_pixels, or save it as a tiled TIFF, which is read in parts."
        )


class Windows(NamedTuple):
    """How to read windows of one image. Several threads may read at once."""

    size: tuple[int, int]  # height and width
    kind: Raster  # without pixels
    read: Callable[[int, int, int, int], Raster]  # of top, left, height and width


def saves_memory(size: tuple[int, int], chunk: tuple[int, int]) -> bool:
    """Whether windows of an image in chunks of that size take less memory than the whole image.

    Chunks that are too large to be decoded save none.
    """
    rows, columns = (-(-side // part) for side, part in zip(size, chunk, strict=True))
    return rows * columns >= 4 and math.prod(chunk) <= find_max_pixels()


def parse_orientation(value: object) -> int:
    """An orientation as it stands in a file; 1, upright, where it is none of the eight."""
    number = int.from_bytes(value, "little") if isinstance(value, bytes) else value
    return number if isinstance(number, int) and number in range(1, 9) else 1


def rotate_upright(values: Array, orientation: int) -> Array:
    """Apply an EXIF orientation: 1 is upright, 6 lies on its left side."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def require_numbers(dtype: np.dtype[Any]) -> None:
    """Raise a ValueError unless values of a type are whole or real numbers, or bool."""
    if dtype.kind not in "biuf":
        remedy = ": save their magnitude or phase, or both as channels" if dtype.kind == "c" else ""
        raise ValueError(f"values of the type {dtype} are not an image{remedy}")


def find_nodata(raster: Raster) -> Array | None:
    """Where all channels have the value of pixels without data, (H, W); None without such a value.

    Values that a type of floats does not hold were written as its largest one, or as infinity.
    """
    nodata, values = raster.nodata, raster.values
    if nodata is None:
        return None
    if values.dtype.kind == "f" and abs(nodata) >= (most := float(np.finfo(values.dtype).max)):
        return np.asarray((values * np.sign(nodata) >= most).all(axis=2))
    return np.asarray((values == nodata).all(axis=2))


def unite(*masks: Array | None) -> Array | None:
    """Where any of several masks, (H, W) bool, is set; None if there is none."""
    given = [mask for mask in masks if mask is not None]
    return reduce(np.logical_or, given) if given else None


def full_scale(dtype: np.dtype[Any]) -> float:
    """The value of full intensity or opacity: the largest integer, or 1 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def is_opaque(values: Array) -> bool:
    """Whether the last channel, read as alpha, hides nothing."""
    return bool((values[..., -1] == full_scale(values.dtype)).all())


def encode_colors(colours: Array) -> npt.NDArray[np.int32]:
    """Colours (..., 3) uint8 to the mask values of `segkit.core.labels.color_to_value`."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    coded = FIRST_COLOR + (red << 16) + (green << 8) + blue
    return np.where((red == green) & (green == blue), red, coded).astype(np.int32)


def decode_colors(values: Array) -> npt.NDArray[np.uint8]:
    """The inverse of `encode_colors`: (...) integers to (..., 3) colours."""
    coded = values.astype(np.int32)
    coded = np.where(coded < FIRST_COLOR, coded * 0x010101, coded)
    return np.stack([coded >> 16 & 255, coded >> 8 & 255, coded & 255], axis=-1).astype(np.uint8)


def convert_channels(image: Array, channels: int | Literal["auto"]) -> Array:
    """Convert (H, W, C) to (H, W, channels) where the conversion is obvious; "auto" keeps it.

    Grey is repeated to RGB; RGB becomes grey by its mean. A second channel of a grey image and a
    fourth of an RGB image are dropped if they hide nothing, as in an array of opaque RGBA.
    Otherwise they are measurements, which must not get lost.

    Raises:
        SegkitError: There is no obvious conversion.
    """
    given = image.shape[2]
    if channels in ("auto", given):
        return image
    if channels in (1, 3):
        if given in (2, 4) and is_opaque(image):
            return convert_channels(image[..., :-1], channels)
        if given == 1:
            return np.repeat(image, 3, axis=2)
        if given == 3:
            mean: Array = image.mean(axis=2, keepdims=True, dtype=np.float32)
            return mean.astype(image.dtype)
    raise SegkitError(
        f"an image with {given} channel{'s' * (given != 1)} cannot be converted to {channels}:"
        " only grey and RGB, with or without opaque alpha, can be converted. Provide exactly the"
        " channels used in training."
        + " Files of one channel each are given together, as 'x_{red,nir}.tif'."
        * (given == 1)
    )
