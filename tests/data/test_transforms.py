"""Crops and augmentation: bit-exact, aligned, reproducible, ignored where nothing was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import yaml
from conftest import train_quick
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX
from segkit.data.augment import (
    TURNS,
    TrainTransform,
    _build_transform,
    _without_warnings,
    check_augment,
    count_by_row,
    cut_out,
)

PRESETS = {
    path.stem: (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("transforms", [])
    for path in sorted((Path(__file__).parents[2] / "conf" / "augment").glob("*.yaml"))
    if path.stem != "auto"
}
RESIZING = [
    {"name": "Affine", "rotate": [30, 30]},
    {"name": "CoarseDropout"},
    {"name": "CropAndPad", "px": 5, "keep_size": False},
    {"name": "GridDistortion", "num_steps": 3, "distort_limit": 0.9},
    {"name": "PadIfNeeded", "min_height": 90, "min_width": 90},
    {"name": "Perspective", "scale": [0.2, 0.2], "fit_output": True},
    {"name": "RandomResizedCrop", "size": [20, 20]},
    {"name": "RandomScale", "scale_limit": 0.5},
    {"name": "Resize", "height": 20, "width": 60},
    {"name": "Transpose"},
]
WARPS = [
    {"name": "Affine", "rotate": [30, 30], "p": 1.0},
    {"name": "Affine", "scale": [0.5, 0.5], "p": 1.0},
    {"name": "ElasticTransform", "alpha": 300, "sigma": 5, "p": 1.0},
    {"name": "GridDistortion", "num_steps": 3, "distort_limit": 0.9, "p": 1.0},
    {"name": "PadIfNeeded", "min_height": 90, "min_width": 90, "p": 1.0},
    {"name": "Perspective", "scale": [0.2, 0.2], "fit_output": True, "p": 1.0},
]


# --- cutting first and augmenting the cut equals augmenting the whole image, bit for bit ---------


def augment_whole(
    crop: tuple[int, int],
    augment: list[dict[str, Any]],
    context: int,
    share: float,
    image: NDArray[Any],
    labels: NDArray[Any],
    seed: int,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The reference: the whole image is padded and passed to one Compose, which crops it."""
    c = context
    size = crop[0] + 2 * c, crop[1] + 2 * c
    turns = any(options["name"] in TURNS for options in augment)
    cut = (max(size), max(size)) if turns else size
    kept = (min(crop), min(crop)) if turns else crop
    margin = (cut[0] - kept[0]) // 2, (cut[1] - kept[1]) // 2
    pad = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": IGNORE_INDEX}
    steps = [A.PadIfNeeded(*cut, **pad), A.RandomCrop(*cut), *map(_build_transform, augment)]
    if augment:
        steps += [A.PadIfNeeded(*size, **pad), A.CenterCrop(*size)]
    image = np.pad(image, ((c, c), (c, c), (0, 0)), mode="symmetric")
    around = [(c, c), (c, c)] + [(0, 0)] * (labels.ndim - 2)
    labels = np.pad(labels, around, constant_values=IGNORE_INDEX)
    rng = np.random.default_rng((seed, 1))
    if rng.random() < share:
        window = draw_window(labels, cut, margin, rng)
        if window is not None:
            image, labels = image[window], labels[window]
    compose = A.Compose(steps)  # which resets the seeds of its steps
    own = np.random.SeedSequence(seed).generate_state(len(steps))
    for step, number in zip(steps, own, strict=True):
        step.set_random_seed(int(number))
    with _without_warnings():
        if labels.ndim == 2:
            result = compose(image=image, mask=labels)
            labels = result["mask"]
        else:
            layers = np.ascontiguousarray(labels.transpose(2, 0, 1))
            result = compose(image=image, masks=layers)
            labels = np.stack(list(result["masks"]), axis=2)
    return result["image"], labels[c : labels.shape[0] - c, c : labels.shape[1] - c]


def draw_window(labels: Any, cut: Any, margin: Any, rng: Any) -> Any:
    """The reference: list all pixels of the foreground and choose one."""
    if labels.ndim == 3:
        present = np.flatnonzero((labels == 1).any(axis=(0, 1)))
    else:
        present = np.setdiff1d(np.unique(labels), [0, IGNORE_INDEX])
    if not len(present):
        return None
    chosen = rng.choice(present)
    pixels = np.flatnonzero(labels == chosen if labels.ndim == 2 else labels[..., chosen] == 1)
    pixel = divmod(int(rng.choice(pixels)), labels.shape[1])
    window = []
    for p, length, side, inner in zip(pixel, labels.shape, cut, margin, strict=False):
        start = 0
        if length > side:
            first, last = max(0, p - side + 1 + inner), min(length - side, p - inner)
            if first <= last:
                start = int(rng.integers(first, last + 1))
            else:
                start = 0 if p < length // 2 else length - side
        window.append(slice(start, min(length, start + side)))
    return tuple(window)


def make_example(dtype: str, size: tuple[int, int], layers: int, channels: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, (*size, channels)).astype(np.uint8)
    image = image if dtype == "uint8" else image.astype(np.float32) / 255
    blobs = cv2.resize(rng.integers(0, 4, (9, 9)).astype(np.uint8), size[::-1], interpolation=0)
    if layers == 0:
        return image, blobs
    if layers == 1:  # ids
        return image, (blobs.astype(np.uint16) * 300)
    return image, np.stack([(blobs == n) for n in range(layers)], axis=2).astype(np.uint8)


def assert_same(one: tuple[Any, Any], two: tuple[Any, Any]) -> None:
    for a, b in zip(one, two, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_bit_exact(preset, dtype):
    augment = PRESETS[preset]
    for layers, channels, context, share, size in (
        (0, 1, 0, 0.0, (90, 70)),
        (1, 3, 0, 0.5, (90, 70)),
        (2, 1, 5, 0.5, (90, 70)),
        (0, 1, 9, 1.0, (30, 120)),
        (3, 3, 0, 0.7, (20, 17)),
    ):
        image, labels = make_example(dtype, size, layers, channels)
        transform = TrainTransform((40, 48), augment, context, share)
        counts = count_by_row(labels)
        for seed in range(5):
            wanted = augment_whole((40, 48), augment, context, share, image, labels, seed)
            assert_same(transform(image, labels, seed), wanted)
            cut = transform.cut(image, labels, seed, counts)
            assert_same(transform.augment(*cut, seed), wanted)


@pytest.mark.parametrize("options", RESIZING, ids=lambda o: o["name"])
def test_transforms_that_change_the_size_are_bit_exact(options):
    image, labels = make_example("uint8", (80, 100), 0, 3)
    for p in (0.0, 0.5, 1.0):
        augment = [{**options, "p": p}, {"name": "HorizontalFlip", "p": 0.5}]
        transform = TrainTransform((48, 40), augment, 4, 0.5)
        for seed in range(3):
            wanted = augment_whole((48, 40), augment, 4, 0.5, image, labels, seed)
            assert_same(transform(image, labels, seed), wanted)


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 15),
    st.data(),
)
def test_a_cut_equals_that_of_the_padded_image(size, sides, context, data):
    image = np.arange(size[0] * size[1] * 2).reshape(*size, 2)
    window = []
    for length, side in zip(size, sides, strict=True):
        inside = min(side, length + 2 * context)
        start = data.draw(st.integers(0, length + 2 * context - inside))
        window.append(slice(start, start + inside))
    rows, columns = window
    around = ((context, context), (context, context), (0, 0))
    mirrored = np.pad(image, around, mode="symmetric")[rows, columns]
    np.testing.assert_array_equal(cut_out(image, (rows, columns), context), mirrored)
    filled = np.pad(image, around, constant_values=7)[rows, columns]
    cut = cut_out(image, (rows, columns), context, 7)
    np.testing.assert_array_equal(cut, filled)
    cut[:] = -1  # a copy: the source may keep the image, or its file may be read-only
    assert image.min() == 0


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32), st.integers(0, 3))
def test_pixels_are_counted_row_by_row(height, width, seed, layers):
    rng = np.random.default_rng(seed)
    if layers:
        labels = rng.choice([0, 1, IGNORE_INDEX], (height, width, layers)).astype(np.uint8)
        maps = [(n, labels[..., n] == 1) for n in range(layers)]
    else:
        labels = rng.choice([0, 1, 5, IGNORE_INDEX, 60_000], (height, width)).astype(np.uint16)
        maps = [(int(value), labels == value) for value in np.unique(labels)]
    rows = [(value, row, int(n)) for value, at in maps for row, n in enumerate(at.sum(axis=1))]
    counted = count_by_row(labels)
    assert (counted.shape[0], counted.dtype) == (3, np.int32)
    assert [tuple(column) for column in counted.T.tolist()] == [row for row in rows if row[2]]


def test_many_ids_are_counted_in_several_blocks():
    labels = np.random.default_rng(0).integers(0, 65_000, (300, 60)).astype(np.uint16)
    pixels = sorted((int(value), row) for row in range(300) for value in labels[row])
    value, row, count = count_by_row(labels)
    assert list(zip(np.repeat(value, count), np.repeat(row, count), strict=True)) == pixels


# --- crops on the foreground ---------------------------------------------------------------------

H, W = 90, 120
IMAGE = np.arange(H * W, dtype=np.uint16).reshape(H, W, 1).view(np.uint8).reshape(H, W, 2)


def cut_crops(
    labels: np.ndarray, count: int = 300, share: float = 1.0, **options: Any
) -> list[Any]:
    transform = TrainTransform((16, 16), [], foreground_share=share, **options)
    return [transform(IMAGE, labels, seed)[1] for seed in range(count)]


def share_with(found: list[np.ndarray], value: int) -> float:
    return float(np.mean([(labels == value).any() for labels in found]))


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_share_of_crops_on_the_foreground(share):
    labels = np.zeros((H, W), np.uint8)
    labels[80:83, 110:113] = 1
    at_random = share_with(cut_crops(labels, share=0), 1)
    assert at_random < 0.1
    wanted = share + (1 - share) * at_random
    assert share_with(cut_crops(labels, share=share), 1) == pytest.approx(wanted, abs=0.07)


def test_ignored_pixels_are_not_foreground():
    labels = np.full((H, W), IGNORE_INDEX, np.uint8)
    labels[3, 4] = 1
    assert share_with(cut_crops(labels, 40), 1) == 1
    labels[3, 4] = 0
    assert share_with(cut_crops(labels, 40), 0) < 0.5  # no foreground: at random


def test_without_a_background_the_first_class_is_drawn_too():
    labels = np.ones((H, W), np.uint8)
    labels[70, 100] = 0
    assert share_with(cut_crops(labels, background=None), 0) == pytest.approx(0.5, abs=0.1)
    assert share_with(cut_crops(labels, background=0), 0) < 0.1


# --- images and labels stay aligned --------------------------------------------------------------


def make_positions(height: int, width: int) -> np.ndarray:
    """An image whose values are their positions: row + 1, column + 1; 0 is outside."""
    rows, columns = np.mgrid[1 : height + 1, 1 : width + 1]
    return np.stack([rows, columns], axis=2).astype(np.uint8)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 3), ("float32", 12)])
def test_every_preset_supports_any_channels(preset, dtype, channels):
    image, labels = make_example(dtype, (40, 50), 0, channels)
    before = image.copy()
    always = [{**options, "p": 1.0} for options in PRESETS[preset]]
    assert check_augment(always) == []
    for transform in (TrainTransform((24, 36), PRESETS[preset]), TrainTransform((24, 36), always)):
        assert transform.find_unsuitable(channels, image.dtype) == []
        for seed in range(3):
            crop, target = transform(image, labels, seed)
            assert (crop.shape, crop.dtype) == ((24, 36, channels), image.dtype)
            assert (target.shape, target.dtype) == ((24, 36), np.uint8)
            assert set(np.unique(target)) <= {*np.unique(labels), IGNORE_INDEX}
            assert 0 <= crop.min() <= crop.max() <= (255 if dtype == "uint8" else 1)
    np.testing.assert_array_equal(image, before)  # the source may keep it


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_dim_objects_stay_visible(preset, dtype):
    """A shift by a fraction of the full scale would turn dark fluorescence images black."""
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
@pytest.mark.parametrize("layers", [0, 1, 3, 9])
def test_pixels_warped_in_are_ignored(options, layers):
    image = np.full((48, 48, 2), 200, np.uint8)
    labels = np.ones((48, 48, layers) if layers else (48, 48), np.uint8)
    image, labels = TrainTransform((64, 64), [options])(image, labels, 5)
    assert labels.shape[:2] == image.shape[:2] == (64, 64)
    assert set(np.unique(labels)) == {1, IGNORE_INDEX}
    flat = labels.reshape(64, 64, -1)
    assert (flat == flat[..., :1]).all()  # in every layer
    outside = image[..., 0] == 0
    assert outside.sum() > 100
    assert (flat[outside] == IGNORE_INDEX).all()
    assert (flat[image[..., 0] == 200] == 1).mean() > 0.9  # except for the interpolated rim


def test_dropped_pixels_keep_their_labels():
    options = {"name": "CoarseDropout", "p": 1.0, "fill": 0}
    image, labels = np.full((32, 32, 1), 9, np.uint8), np.ones((32, 32), np.uint8)
    crop, target = TrainTransform((32, 32), [options])(image, labels, 0)
    assert (crop == 0).any()
    assert (target == 1).all()


@pytest.mark.parametrize("name", ["D4", "RandomRotate90", "Transpose"])
def test_a_turned_crop_that_is_not_square_loses_nothing(name):
    transform = TrainTransform((16, 48), [{"name": name, "p": 1.0}])
    for seed in range(8):
        crop, target = transform(make_positions(64, 64), np.ones((64, 64), np.uint8), seed)
        assert crop.shape == (16, 48, 2)
        assert (target == 1).all()


# --- what is refused -----------------------------------------------------------------------------


def test_wrong_transforms_are_reported_all_at_once():
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
    starts = [problem.split(":")[0] for problem in problems]
    assert starts == [f"augment.transforms[{number}]" for number in range(5)]
    assert "Did you mean 'HorizontalFlip'" in problems[0]
    assert "no option 'probability'" in problems[2]
    assert "refuses its options" in problems[3]


def test_transforms_that_do_not_support_the_images():
    names = ("ColorJitter", "HorizontalFlip", "ToFloat", "ChannelDropout")
    transform = TrainTransform((32, 32), [{"name": name, "p": 0.1} for name in names])
    starts = [problem.split(":")[0] for problem in transform.find_unsuitable(1, np.uint8)]
    assert starts == ["augment.transforms[2]", "augment.transforms[3]"]
    [problem] = transform.find_unsuitable(12, np.dtype("float32"))
    assert "ColorJitter cannot be applied to images with 12 channels, float32" in problem


def test_a_training_does_not_start_with_transforms_that_do_not_support_the_images(tmp_path):
    with pytest.raises(SegkitError, match=r"not fit the images:\n.*\[0\]: ChannelDropout .* 1 cha"):
        train_quick(tmp_path / "run", "augment.transforms=[{name:ChannelDropout,p:0.1}]")


def test_colour_transforms_leave_grey_images_unchanged_without_a_warning():
    transform = TrainTransform((8, 8), [{"name": "HueSaturationValue", "p": 1.0}])
    image = np.full((8, 8, 1), 9, np.uint8)
    assert transform(image, np.zeros((8, 8), np.uint8), 0)[0].shape == (8, 8, 1)


@pytest.mark.parametrize("name", ["Rotate", "Affine", "ElasticTransform", "RandomResizedCrop"])
def test_transforms_that_would_invent_labels_are_refused(name):
    options = {"size": [32, 32]} if name == "RandomResizedCrop" else {}
    options |= {"ElasticTransform": {"alpha": 50}, "Affine": {"rotate": 20}}.get(name, {})
    linear = TrainTransform((32, 32), [{"name": name, "mask_interpolation": 1, **options}])
    [problem] = linear.find_unsuitable(3, np.uint8)
    assert problem.startswith(f"augment.transforms[0]: {name} mixes the labels of neighbours")
    assert TrainTransform((32, 32), [{"name": name, **options}]).find_unsuitable(3, np.uint8) == []
