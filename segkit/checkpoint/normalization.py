"""From the numbers in an image file to what the network sees."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError

FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0}


@dataclass(frozen=True)
class Normalization:
    """Maps intensities low to high on 0 to 1, clips, subtracts the mean, divides by the deviation.

    The numbers are those of the training set, the same for every image: a dark image stays dark.

    Attributes:
        dtype: Type of the training images: uint8, uint16 or float32.
        low: Intensity that becomes 0.
        high: Intensity that becomes 1.
        mean: Mean of each channel on the scale of 0 to 1.
        std: Standard deviation of each channel on that scale.
    """

    dtype: str
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_unit(self, image: NDArray[Any]) -> NDArray[Any]:
        """(H, W, C) to a scale of 0 to 1, float32; 8 bits stay 8 bits, to be warped fast."""
        if image.dtype == np.uint8 and (self.low, self.high) == (0, 255):
            return image
        scaled = (image.astype(np.float32) - self.low) / (self.high - self.low)
        return np.clip(scaled, 0, 1, dtype=np.float32)

    def standardize(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """(H, W, C) that ``to_unit`` gave to zero mean and unit deviation, float32."""
        scale = np.float32(1 / 255 if image.dtype == np.uint8 else 1)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return (image.astype(np.float32) * scale - mean) / std

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """(H, W, C) of any type to what the network sees, (H, W, C) float32.

        Raises:
            SegkitError: As :meth:`as_trained`.
        """
        return self.standardize(self.to_unit(self.as_trained(image)))

    def as_trained(self, image: NDArray[Any]) -> NDArray[Any]:
        """(H, W, C) of any type to the intensities that images of the training have.

        Another type than that of the training is converted by its full scale: 8 bit, 16 bit, and
        0 to 1 for float.

        Raises:
            SegkitError: The type or the number of channels does not fit the training, or a value
                is not finite.
        """
        if image.ndim != 3 or image.shape[2] != len(self.mean):
            raise SegkitError(
                f"the model was trained on images of {len(self.mean)} channels, this one has the"
                f" shape {image.shape}: give (H, W, {len(self.mean)})."
            )
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise SegkitError(
                "the image has values that are not finite (NaN or infinite): replace them first."
            )
        return self._converted(image)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Normalization:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**data, "mean": tuple(data["mean"]), "std": tuple(data["std"])})

    def _converted(self, image: NDArray[Any]) -> NDArray[Any]:
        given = str(image.dtype)
        if given == "bool":
            image, given = image.astype(np.uint8) * 255, "uint8"
        if given.startswith("float"):
            image, given = image.astype(np.float32), "float32"
        if given == self.dtype:
            return image
        if self.dtype == "float32" or (given not in FULL_SCALE and given != "float32"):
            raise SegkitError(
                f"the model was trained on {self.dtype} images, this one is {image.dtype}: convert"
                f" it to {self.dtype} in the units of the training."
            )
        if given == "float32":
            top = float(image.max(initial=0))
            if top > 1.5:
                raise SegkitError(
                    f"the model was trained on {self.dtype} images; a float image is then read on"
                    f" a scale of 0 to 1, but this one reaches {top:g}: scale it to that."
                )
        return image.astype(np.float32) * (FULL_SCALE[self.dtype] / FULL_SCALE.get(given, 1.0))
