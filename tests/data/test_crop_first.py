"""Cutting first and augmenting the cut gives, to the bit, what augmenting the whole image gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.core.labels import IGNORE_INDEX
from segkit.data.augment.cropping import count_by_row, cut_out, foreground_window
from segkit.data.augment.transforms import TURNS, TrainTransform, _build, _without_warnings

PRESETS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["transforms"]
    for path in sorted((Path(__file__).parents[2] / "conf" / "augment").glob("*.yaml"))
    if path.stem != "auto"
}
RESIZING = [
    {"name": "Affine", "rotate": [30, 30]},
    {"name": "GridDistortion", "num_steps": 3, "distort_limit": 0.9},
    {"name": "PadIfNeeded", "min_height": 90, "min_width": 90},
    {"name": "Perspective", "scale": [0.2, 0.2], "fit_output": True},
    {"name": "RandomScale", "scale_limit": 0.5},
    {"name": "RandomResizedCrop", "size": [20, 20]},
    {"name": "CoarseDropout"},
    {"name": "Transpose"},
]


def whole_first(
    crop: tuple[int, int],
    augment: list[dict[str, Any]],
    context: int,
    share: float,
    image: NDArray[Any],
    labels: NDArray[Any],
    seed: int,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The plain way: all of the image is padded and handed to one Compose, which crops it."""
    c = context
    size = crop[0] + 2 * c, crop[1] + 2 * c
    turns = any(options["name"] in TURNS for options in augment)
    cut = (max(size), max(size)) if turns else size
    kept = (min(crop), min(crop)) if turns else crop
    margin = (cut[0] - kept[0]) // 2, (cut[1] - kept[1]) // 2
    pad = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": IGNORE_INDEX}
    steps = [A.PadIfNeeded(*cut, **pad), A.RandomCrop(*cut), *(_build(o) for o in augment)]
    if augment:
        steps += [A.PadIfNeeded(*size, **pad), A.CenterCrop(*size)]
    image = np.pad(image, ((c, c), (c, c), (0, 0)), mode="symmetric")
    around = [(c, c), (c, c)] + [(0, 0)] * (labels.ndim - 2)
    labels = np.pad(labels, around, constant_values=IGNORE_INDEX)
    rng = np.random.default_rng((seed, 1))
    if rng.random() < share:
        window = plain_window(labels, cut, margin, rng)
        if window is not None:
            image, labels = image[window], labels[window]
    compose = A.Compose(steps)  # which takes the seeds of its steps away
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


def plain_window(labels: Any, cut: Any, margin: Any, rng: Any) -> Any:
    """All pixels of the foreground are looked at, and one of them is chosen."""
    if labels.ndim == 3:
        present = np.flatnonzero((labels == 1).any(axis=(0, 1)))
    else:
        present = np.setdiff1d(np.unique(labels), [0, IGNORE_INDEX])
    if not len(present):
        return None
    chosen = rng.choice(present)
    pixels = np.flatnonzero(labels == chosen if labels.ndim == 2 else labels[..., chosen] == 1)
    window = []
    for p, length, side, inner in zip(
        divmod(int(rng.choice(pixels)), labels.shape[1]), labels.shape, cut, margin, strict=False
    ):
        start = 0
        if length > side:
            first, last = max(0, p - side + 1 + inner), min(length - side, p - inner)
            if first <= last:
                start = int(rng.integers(first, last + 1))
            else:
                start = 0 if p < length // 2 else length - side
        window.append(slice(start, min(length, start + side)))
    return tuple(window)


def example(dtype: str, size: tuple[int, int], layers: int, channels: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, (*size, channels)).astype(np.uint8)
    image = image if dtype == "uint8" else image.astype(np.float32) / 255
    blobs = cv2.resize(rng.integers(0, 4, (9, 9)).astype(np.uint8), size[::-1], interpolation=0)
    if layers == 0:
        return image, blobs
    if layers == 1:  # ids
        return image, (blobs.astype(np.uint16) * 300)
    return image, np.stack([(blobs == n) for n in range(layers)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_to_the_bit(preset: str, dtype: str) -> None:
    augment = PRESETS[preset]
    for layers, channels, context, share, size in (
        (0, 1, 0, 0.0, (90, 70)),
        (1, 3, 0, 0.5, (90, 70)),
        (2, 1, 5, 0.5, (90, 70)),
        (0, 1, 9, 1.0, (30, 120)),
        (3, 3, 0, 0.7, (20, 17)),
    ):
        image, labels = example(dtype, size, layers, channels)
        transform = TrainTransform((40, 48), augment, context, share)
        counts = count_by_row(labels)
        for seed in range(6):
            wanted = whole_first((40, 48), augment, context, share, image, labels, seed)
            plain = transform(image, labels, seed)
            cut = transform.cut(image, labels, seed, counts)
            for got in (plain, transform.augment(*cut, seed)):
                for a, b in zip(got, wanted, strict=True):
                    assert a.dtype == b.dtype
                    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", RESIZING, ids=lambda o: o["name"])
def test_transforms_that_change_the_size_or_what_is_seen(options: dict[str, Any]) -> None:
    image, labels = example("uint8", (80, 100), 0, 3)
    for p in (0.0, 0.5, 1.0):
        augment = [{**options, "p": p}, {"name": "HorizontalFlip", "p": 0.5}]
        transform = TrainTransform((48, 40), augment, 4, 0.5)
        for seed in range(4):
            wanted = whole_first((48, 40), augment, 4, 0.5, image, labels, seed)
            for a, b in zip(transform(image, labels, seed), wanted, strict=True):
                np.testing.assert_array_equal(a, b)


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 15),
    st.data(),
)
def test_a_cut_is_that_of_the_image_with_its_context(
    size: tuple[int, int], sides: tuple[int, int], context: int, data: st.DataObject
) -> None:
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
    cut[:] = -1  # a copy: the source may hold the image, or a file that cannot be written to
    assert image.min() == 0


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32), st.integers(0, 3))
def test_pixels_are_counted_row_by_row(height: int, width: int, seed: int, layers: int) -> None:
    rng = np.random.default_rng(seed)
    if layers:
        labels = rng.choice([0, 1, IGNORE_INDEX], (height, width, layers)).astype(np.uint8)
        maps = [(n, labels[..., n] == 1) for n in range(layers)]
    else:
        labels = rng.choice([0, 1, 5, IGNORE_INDEX, 60_000], (height, width)).astype(np.uint16)
        maps = [(int(value), labels == value) for value in np.unique(labels)]
    wanted = [
        (value, row, int(n))
        for value, where in maps
        for row, n in enumerate(where.sum(axis=1))
        if n
    ]
    counted = count_by_row(labels)
    assert (counted.shape[0], counted.dtype) == (3, np.int32)
    assert [tuple(column) for column in counted.T.tolist()] == wanted


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32), st.integers(0, 3))
def test_counted_pixels_give_the_same_window(
    height: int, width: int, seed: int, layers: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (height, width, layers) if layers else (height, width)
    labels = rng.choice([0, 0, 0, 1, 1, 3, IGNORE_INDEX], shape).astype(np.uint8)
    windows = [
        foreground_window(labels, (5, 7), (1, 2), 0, np.random.default_rng(seed), 3, counts)
        for counts in (None, count_by_row(labels))
    ]
    assert windows[0] == windows[1]


def test_counting_a_map_of_many_ids_takes_it_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(0).integers(0, 900, (40, 30)).astype(np.uint16)
    wanted = count_by_row(labels)
    monkeypatch.setattr("segkit.data.augment.cropping._COUNTERS", 1500)
    np.testing.assert_array_equal(count_by_row(labels), wanted)
