"""Crops on the foreground: as often as asked, of every class, inside, the same for a seed."""

import numpy as np
import pytest

from segkit.core.labels import IGNORE_INDEX
from segkit.data.augment.cropping import foreground_window
from segkit.data.augment.transforms import TrainTransform

H, W = 90, 120
LARGE, SMALL = 1, 2
IMAGE = np.arange(H * W, dtype=np.uint16).reshape(H, W, 1).view(np.uint8).reshape(H, W, 2)


def rare() -> np.ndarray:
    """A large object at the left, a small one of another class at the lower right."""
    labels = np.zeros((H, W), np.uint8)
    labels[10:60, 5:40] = LARGE
    labels[80:83, 110:113] = SMALL
    return labels


def crops(transform: TrainTransform, labels: np.ndarray, count: int = 300) -> list[np.ndarray]:
    return [transform(IMAGE, labels, seed)[1] for seed in range(count)]


def share_with(found: list[np.ndarray], value: int) -> float:
    return float(np.mean([(labels == value).any() for labels in found]))


@pytest.mark.parametrize("share", [0.25, 0.6, 1.0])
def test_the_share_holds(share: float) -> None:
    labels = np.where(rare() == SMALL, 1, 0).astype(np.uint8)
    at_random = share_with(crops(TrainTransform((16, 16), []), labels), 1)
    assert at_random < 0.1
    held = share_with(crops(TrainTransform((16, 16), [], foreground_share=share), labels), 1)
    assert held == pytest.approx(share + (1 - share) * at_random, abs=0.07)


def test_each_class_comes_as_often_as_the_next() -> None:
    found = crops(TrainTransform((16, 16), [], foreground_share=1.0), rare())
    assert share_with(found, LARGE) == pytest.approx(0.5, abs=0.08)
    assert share_with(found, SMALL) == pytest.approx(0.5, abs=0.08)
    assert {labels.shape for labels in found} == {(16, 16)}
    assert not any((labels == IGNORE_INDEX).any() for labels in found)  # never outside


def test_each_object_comes_as_often_as_the_next_whatever_its_id() -> None:
    ids = np.where(rare() == SMALL, 60_000, rare().astype(np.uint16) * 7).astype(np.uint16)
    found = crops(TrainTransform((16, 16), [], foreground_share=1.0), ids)
    assert found[0].dtype == np.uint16
    assert share_with(found, 60_000) == pytest.approx(0.5, abs=0.08)


def test_of_layers_each_is_a_class() -> None:
    layers = np.stack([rare() == LARGE, rare() == SMALL, 0 * rare()], axis=2).astype(np.uint8)
    found = crops(TrainTransform((16, 16), [], foreground_share=1.0), layers)
    assert np.mean([labels[..., 1].any() for labels in found]) == pytest.approx(0.5, abs=0.08)


def test_ignored_pixels_are_no_foreground() -> None:
    labels = np.full((H, W), IGNORE_INDEX, np.uint8)
    labels[3, 4] = 1
    found = crops(TrainTransform((16, 16), [], foreground_share=1.0), labels, 40)
    assert share_with(found, 1) == 1
    labels[3, 4] = 0
    found = crops(TrainTransform((16, 16), [], foreground_share=1.0), labels, 40)
    assert share_with(found, 0) < 0.5  # nothing to go to: at random


def test_where_each_label_is_a_class_the_first_is_too() -> None:
    labels = np.ones((H, W), np.uint8)
    labels[70, 100] = 0
    of_all = TrainTransform((16, 16), [], foreground_share=1.0, background=None)
    assert share_with(crops(of_all, labels), 0) == pytest.approx(0.5, abs=0.1)
    assert share_with(crops(TrainTransform((16, 16), [], foreground_share=1.0), labels), 0) < 0.1


def test_the_pixel_lies_anywhere_in_the_crop() -> None:
    labels = np.zeros((H, W), np.uint8)
    labels[45, 60] = 1
    transform = TrainTransform((8, 8), [], foreground_share=1.0)
    places = {tuple(np.argwhere(found == 1)[0]) for found in crops(transform, labels, 1000)}
    assert places == {(row, column) for row in range(8) for column in range(8)}


@pytest.mark.parametrize("size", [(7, 5), (7, 200), (200, 5), (16, 16), (1, 1)])
def test_small_images_are_padded(size: tuple[int, int]) -> None:
    labels = np.zeros(size, np.uint8)
    labels[-1, -1] = 1
    image = np.zeros((*size, 3), np.uint8)
    for seed in range(20):
        crop, found = TrainTransform((16, 16), [], foreground_share=1.0)(image, labels, seed)
        assert crop.shape == (16, 16, 3)
        assert (found == 1).sum() == 1
        assert (found != IGNORE_INDEX).sum() == min(size[0], 16) * min(size[1], 16)


@pytest.mark.parametrize("augment", [[], [{"name": "D4", "p": 1.0}]])
@pytest.mark.parametrize("context", [0, 9])
def test_turned_crops_and_crops_with_context_hold_it_too(
    augment: list[dict[str, object]], context: int
) -> None:
    labels = np.where(rare() == SMALL, 1, 0).astype(np.uint8)
    labels = np.roll(labels, (-40, -50), (0, 1))  # far enough from the border
    transform = TrainTransform((12, 30), augment, context, foreground_share=1.0)
    assert share_with(crops(transform, labels, 60), 1) == 1


def test_the_same_seed_is_the_same_crop() -> None:
    one, two = (TrainTransform((16, 16), [], foreground_share=0.5) for _ in range(2))
    first = [one(IMAGE, rare(), seed) for seed in range(20)]
    for seed in reversed(range(20)):
        for a, b in zip(two(IMAGE, rare(), seed), first[seed], strict=True):
            np.testing.assert_array_equal(a, b)


def test_crops_that_are_not_on_the_foreground_are_those_without_the_option() -> None:
    plain = TrainTransform((16, 16), [{"name": "HorizontalFlip", "p": 0.5}])
    empty = np.zeros((H, W), np.uint8)
    full = TrainTransform((16, 16), [{"name": "HorizontalFlip", "p": 0.5}], foreground_share=1.0)
    for seed in range(10):
        np.testing.assert_array_equal(full(IMAGE, empty, seed)[0], plain(IMAGE, empty, seed)[0])


def test_image_and_labels_stay_together() -> None:
    labels = (IMAGE[..., 0] // 60).astype(np.uint8)
    transform = TrainTransform((16, 16), [], foreground_share=1.0)
    for seed in range(20):
        image, found = transform(IMAGE, labels, seed)
        np.testing.assert_array_equal(found, image[..., 0] // 60)


def test_without_foreground_there_is_no_window() -> None:
    rng = np.random.default_rng(0)
    assert foreground_window(np.zeros((9, 9), np.uint8), (3, 3), (0, 0), 0, rng) is None
    assert foreground_window(np.zeros((9, 9, 2), np.uint8), (3, 3), (0, 0), 0, rng) is None
