"""Crops and augmentation: aligned, the same for the same seed, ignored where nothing was seen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from segkit.core.labels import IGNORE_INDEX
from segkit.data.augment.cropping import cut_out
from segkit.data.augment.transforms import TrainTransform, check_augment

PRESETS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["transforms"]
    for path in sorted((Path(__file__).parents[2] / "conf" / "augment").glob("*.yaml"))
    if path.stem != "auto"
}
WARPS = [
    {"name": "Affine", "rotate": [30, 30], "p": 1.0},
    {"name": "Affine", "scale": [0.5, 0.5], "p": 1.0},
    {"name": "ElasticTransform", "alpha": 300, "sigma": 5, "p": 1.0},
    {"name": "GridDistortion", "num_steps": 3, "distort_limit": 0.9, "p": 1.0},
    {"name": "PadIfNeeded", "min_height": 90, "min_width": 90, "p": 1.0},
    {"name": "Perspective", "scale": [0.2, 0.2], "fit_output": True, "p": 1.0},
]


def positions(height: int, width: int) -> np.ndarray:
    """An image whose values say where they are: row + 1, column + 1; 0 is outside."""
    rows, columns = np.mgrid[1 : height + 1, 1 : width + 1]
    return np.stack([rows, columns], axis=2).astype(np.uint8)


def test_there_are_presets() -> None:
    assert set(PRESETS) >= {"none", "light", "medium", "microscopy"}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_every_preset_works_on_any_channels(preset: str, dtype: str, channels: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50, channels)).astype(np.uint8)
    image = image if dtype == "uint8" else image.astype(np.float32) / 255
    before, labels = image.copy(), rng.integers(0, 3, (40, 50)).astype(np.uint8)
    always = [{**options, "p": 1.0} for options in PRESETS[preset]]
    assert check_augment(always) == []
    for transform in (TrainTransform((24, 36), PRESETS[preset]), TrainTransform((24, 36), always)):
        assert transform.unfit(channels, image.dtype) == []
        for seed in range(4):
            crop, target = transform(image, labels, seed)
            assert (crop.shape, crop.dtype) == ((24, 36, channels), image.dtype)
            assert (target.shape, target.dtype) == ((24, 36), np.uint8)
            assert set(np.unique(target)) <= {0, 1, 2, IGNORE_INDEX}
            assert crop.min() >= 0
            assert crop.max() <= (255 if dtype == "uint8" else 1)
    np.testing.assert_array_equal(image, before)  # a source may hold it


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_dim_objects_stay_visible(preset: str, dtype: str) -> None:
    """A shift by a share of the full scale would turn dark fluorescence images black."""
    labels = np.zeros((64, 64), np.uint8)
    labels[24:40, 24:40] = 1
    image = np.where(labels, 40, 8).astype(np.uint8)[..., None]
    image = image if dtype == "uint8" else image.astype(np.float32) / 255
    full = 255 if dtype == "uint8" else 1
    transform = TrainTransform((64, 64), PRESETS[preset])
    for seed in range(60):
        crop, target = transform(image, labels, seed)
        assert crop[target == 1].mean() - crop[target == 0].mean() > 0.01 * full


@pytest.mark.parametrize("options", WARPS, ids=lambda o: o["name"])
@pytest.mark.parametrize("layers", [0, 1, 2, 3, 5, 9])
def test_what_is_warped_in_is_ignored(options: dict[str, Any], layers: int) -> None:
    image = np.full((48, 48, 2), 200, np.uint8)
    labels = np.ones((48, 48, layers) if layers else (48, 48), np.uint8)
    transform = TrainTransform((64, 64), [options])
    image, labels = transform(image, labels, 5)
    assert labels.shape[:2] == image.shape[:2] == (64, 64)
    assert set(np.unique(labels)) == {1, IGNORE_INDEX}
    flat = labels.reshape(64, 64, -1)
    assert (flat == flat[..., :1]).all()  # in every layer
    outside = image[..., 0] == 0
    assert outside.sum() > 100
    assert (flat[outside] == IGNORE_INDEX).all()
    assert (flat[image[..., 0] == 200] == 1).mean() > 0.9  # but for the interpolated rim


def test_layers_stay_with_their_image() -> None:
    image = np.random.default_rng(0).integers(1, 255, (40, 40, 1)).astype(np.uint8)
    layers = np.concatenate([image > 80, image > 120, image > 160], axis=2).astype(np.uint8)
    augment = [{"name": "D4", "p": 1.0}, {"name": "HorizontalFlip"}]
    transform = TrainTransform((20, 30), augment)
    for seed in range(10):
        crop, target = transform(image, layers, seed)
        for number, limit in enumerate((80, 120, 160)):
            np.testing.assert_array_equal(target[..., number], crop[..., 0] > limit)


def test_pixels_that_are_dropped_keep_their_labels() -> None:
    options = {"name": "CoarseDropout", "p": 1.0, "fill": 0}
    image, labels = np.full((32, 32, 1), 9, np.uint8), np.ones((32, 32), np.uint8)
    crop, target = TrainTransform((32, 32), [options])(image, labels, 0)
    assert (crop == 0).any()
    assert (target == 1).all()


@pytest.mark.parametrize("size", [(7, 5), (3, 60), (1, 1)])
def test_images_smaller_than_the_crop_are_padded(size: tuple[int, int]) -> None:
    image, labels = positions(*size), np.ones(size, np.uint8)
    crop, target = TrainTransform((16, 16), [])(image, labels, 0)
    assert crop.shape == (16, 16, 2)
    np.testing.assert_array_equal(target == 1, crop[..., 0] > 0)
    assert (target == 1).sum() == min(size[0], 16) * min(size[1], 16)


@pytest.mark.parametrize("name", ["D4", "RandomRotate90", "Transpose"])
def test_a_crop_that_is_not_square_is_turned_without_a_loss(name: str) -> None:
    transform = TrainTransform((16, 48), [{"name": name, "p": 1.0}])
    for seed in range(8):
        crop, target = transform(positions(64, 64), np.ones((64, 64), np.uint8), seed)
        assert crop.shape == (16, 48, 2)
        assert (target == 1).all()


@pytest.mark.parametrize("name", ["RandomScale", "RandomResizedCrop", "Resize", "CropAndPad"])
def test_transforms_that_change_the_size(name: str) -> None:
    options = {
        "RandomResizedCrop": {"size": [20, 20]},
        "Resize": {"height": 20, "width": 60},
        "CropAndPad": {"px": 5, "keep_size": False},
    }.get(name, {})
    transform = TrainTransform((32, 40), [{"name": name, "p": 1.0, **options}])
    crop, target = transform(positions(60, 60), np.ones((60, 60), np.uint8), 1)
    assert (crop.shape, target.shape) == ((32, 40, 2), (32, 40))


# --- randomness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_is_the_same_crop(preset: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 60, 3)).astype(np.uint8)
    labels = rng.integers(0, 2, (60, 60)).astype(np.uint8)
    one, two = (TrainTransform((32, 32), PRESETS[preset]) for _ in range(2))
    first = [one(image, labels, seed) for seed in range(6)]
    for seed in reversed(range(6)):  # whatever was drawn before
        for a, b in zip(two(image, labels, seed), first[seed], strict=True):
            np.testing.assert_array_equal(a, b)
    assert len({crop.tobytes() for crop, _ in first}) == 6


def test_transforms_are_drawn_independently() -> None:
    augment = [{"name": "HorizontalFlip", "p": 0.5}, {"name": "VerticalFlip", "p": 0.5}]
    transform = TrainTransform((4, 4), augment)
    image, labels = positions(4, 4), np.ones((4, 4), np.uint8)
    seen = [tuple(transform(image, labels, seed)[0][0, 0]) for seed in range(200)]
    counts = [seen.count(corner) for corner in ((1, 1), (1, 4), (4, 1), (4, 4))]
    assert sum(counts) == 200
    assert min(counts) > 30


def test_every_place_is_drawn() -> None:
    transform = TrainTransform((4, 4), [])
    image, labels = positions(8, 6), np.ones((8, 6), np.uint8)
    corners = {tuple(transform(image, labels, seed)[0][0, 0]) for seed in range(300)}
    assert corners == {(row, column) for row in range(1, 6) for column in range(1, 4)}


# --- context -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 30), (12, 10), (7, 5)])
def test_the_labels_are_the_middle_of_an_image_with_context(size: tuple[int, int]) -> None:
    context, crop = 6, (12, 10)
    place = positions(*size)
    transform = TrainTransform(crop, [], context)
    for seed in range(20):
        image, labels = transform(place, place[..., 0], seed)
        assert image.shape == (24, 22, 2)
        assert labels.shape == crop
        inside = labels != IGNORE_INDEX
        np.testing.assert_array_equal(labels[inside], image[6:-6, 6:-6, 0][inside])
        assert inside.sum() == min(size[0], 12) * min(size[1], 10)
        if inside.all():
            # every row is the one after it or before it, or the same one at the mirrored border
            steps = np.abs(np.diff(image[..., 0].astype(int), axis=0))
            assert set(np.unique(steps)) <= {0, 1}
            assert image.min() >= 1


def test_context_is_mirrored_however_small_the_image_is() -> None:
    row = np.array([[1, 2, 3]], np.uint8)[..., None]
    got = cut_out(row, (slice(0, 11), slice(0, 13)), 5)
    assert got.shape == (11, 13, 1)
    assert got[0, :, 0].tolist() == [2, 3, 3, 2, 1, 1, 2, 3, 3, 2, 1, 1, 2]


def test_what_is_warped_in_with_context_is_ignored() -> None:
    transform = TrainTransform((20, 20), [{"name": "Affine", "scale": [0.5, 0.5], "p": 1.0}], 8)
    image, labels = transform(np.full((36, 36, 1), 9, np.uint8), np.ones((36, 36, 2), np.uint8), 0)
    assert image.shape == (36, 36, 1)
    assert labels.shape == (20, 20, 2)
    assert set(np.unique(labels)) == {1, IGNORE_INDEX}
    assert (labels[image[8:-8, 8:-8, 0] == 0] == IGNORE_INDEX).all()


# --- what is refused -----------------------------------------------------------------------------


def test_wrong_transforms_are_said_all_at_once() -> None:
    problems = check_augment(
        [
            {"name": "HorizontalFlop"},
            {"p": 0.5},
            {"name": "HorizontalFlip", "probability": 1},
            {"name": "GaussNoise", "std_range": [3, 5]},
            {"name": "DualTransform"},
            {"name": "HorizontalFlip", "p": 0.5},
        ]
    )
    assert [problem.split(":")[0] for problem in problems] == [
        f"augment.transforms[{number}]" for number in range(5)
    ]
    assert "Did you mean 'HorizontalFlip'" in problems[0]
    assert "no option 'probability'" in problems[2]
    assert "refuses its options" in problems[3]


def test_transforms_that_do_not_fit_the_images() -> None:
    names = ("ColorJitter", "HorizontalFlip", "ToFloat", "ChannelDropout")
    transform = TrainTransform((32, 32), [{"name": name, "p": 0.1} for name in names])
    assert [p.split(":")[0] for p in transform.unfit(1, np.uint8)] == [
        "augment.transforms[2]",
        "augment.transforms[3]",
    ]
    [problem] = transform.unfit(12, np.dtype("float32"))
    assert "ColorJitter cannot be applied to images of 12 channels, float32" in problem
    assert "1-channel or 3-channel" in problem


def test_colours_of_grey_images_are_left_without_a_warning() -> None:
    transform = TrainTransform((8, 8), [{"name": "HueSaturationValue", "p": 1.0}])
    image = np.full((8, 8, 1), 9, np.uint8)
    assert transform(image, np.zeros((8, 8), np.uint8), 0)[0].shape == (8, 8, 1)
