"""Grey, RGB and opacity become each other, and nothing else does."""

import numpy as np
import pytest

from segkit.data.channels import with_channels
from segkit.errors import SegkitError


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_becomes_what(dtype: str) -> None:
    image = (np.arange(2 * 3 * 4).reshape(2, 3, 4) * 7).astype(dtype)
    for given, wanted, expected in [
        (image[..., :1], 3, image[..., [0, 0, 0]]),
        (image[..., :2], 3, image[..., [0, 0, 0]]),
        (image, 3, image[..., :3]),
        (image[..., :2], 1, image[..., :1]),
        (image, 1, image[..., 1:2]),  # the mean of an arithmetic series
        (image[..., :3], 1, image[..., 1:2]),
        (image, 4, image),
    ]:
        got = with_channels(given, wanted)
        assert got.dtype == given.dtype
        np.testing.assert_array_equal(got, expected)


def test_the_mean_of_large_numbers_does_not_overflow() -> None:
    assert with_channels(np.full((1, 1, 3), 65_535, np.uint16), 1) == 65_535


@pytest.mark.parametrize(("given", "wanted"), [(12, 3), (12, 1), (3, 4), (5, 3)])
def test_what_means_nothing(given: int, wanted: int) -> None:
    with pytest.raises(SegkitError, match=f"{given} channels cannot be made one of {wanted}"):
        with_channels(np.zeros((2, 2, given), np.uint8), wanted)
