"""The same value of a pixel is the same number to the network, whatever the rest of the image."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from pydantic import TypeAdapter

from segkit.checkpoint.normalization import Normalization
from segkit.core.errors import SegkitError

EIGHT = Normalization("uint8", 0, 255, (0.5,), (0.25,))
SIXTEEN = Normalization("uint16", 100, 4095, (0.5,), (0.25,))
FLOAT = Normalization("float32", -1000, 3000, (0.5,), (0.25,))


@pytest.mark.parametrize("norm", [EIGHT, SIXTEEN, FLOAT], ids=lambda n: n.dtype)
def test_a_dark_image_stays_dark(norm: Normalization) -> None:
    dark = np.full((2, 2, 1), 10, norm.dtype)
    bright = dark.copy()
    bright[0] = 200
    assert (norm(dark)[1] == norm(bright)[1]).all()
    assert norm(bright)[0, 0, 0] > norm(dark)[0, 0, 0]


@pytest.mark.parametrize("norm", [EIGHT, SIXTEEN, FLOAT], ids=lambda n: n.dtype)
def test_the_formula(norm: Normalization) -> None:
    values = np.array([-2000, -1000, 0, 100, 255, 2000, 4095, 60_000])
    info = np.iinfo(norm.dtype) if norm.dtype != "float32" else np.finfo("float32")
    values = values[(values >= info.min) & (values <= info.max)]
    image = values.astype(norm.dtype).reshape(1, -1, 1)
    unit = np.clip((values - norm.low) / (norm.high - norm.low), 0, 1)
    got = norm(image)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0, :, 0], (unit - 0.5) / 0.25, atol=1e-5)
    np.testing.assert_array_equal(got, norm.standardize(norm.to_unit(image)))


def test_each_channel_has_its_own_mean() -> None:
    norm = Normalization("uint8", 0, 255, (0.0, 1.0), (1.0, 0.5))
    image = np.full((1, 1, 2), 255, np.uint8)
    np.testing.assert_allclose(norm(image)[0, 0], [1, 0], atol=1e-6)


def test_8_bits_stay_8_bits_until_the_end() -> None:
    image = np.zeros((2, 2, 1), np.uint8)
    assert EIGHT.to_unit(image).dtype == np.uint8
    assert SIXTEEN.to_unit(image.astype(np.uint16)).dtype == np.float32


def test_other_types_are_converted_by_their_full_scale() -> None:
    image = np.array([[0, 51, 255]], np.uint8)[..., None]
    wanted = EIGHT(image)
    for other in (image.astype(np.uint16) * 257, image / 255, (image / 255).astype(np.float32)):
        np.testing.assert_allclose(EIGHT(other), wanted, atol=1e-5)
    np.testing.assert_array_equal(EIGHT(image > 100), EIGHT((image > 100).astype(np.uint8) * 255))
    np.testing.assert_allclose(SIXTEEN(image), SIXTEEN(image.astype(np.uint16) * 257), atol=1e-5)
    np.testing.assert_array_equal(FLOAT(np.full((1, 1, 1), 7.0)), FLOAT(np.full((1, 1, 1), 7, "f")))


@pytest.mark.parametrize(
    ("norm", "image", "message"),
    [
        (EIGHT, np.zeros((2, 2, 3), np.uint8), r"1 channels.*\(2, 2, 3\)"),
        (EIGHT, np.zeros((2, 2), np.uint8), "give"),
        (EIGHT, np.full((2, 2, 1), 200.0), "200: scale it"),
        (EIGHT, np.full((2, 2, 1), np.nan), "not finite"),
        (FLOAT, np.full((2, 2, 1), np.inf, "f"), "not finite"),
        (EIGHT, np.zeros((2, 2, 1), np.int32), "int32"),
        (FLOAT, np.zeros((2, 2, 1), np.uint8), "convert"),
    ],
)
def test_what_does_not_fit_the_training(
    norm: Normalization, image: np.ndarray, message: str
) -> None:
    with pytest.raises(SegkitError, match=message):
        norm(image)


def test_it_comes_back_from_json() -> None:
    norm = Normalization("uint16", 3.5, 4095.25, (0.1, 0.2), (0.3, 0.4))
    again = TypeAdapter(Normalization).validate_python(json.loads(json.dumps(asdict(norm))))
    assert again == norm
