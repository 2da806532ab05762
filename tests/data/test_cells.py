"""The drawn cells: the same for the same seed, true to their truth, and no easy game."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from segkit.data.sources.cells import MIN_PIXELS, Cells, draw

SEEDS = range(50)


def grey(cells: Cells) -> np.ndarray:
    image = cells.image
    return image[..., 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def touching(instances: np.ndarray) -> bool:
    pairs = [(instances[1:], instances[:-1]), (instances[:, 1:], instances[:, :-1])]
    return any(((a != b) & (a > 0) & (b > 0)).any() for a, b in pairs)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_seed_decides_everything(channels: int) -> None:
    one, two, other = (draw(seed, channels=channels) for seed in (3, 3, 4))
    for name in ("image", "instances", "classes", "binary"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert (getattr(one, name) != getattr(other, name)).any()


def test_the_truth_does_not_depend_on_the_stain() -> None:
    np.testing.assert_array_equal(draw(5, channels=1).classes, draw(5, channels=3).classes)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (16, 64), (97, 33), (128, 128), (300, 200), (512, 512)])
def test_shapes_types_and_ids(size: tuple[int, int], channels: int) -> None:
    for seed in range(8):
        cells = draw(seed, size, channels)
        assert cells.image.shape == (*size, channels)
        assert cells.image.dtype == np.uint8
        assert cells.instances.shape == cells.classes.shape == cells.binary.shape == size
        assert cells.instances.dtype == np.int32
        assert cells.classes.dtype == cells.binary.dtype == np.uint8
        ids, areas = np.unique(cells.instances, return_counts=True)
        np.testing.assert_array_equal(ids[ids > 0], np.arange(1, cells.instances.max() + 1))
        assert (areas[ids > 0] >= MIN_PIXELS).all()
        np.testing.assert_array_equal(cells.binary, cells.classes > 0)


def test_a_cell_is_in_one_piece_and_of_one_kind() -> None:
    for seed in range(10):
        cells = draw(seed)
        for index in range(1, cells.instances.max() + 1):
            where = cells.instances == index
            assert ndimage.label(where)[1] == 1
            assert len(np.unique(cells.classes[where])) == 1


def test_there_are_as_many_cells_as_asked_for_or_a_few_less() -> None:
    counts = [draw(seed, n_cells=(5, 5)).instances.max() for seed in range(20)]
    assert max(counts) == 5
    assert min(counts) >= 3
    more = draw(0, size=(256, 256), n_cells=(5, 5)).instances.max()
    assert 14 <= more <= 20


def test_what_makes_it_a_lesson() -> None:
    drawn = [draw(seed) for seed in SEEDS]
    assert np.mean([touching(cells.instances) for cells in drawn]) > 0.8
    assert 0.15 < np.mean([cells.binary.mean() for cells in drawn]) < 0.4
    areas = np.bincount(np.concatenate([cells.classes.ravel() for cells in drawn]), minlength=3)
    assert areas[1:].min() > 0.5 * areas[1:].max()
    edge = [cells.binary[[0, -1]].any() or cells.binary[:, [0, -1]].any() for cells in drawn]
    assert np.mean(edge) > 0.8


@pytest.mark.parametrize("channels", [1, 3])
def test_a_threshold_does_not_find_the_cells(channels: int) -> None:
    scores = []
    for seed in SEEDS:
        cells = draw(seed, channels=channels)
        _, above = cv2.threshold(grey(cells).copy(), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        truth = cells.binary > 0
        scores.append(
            max((guess & truth).sum() / (guess | truth).sum() for guess in (above > 0, above == 0))
        )
    assert np.mean(scores) < 0.6


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_alone_does_not_tell_the_kinds(channels: int) -> None:
    pixels: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for seed in SEEDS:
        cells = draw(seed, channels=channels)
        for kind in (1, 2):
            pixels[kind - 1].append(grey(cells)[cells.classes == kind])
    one, two = (np.bincount(np.concatenate(kind), minlength=256) for kind in pixels)
    best = np.abs(np.cumsum(one / one.sum() - two / two.sum())).max()
    assert best < 0.6  # (1 + best) / 2 is the share that the best threshold gets right


def test_outlines_are_darker_than_their_surroundings() -> None:
    for seed in range(10):
        cells = draw(seed, n_cells=(6, 6))
        depth = ndimage.distance_transform_edt(cells.binary)
        outside = ndimage.distance_transform_edt(cells.binary == 0)
        line = grey(cells)[(depth > 0) & (depth < 2)].mean()
        around = grey(cells)[(outside > 1) & (outside < 4)].mean()
        assert line < around - 15


def test_the_light_is_uneven() -> None:
    spreads = []
    for seed in range(20):
        image = grey(draw(seed, n_cells=(1, 1))).astype(float)
        blocks = image.reshape(4, 32, 4, 32)
        medians = np.median(blocks, axis=(1, 3))
        spreads.append((medians.max() - medians.min()) / medians.mean())
    assert np.mean(spreads) > 0.25


def test_the_stain_has_hues() -> None:
    for seed in range(5):
        image = draw(seed, channels=3).image.astype(int)
        assert (image[..., 0] - image[..., 1]).mean() > 15  # pink, so RGB and not BGR
        assert image[..., 0].mean() > image[..., 2].mean() - 10
