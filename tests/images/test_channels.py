"""Grey, RGB and alpha are converted, and nothing else is."""

import numpy as np
import pytest

from segkit.core.errors import SegkitError
from segkit.images.raster import convert_channels


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_conversions(dtype: str) -> None:
    image = (np.arange(2 * 3 * 4).reshape(2, 3, 4) * 7).astype(dtype)
    image[..., 3] = 1 if dtype == "float32" else np.iinfo(dtype).max  # opaque
    for given, wanted, expected in [
        (image[..., :1], 3, image[..., [0, 0, 0]]),
        (image[..., [0, 3]], 3, image[..., [0, 0, 0]]),
        (image, 3, image[..., :3]),
        (image[..., [0, 3]], 1, image[..., :1]),
        (image, 1, image[..., 1:2]),  # the mean of an arithmetic series
        (image[..., :3], 1, image[..., 1:2]),
        (image, 4, image),
    ]:
        got = convert_channels(given, wanted)
        assert got.dtype == given.dtype
        np.testing.assert_array_equal(got, expected)


def test_a_measured_channel_is_not_dropped() -> None:
    """A second stain is not alpha, nor is a fourth band that hides something."""
    for dtype, channels in [("uint8", 2), ("uint8", 4), ("uint16", 4), ("float32", 4)]:
        image = np.arange(4 * channels).reshape(2, 2, channels).astype(dtype)
        for wanted in (1, 3):
            with pytest.raises(SegkitError, match="Provide exactly the channels used in training"):
                convert_channels(image, wanted)


def test_the_mean_of_large_numbers_does_not_overflow() -> None:
    assert convert_channels(np.full((1, 1, 3), 65_535, np.uint16), 1) == 65_535


@pytest.mark.parametrize(("given", "wanted"), [(12, 3), (12, 1), (3, 4), (5, 3)])
def test_conversions_that_are_refused(given: int, wanted: int) -> None:
    with pytest.raises(SegkitError, match=f"{given} channels? cannot be converted to {wanted}"):
        convert_channels(np.zeros((2, 2, given), np.uint8), wanted)
