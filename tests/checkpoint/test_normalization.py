"""Equal pixel values are equal input values, whatever the rest of the image; per channel."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from pydantic import TypeAdapter

from segkit.checkpoint.values import Normalization
from segkit.core.errors import SegkitError

EIGHT = Normalization("uint8", 0, 255, (0.5,), (0.25,))
SIXTEEN = Normalization("uint16", 100, 4095, (0.5,), (0.25,))
FLOAT = Normalization("float32", -1000, 3000, (0.5,), (0.25,))
BANDS = Normalization("float32", (-1000, -1), (3000, 1), (0.5, 0.25), (0.25, 0.5))


@pytest.mark.parametrize("norm", [EIGHT, SIXTEEN, FLOAT], ids=lambda n: n.dtype)
def test_a_dark_image_stays_dark(norm: Normalization) -> None:
    dark = np.full((2, 2, 1), 10, norm.dtype)
    bright = dark.copy()
    bright[0] = 200
    assert (norm(dark)[1] == norm(bright)[1]).all()
    assert norm(bright)[0, 0, 0] > norm(dark)[0, 0, 0]


@pytest.mark.parametrize("norm", [EIGHT, SIXTEEN, FLOAT, BANDS])
def test_the_formula(norm: Normalization) -> None:
    values = np.array([-2000, -1000, 0, 0.5, 100, 255, 2000, 4095, 60_000])
    info = np.iinfo(norm.dtype) if norm.dtype != "float32" else np.finfo("float32")
    values = values[(values >= info.min) & (values <= info.max)].astype(norm.dtype)
    image = np.repeat(values[None, :, None], len(norm.mean), axis=2)
    low, high = np.array(norm.low), np.array(norm.high)
    unit = np.clip((image - low) / (high - low), 0, 1)
    got = norm(image)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, (unit - norm.mean) / norm.std, atol=1e-5)
    np.testing.assert_array_equal(got, norm.standardize(norm.to_unit(image)))


def test_8_bits_stay_8_bits_until_the_end() -> None:
    image = np.zeros((2, 2, 1), np.uint8)
    assert EIGHT.to_unit(image).dtype == np.uint8
    assert SIXTEEN.to_unit(image.astype(np.uint16)).dtype == np.float32


def test_other_types_are_converted_by_their_full_scale() -> None:
    image = np.array([[0, 51, 255]], np.uint8)[..., None]
    wanted = EIGHT(image)
    for other in (image.astype(np.uint16) * 257, image / 255, (image / 255).astype(np.float32)):
        np.testing.assert_allclose(EIGHT(other), wanted, atol=1e-5)
    np.testing.assert_allclose(SIXTEEN(image), SIXTEEN(image.astype(np.uint16) * 257), atol=1e-5)
    np.testing.assert_array_equal(FLOAT(np.full((1, 1, 1), 7.0)), FLOAT(np.full((1, 1, 1), 7, "f")))


def test_booleans_are_the_numbers_0_and_1() -> None:
    image = np.random.default_rng(0).random((5, 4, 1)) > 0.5
    for norm in (EIGHT, SIXTEEN):
        np.testing.assert_array_equal(norm(image), norm(image.astype(np.uint8)))
    np.testing.assert_array_equal(FLOAT(image), FLOAT(image.astype(np.float32)))


@pytest.mark.parametrize(
    ("norm", "image", "message"),
    [
        (EIGHT, np.zeros((2, 2, 3), np.uint8), r"1 channels.*\(2, 2, 3\)"),
        (EIGHT, np.zeros((2, 2), np.uint8), "give"),
        (EIGHT, np.full((2, 2, 1), 200.0), "200: scale it"),
        (EIGHT, np.full((2, 2, 1), np.inf), "infinite"),
        (FLOAT, np.full((2, 2, 1), np.inf, "f"), "infinite"),
        (EIGHT, np.zeros((2, 2, 1), np.int32), "int32"),
        (FLOAT, np.zeros((2, 2, 1), np.uint8), "convert"),
    ],
)
def test_images_unlike_those_of_the_training(
    norm: Normalization, image: np.ndarray, message: str
) -> None:
    with pytest.raises(SegkitError, match=message):
        norm(image)


@pytest.mark.parametrize("norm", [EIGHT, BANDS])
def test_it_survives_json(norm: Normalization) -> None:
    again = TypeAdapter(Normalization).validate_python(json.loads(json.dumps(asdict(norm))))
    assert again == norm


# --- what is measured ----------------------------------------------------------------------------


def draw_pixels(*scales: tuple[float, float], dtype: str = "float32") -> np.ndarray:
    """(n, C): evenly distributed values from low to high in each channel."""
    rng = np.random.default_rng(0)
    return np.stack([rng.uniform(*scale, 20_000) for scale in scales], axis=1).astype(dtype)


@pytest.mark.parametrize(
    "scales",
    [((200, 2900), (-0.2, 0.9)), ((200, 2900), (-0.2, 0.9), (0, 45)), ((5, 5), (0, 1))],
    ids=["elevation and NDVI", "and slope", "a constant channel"],
)
def test_channels_of_different_scales_are_all_normalized(
    scales: tuple[tuple[float, float], ...],
) -> None:
    pixels = draw_pixels(*scales)
    norm = Normalization.fit([pixels[:5000], pixels[5000:]])
    result = norm(pixels[None])[0]
    for channel, (low, high) in enumerate(scales):
        if high > low:
            assert result[:, channel].mean() == pytest.approx(0, abs=1e-4)
            assert result[:, channel].std() == pytest.approx(1, abs=1e-4)
            assert len(np.unique(result[:, channel])) > 0.99 * len(np.unique(pixels[:, channel]))
        else:
            assert np.isfinite(result[:, channel]).all()


def test_a_sparse_marker_among_many_channels_is_not_clipped() -> None:
    pixels = draw_pixels(*[(100, 400)] * 20, dtype="uint16")
    spots = np.arange(len(pixels)) % 100 == 0
    pixels[spots, 7] = np.linspace(20_000, 60_000, spots.sum())
    norm = Normalization.fit([pixels])
    spot_values = norm(pixels[None])[0, spots, 7]
    assert len(np.unique(spot_values)) > 0.85 * spots.sum()  # a tenth lies above the percentile
    assert spot_values.min() > norm(pixels[None])[0, ~spots, 7].max() + 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_grey_and_rgb_images_have_one_range(channels: int, dtype: str) -> None:
    """The range is that of all channels together, as in version 0.1.0."""
    scales = [(10, 200), (30, 120), (60, 250)][:channels]
    pixels = draw_pixels(*scales, dtype=dtype)
    norm = Normalization.fit([pixels])
    low, high = (0, 255) if dtype == "uint8" else np.percentile(pixels, (0.1, 99.9))
    assert (norm.low, norm.high) == (low, high)
    unit = np.clip((pixels.astype(np.float64) - low) / (high - low), 0, 1)
    assert norm.mean == tuple(unit.mean(axis=0))
    assert norm.std == tuple(unit.std(axis=0))
    if dtype == "uint8":
        expected = pixels * np.float32(1 / 255) - np.array(norm.mean, np.float32)
        expected = expected / np.array(norm.std, np.float32)
        np.testing.assert_array_equal(norm(pixels[None])[0], expected)
