from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from segkit.checkpoint.values import Normalization
from segkit.inference.bit_depth import DepthWatch, Highest


def watch(dtype="uint8", low=0, high=255) -> tuple[DepthWatch, list[str]]:
    said: list[str] = []
    norm = Normalization(dtype, low, high, (0.5,), (0.5,))
    return DepthWatch(SimpleNamespace(normalization=norm), said.append), said


def image(highest: float, dtype=np.uint16) -> np.ndarray:
    values = np.zeros((4, 5, 1), dtype)
    values[2, 3] = highest
    return values


@pytest.mark.parametrize(
    ("highest", "bits", "factor"), [(4095, 12, 16), (1023, 10, 64), (255, 8, 256), (1, 8, 256)]
)
def test_16_bit_images_that_use_fewer_are_reported_once_with_a_remedy(highest, bits, factor):
    depths, said = watch()
    depths.see("a.tif", image(highest))
    depths.see("b.tif", image(highest))
    (text,) = said
    assert text.startswith(f"a.tif has 16 bits and no value above {highest}")
    assert f"data of {bits} bits" in text
    assert f"multiply its values by {factor}" in text


@pytest.mark.parametrize("given", [image(200, np.uint8), image(0.9, np.float32)])
def test_other_types_on_a_model_of_12_bits_in_16_saturate(given):
    depths, said = watch("uint16", 0, 3900)
    depths.see("a.png", given)
    depths.see("b.png", given)
    (text,) = said
    assert text.startswith(f"a.png is {given.dtype}. The model was trained on uint16 images")
    assert "from 0 to 3900, as data of 12 bits" in text
    assert (
        "saturated. Convert it to uint16 in the units of the training: 12 bits reach 4095" in text
    )


def test_an_image_below_the_range_of_the_training_is_black():
    depths, said = watch("uint16", 30_000, 60_000)
    depths.see("a.png", image(100, np.uint8))  # 25,700 of 16 bits
    (text,) = said
    assert "its highest value is 2.57e+04, so it is black" in text


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (("uint8", 0, 255), image(4096)),
        (("uint8", 0, 255), image(0)),
        (("uint8", 0, 255), image(200, np.uint8)),
        (("uint8", 0, 255), image(0.5, np.float32)),
        (("uint16", 0, 65_535), image(200, np.uint8)),
        (("uint16", 0, 3900), image(0, np.uint8)),
        (("uint16", 0, 3900), image(10, np.uint8)),
        (("uint16", 30_000, 60_000), image(7)),  # its own type: its own units
        (("float32", 0, 9), image(4095)),
        (("uint8", 0, 255), image(1, np.bool_)),
    ],
)
def test_nothing_is_said_of_others(model, given):
    depths, said = watch(*model)
    depths.see("a.tif", given)
    assert not said


def test_the_highest_value_is_that_of_all_windows():
    values = np.arange(20, dtype=np.uint16).reshape(4, 5, 1)
    whole = SimpleNamespace(
        shape=values.shape, read=lambda y, x, h, w: values[y : y + h, x : x + w]
    )
    seen = Highest(whole)
    assert seen.shape == (4, 5, 1)
    np.testing.assert_array_equal(seen.read(1, 2, 2, 2), values[1:3, 2:4])
    seen.read(0, 0, 1, 1)
    assert seen.value == 13
