from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from segkit.checkpoint.values import Normalization
from segkit.inference.bit_depth import DepthWatch, Extremes


def watch(dtype="uint8", low=0, high=255) -> tuple[DepthWatch, list[str]]:
    said: list[str] = []
    norm = Normalization(dtype, low, high, (0.5,), (0.5,))
    return DepthWatch(SimpleNamespace(normalization=norm), said.append), said


def image(highest: float, dtype=np.uint16) -> np.ndarray:
    values = np.zeros((4, 5, 1), dtype)
    values[2, 3] = highest
    return values


EIGHT, TWELVE = ("uint8", 0, 255), ("uint16", 0, 3900)
SATURATED = (
    r"The model was trained on uint16 .* from 0 to 3900, as data of 12 bits.* saturated.*"
    " 12 bits reach 4095"
)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (EIGHT, image(4095), r"has 16 bits and no value above 4095, as data of 12 bits.* by 16 "),
        (EIGHT, image(1023), r"no value above 1023, as data of 10 bits.* by 64 "),
        (EIGHT, image(255), r"no value above 255, as data of 8 bits.* by 256 "),
        (EIGHT, image(1), r"no value above 1, as data of 8 bits"),
        (TWELVE, image(200, np.uint8), "is uint8. " + SATURATED),
        (TWELVE, image(0.9, np.float32), "is float32. " + SATURATED),
        (EIGHT, image(-1, np.float32), r"is float32 with values from -1 to 0\. .* of 0 to 1"),
        (TWELVE, image(-0.5, np.float32), r"becomes black or white\. Scale it to 0 to 1, or "),
        (EIGHT, image(1.4, np.float32), "with values from 0 to 1.4"),
        (EIGHT, image(1, np.bool_), "is boolean, .* numbers 0 and 1.* from 0 to 255, .* are black"),
        # 100 of 8 bits are 25,700 of 16
        (("uint16", 30_000, 60_000), image(100, np.uint8), r"value is 2\.57e\+04, so it is black"),
    ],
)
def test_values_that_cannot_match_the_training_are_reported_once(model, given, message):
    depths, said = watch(*model)
    depths.check_image("a.tif", given)
    depths.check_image("b.tif", given)
    (text,) = said
    assert re.match(rf"a\.tif .*{message}", text)


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (EIGHT, image(4096)),
        (EIGHT, image(0)),
        (EIGHT, image(200, np.uint8)),
        (EIGHT, image(0.5, np.float32)),
        (EIGHT, image(-0.05, np.float32)),
        (EIGHT, image(200, np.float32)),  # is an error anyway
        (("float32", -1, 1), image(-1, np.float32)),
        (("uint16", 0, 65_535), image(200, np.uint8)),
        (TWELVE, image(0, np.uint8)),
        (TWELVE, image(10, np.uint8)),
        (("uint16", 30_000, 60_000), image(7)),  # its own type: its own units
        (("float32", 0, 9), image(4095)),
        (EIGHT, image(0, np.bool_)),
        (("float32", 0, 9), image(1, np.bool_)),
    ],
)
def test_nothing_is_said_of_others(model, given):
    depths, said = watch(*model)
    depths.check_image("a.tif", given)
    assert not said


def test_extremes_are_those_of_all_windows():
    values = np.arange(20, dtype=np.uint16).reshape(4, 5, 1)
    whole = SimpleNamespace(
        shape=values.shape, read=lambda y, x, h, w: values[y : y + h, x : x + w]
    )
    seen = Extremes(whole)
    assert seen.shape == (4, 5, 1)
    np.testing.assert_array_equal(seen.read(1, 2, 2, 2), values[1:3, 2:4])
    seen.read(0, 0, 1, 1)
    assert seen.values == (0, 13)
    seen = Extremes(SimpleNamespace(shape=values.shape, read=lambda *_: values * -0.5))
    seen.read(0, 0, 1, 1)
    assert seen.values == (-9.5, 0)
