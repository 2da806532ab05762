from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from segkit.inference.bit_depth import DepthWatch, Highest


def watch(dtype: str = "uint8") -> tuple[DepthWatch, list[str]]:
    said: list[str] = []
    return DepthWatch(
        SimpleNamespace(normalization=SimpleNamespace(dtype=dtype)), said.append
    ), said


def image(highest: int, dtype=np.uint16) -> np.ndarray:
    values = np.zeros((4, 5, 1), dtype)
    values[2, 3] = highest
    return values


@pytest.mark.parametrize(
    ("highest", "bits", "factor"), [(4095, 12, 16), (1023, 10, 64), (255, 8, 256), (1, 8, 256)]
)
def test_values_of_fewer_bits_are_said_once_with_file_and_remedy(highest, bits, factor):
    depths, said = watch()
    depths.see("a.tif", image(highest))
    depths.see("b.tif", image(highest))
    (text,) = said
    assert text.startswith(f"a.tif has 16 bits and no value above {highest}")
    assert f"data of {bits} bits" in text
    assert f"multiply its values by {factor}" in text


@pytest.mark.parametrize("given", [image(4096), image(0), image(200, np.uint8)])
def test_nothing_is_said_of_others(given):
    depths, said = watch()
    depths.see("a.tif", given)
    assert not said


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_nothing_is_said_where_the_model_knows_such_values(dtype):
    depths, said = watch(dtype)
    assert not depths.wants(np.dtype(np.uint16))
    depths.see("a.tif", image(4095))
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
