import numpy as np
import pytest

from segkit.report.display import to_display


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.float16, np.float64])
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 1), (7, 5, 2), (7, 5, 3), (7, 5, 4), (1, 1, 12)])
def test_every_type_and_channel_count_becomes_rgb(dtype: type, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    shown = to_display(image)
    assert (shown.shape, shown.dtype) == ((*shape[:2], 3), np.uint8)


BRIGHT = np.pad(np.full((1, 1), 3.5), 20)  # one bright pixel on a flat ground
RANDOM = np.random.default_rng(0).integers(0, 256, (9, 8, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (np.array([[True, False]]), [[255] * 3, [0] * 3]),
        (np.array([[[255, 0], [0, 255]]], np.uint8), [[0, 255, 0], [255, 0, 255]]),
        (np.arange(256, dtype=np.uint8).reshape(1, -1), [[n] * 3 for n in range(256)]),
        (np.array([[3, 40]], np.uint8), [[0] * 3, [255] * 3]),  # dark: stretched
        (RANDOM, RANDOM[..., :3]),
        (RANDOM[..., :3], RANDOM[..., :3]),
        (BRIGHT, np.where(BRIGHT, 255, 0)[..., None]),
        (np.full((4, 4), 77, np.uint8), 77),
        *((np.full((4, 4), value), 0) for value in (0.0, -3.0, 7.5, np.nan, np.inf)),
    ],
)
def test_channels_and_constant_images(image: np.ndarray, shown: object) -> None:
    pixels = np.broadcast_to(shown, (*image.shape[:2], 3))
    np.testing.assert_array_equal(to_display(image), pixels)


def test_16_bit_is_stretched_between_the_percentiles() -> None:
    values = np.full(1000, 1000, dtype=np.uint16)
    values[:500] = 200
    values[0], values[-1] = 0, 65535  # one dead and one hot pixel do not darken the image
    shown = to_display(values.reshape(25, 40)).reshape(-1, 3)
    assert shown[1:500].max() == 0
    assert shown[500:].min() == 255


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_numbers_are_stretched_as_floats_are(dtype: type) -> None:
    """By a table; what is masked is black."""
    values = np.random.default_rng(0).integers(20, 90, (40, 30)).astype(dtype)
    found, wanted = to_display(values), to_display(values.astype(np.float64))
    np.testing.assert_array_equal(found, wanted)
    masked = np.ma.masked_array(values, np.arange(1200).reshape(40, 30) < 300)
    assert not to_display(masked)[masked.mask].any()
    assert to_display(masked)[~masked.mask].any()


def test_rgb_is_stretched_as_one_and_bands_are_stretched_one_by_one() -> None:
    ramp = np.linspace(0, 1, 50)[None, :, None]
    image = np.concatenate([ramp, ramp / 2, ramp / 4, ramp, ramp], axis=2)
    assert to_display(image[..., :3])[0, -1].tolist()[1] < 140
    assert to_display(image)[0, -1].tolist() == [255, 255, 255]


def test_nan_is_black_and_infinity_is_white() -> None:
    image = np.linspace(1, 2, 100).reshape(10, 10)
    image[5, 5], image[5, 6] = np.nan, np.inf
    shown = to_display(image)
    assert shown[5, 5:7, 0].tolist() == [0, 255]
    assert 100 < shown[5, 4, 0] < 160
