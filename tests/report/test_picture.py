import base64
import io

import numpy as np
import pytest
from PIL import Image

from segkit.report.picture import as_png, data_uri, sized


def test_png_keeps_every_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    for data in (as_png(picture), base64.b64decode(data_uri(picture).split(",")[1])):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((900, 1000), (900, 1000)),
        ((500, 3200), (250, 1600)),
        ((1, 5000), (1, 1600)),
        ((7, 23), (238, 782)),
        ((2000, 10), (2000, 10)),
    ],
)
def test_wide_pictures_shrink_and_tiny_ones_grow(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    shown = sized(np.zeros((*size, 3), dtype=np.uint8))
    assert shown.shape == (*expected, 3)
    assert shown.dtype == np.uint8
