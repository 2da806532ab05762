"""What the values in files mean: intensities of images as input of the network, masks as labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.labels import describe_values

FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0}
"""Largest value of the integer types."""
HIGHEST_FLOAT = 1.5
"""Floats above it are not on a scale of 0 to 1."""
Range = float | tuple[float, ...]
"""A bound of the intensities: one for all channels, or one per channel."""

_PERCENTILES = 0.1, 99.9
"""The range of intensities other than 8 bits, such as the 12 bits in 16 of a camera."""
_ONE_SCALE = 0.1
"""If the narrowest of three channels spans less of their common range, they are not RGB."""


@dataclass(frozen=True)
class Normalization:
    """Maps intensities from low..high to 0..1, clips, subtracts the mean and divides by the std.

    The numbers are those of the training images and the same for every image: a dark image stays
    dark. Grey and RGB images have one range for all channels, other images one per channel.

    Attributes:
        dtype: Type of the training images: uint8, uint16 or float32.
        low: Intensity that becomes 0.
        high: Intensity that becomes 1.
        mean: Mean of each channel after scaling to 0..1.
        std: Standard deviation of each channel after scaling to 0..1.
    """

    dtype: str
    low: Range
    high: Range
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, pixels: list[NDArray[Any]]) -> Normalization:
        """Measure the range, mean and standard deviation of pixels, each array (n, C)."""
        dtype = str(pixels[0].dtype)
        values = np.concatenate(pixels).astype(np.float64)
        channels = values.shape[1]
        low: Range = 0.0
        high: Range = FULL_SCALE.get(dtype, 1.0)
        if dtype != "uint8":
            lows, highs = np.percentile(values, _PERCENTILES, axis=0)
            bottom, top = (float(q) for q in np.percentile(values, _PERCENTILES))
            widths = highs - lows
            rgb = channels == 3 and widths[widths > 0].min(initial=np.inf) >= _ONE_SCALE * (
                top - bottom
            )
            if channels == 1 or rgb:
                low, high = bottom, top if top > bottom else bottom + 1
            else:
                low = tuple(lows.tolist())
                high = tuple(np.where(widths > 0, highs, lows + 1).tolist())
        unit = np.clip((values - low) / np.subtract(high, low), 0, 1)
        std = np.maximum(unit.std(axis=0), 1e-3)
        return cls(dtype, low, high, tuple(unit.mean(axis=0).tolist()), tuple(std.tolist()))

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Convert an image (H, W, C) of any type to the network's input, (H, W, C) float32.

        Raises:
            SegkitError: See :meth:`convert`.
        """
        return self.standardize(self.to_unit(self.convert(image)))

    def convert(self, image: NDArray[Any]) -> NDArray[Any]:
        """Convert an image (H, W, C) of any type to the intensities of the training images.

        Other types are converted by their full scale: 8 bit, 16 bit, and 0 to 1 for floats.
        Booleans are the numbers 0 and 1 of 8 bit, or of float if the training had floats. Values
        that are missing (masked, or NaN) become the mean of their channel.

        Raises:
            SegkitError: The type or the number of channels differs from the training in a way that
                cannot be converted, or a value is infinite.
        """
        if image.ndim != 3 or image.shape[2] != len(self.mean):
            raise SegkitError(
                f"the model was trained on images with {len(self.mean)} channels, this one has the"
                f" shape {image.shape}: give (H, W, {len(self.mean)})."
            )
        missing = find_missing(image)
        if missing is not None:
            image = np.where(missing, image.dtype.type(0), np.ma.getdata(image))
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise SegkitError(
                "the image has infinite values: replace them by numbers or NaN first."
            )
        image = self._convert_type(image)
        if missing is not None:
            mean = np.add(self.low, np.multiply(self.mean, np.subtract(self.high, self.low)))
            mean = np.rint(mean) if image.dtype.kind == "u" else mean
            image = np.where(missing, mean.astype(image.dtype), image)
        return image

    def _convert_type(self, image: NDArray[Any]) -> NDArray[Any]:
        given = str(image.dtype)
        if given == "bool":  # numbers like others: True is 1, also where training images reach 255
            given = "float32" if self.dtype == "float32" else "uint8"
            image = image.astype(given)
        if given.startswith("float"):
            image, given = image.astype(np.float32), "float32"
        if given == self.dtype:
            return image
        if self.dtype == "float32" or (given not in FULL_SCALE and given != "float32"):
            raise SegkitError(
                f"the model was trained on {self.dtype} images, this one is {image.dtype}: convert"
                f" it to {self.dtype} in the units of the training images."
            )
        if given == "float32":
            top = float(image.max(initial=0))
            if top > HIGHEST_FLOAT:
                raise SegkitError(
                    f"the model was trained on {self.dtype} images, so float images must range"
                    f" from 0 to 1, but this one reaches {top:g}: scale it."
                )
        return image.astype(np.float32) * (FULL_SCALE[self.dtype] / FULL_SCALE.get(given, 1.0))

    def to_unit(self, image: NDArray[Any]) -> NDArray[Any]:
        """Scale (H, W, C) to 0..1, float32; 8 bits stay 8 bits, which are warped faster."""
        if image.dtype == np.uint8 and (self.low, self.high) == (0, 255):
            return image
        low = np.asarray(self.low, np.float32)
        span = np.asarray(np.subtract(self.high, self.low), np.float32)
        return np.clip((image.astype(np.float32) - low) / span, 0, 1, dtype=np.float32)

    def standardize(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Convert the result of :meth:`to_unit` to zero mean and unit deviation, float32."""
        scale = np.float32(1 / 255 if image.dtype == np.uint8 else 1)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return (image.astype(np.float32) * scale - mean) / std


def find_missing(image: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where values of an image (H, W, C) are missing: masked or NaN. None if nowhere."""
    missing: Any = np.ma.getmask(image)
    if image.dtype.kind == "f":
        missing = missing | np.isnan(np.ma.getdata(image))
    return missing if np.any(missing) else None


def find_empty(image: NDArray[Any]) -> NDArray[np.bool_] | None:
    """The pixels (H, W) of an image (H, W, C) without data: all channels are missing."""
    missing = find_missing(image)
    if missing is None:
        return None
    empty = np.asarray(missing.all(axis=2))
    return empty if empty.any() else None


@dataclass(frozen=True)
class LabelCoding:
    """Meaning of the mask values.

    Attributes:
        to_label: Label of each value that differs from its label.
        foreground: Whether every value except 0 and those in ``to_label`` is foreground, label 1
            (object ids).
    """

    to_label: dict[int, int]
    foreground: bool = False

    def label_of(self, value: int) -> int:
        """The label of a value, whether or not there is such a class."""
        return self.to_label.get(value, int(value != 0) if self.foreground else value)

    def encode(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert values (H, W) or (H, W, N), integers or bool, to labels of the same shape.

        Raises:
            SegkitError: A value has no label and is not one itself: it is negative or above 255.
        """
        if mask.dtype in (np.uint8, np.bool_):
            table = np.array([self.label_of(value) for value in range(256)], np.uint8)
            # five times as fast as indexing with NumPy; as one row it supports any number of axes
            row = np.ascontiguousarray(mask).view(np.uint8).reshape(1, -1)
            return np.asarray(cv2.LUT(row, table), np.uint8).reshape(mask.shape)
        # not directly to 8 bits, which would turn 256 into 0
        labels = (mask != 0 if self.foreground else mask).astype(np.int64)
        for value, label in self.to_label.items():
            labels[mask == value] = label
        wrong = np.unique(labels[(labels < 0) | (labels > 255)])
        if len(wrong):
            raise SegkitError(
                f"the mask has the values {describe_values(wrong.tolist())}, which are not labels:"
                " give them labels with data.label_map={VALUE: LABEL}."
            )
        return labels.astype(np.uint8)

    def value_of(self, label: int) -> int:
        """The mask value of a label; 255 for the foreground of ids.

        Negative values mean that pixels have no data, and are not written.
        """
        if self.foreground:
            return 255 * label
        known = self.to_label.items()
        return next((v for v, meant in known if meant == label and v >= 0), label)
