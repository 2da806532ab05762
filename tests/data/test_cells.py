"""The built-in cells: reproducible, with an exact ground truth, and not solved by a threshold."""

import pickle

import cv2
import numpy as np
import pytest
from scipy import ndimage

from segkit.core.errors import SegkitError
from segkit.data.sources.base import SPLITS, DataSource
from segkit.data.sources.cells import MIN_PIXELS, Cells, CellsSource, draw

SEEDS = range(30)


def to_grey(cells: Cells) -> np.ndarray:
    image = cells.image
    return image[..., 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_seed_determines_everything(channels):
    one, two, other = (draw(seed, channels=channels) for seed in (3, 3, 4))
    for name in ("image", "instances", "classes", "binary"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert (getattr(one, name) != getattr(other, name)).any()
    np.testing.assert_array_equal(draw(3, channels=1).classes, one.classes)


@pytest.mark.parametrize(("size", "channels"), [((16, 64), 1), ((97, 33), 3), ((128, 128), 1)])
def test_shapes_types_and_ids(size, channels):
    for seed in range(4):
        cells = draw(seed, size, channels)
        assert (cells.image.shape, cells.image.dtype) == ((*size, channels), np.uint8)
        assert (cells.instances.shape, cells.instances.dtype) == (size, np.int32)
        assert (cells.classes.shape, cells.classes.dtype) == (size, np.uint8)
        np.testing.assert_array_equal(cells.binary, cells.classes > 0)
        ids, areas = np.unique(cells.instances, return_counts=True)
        np.testing.assert_array_equal(ids, np.arange(cells.instances.max() + 1))
        assert (areas >= MIN_PIXELS).all()
        for index in ids[1:]:  # in one piece and of one kind
            where = cells.instances == index
            assert ndimage.label(where)[1] == 1
            assert len(np.unique(cells.classes[where])) == 1


def test_cells_touch_and_cross_the_border_and_both_kinds_are_frequent():
    drawn = [draw(seed) for seed in SEEDS]
    assert 8 / 2 < np.mean([cells.instances.max() for cells in drawn]) <= 20
    pairs = [(cells.instances[1:], cells.instances[:-1]) for cells in drawn]
    assert np.mean([((a != b) & (a > 0) & (b > 0)).any() for a, b in pairs]) > 0.8
    assert 0.15 < np.mean([cells.binary.mean() for cells in drawn]) < 0.4
    areas = np.bincount(np.concatenate([cells.classes.ravel() for cells in drawn]), minlength=3)
    assert areas[1:].min() > 0.5 * areas[1:].max()
    edge = [cells.binary[[0, -1]].any() or cells.binary[:, [0, -1]].any() for cells in drawn]
    assert np.mean(edge) > 0.8


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_separates_neither_cells_nor_kinds(channels):
    scores, pixels = [], ([], [])
    for seed in SEEDS:
        cells = draw(seed, channels=channels)
        grey = to_grey(cells)
        _, above = cv2.threshold(grey.copy(), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        truth = cells.binary > 0
        scores.append(
            max((guess & truth).sum() / (guess | truth).sum() for guess in (above > 0, above == 0))
        )
        for kind in (1, 2):
            pixels[kind - 1].append(grey[cells.classes == kind])
    assert np.mean(scores) < 0.6
    one, two = (np.bincount(np.concatenate(kind), minlength=256) for kind in pixels)
    best = np.abs(np.cumsum(one / one.sum() - two / two.sum())).max()
    assert best < 0.6  # (1 + best) / 2 is the accuracy of the best threshold


def test_appearance():
    spreads = []
    for seed in range(10):
        cells = draw(seed, n_cells=(6, 6))
        depth = ndimage.distance_transform_edt(cells.binary)
        outside = ndimage.distance_transform_edt(cells.binary == 0)
        outline = to_grey(cells)[(depth > 0) & (depth < 2)].mean()
        assert outline < to_grey(cells)[(outside > 1) & (outside < 4)].mean() - 15
        blocks = to_grey(draw(seed, n_cells=(1, 1))).astype(float).reshape(4, 32, 4, 32)
        medians = np.median(blocks, axis=(1, 3))
        spreads.append((medians.max() - medians.min()) / medians.mean())
        image = draw(seed, channels=3).image.astype(int)
        assert (image[..., 0] - image[..., 1]).mean() > 15  # pink, so RGB and not BGR
    assert np.mean(spreads) > 0.25  # uneven light


@pytest.mark.parametrize(
    ("mode", "channels"), [("binary", 1), ("multiclass", 3), ("multilabel", 1)]
)
def test_the_source_is_the_same_in_every_process(mode, channels):
    source = CellsSource(mode, train=4, val=2, test=0, size=(48, 40), channels=channels)
    reseeded = CellsSource(mode, size=(48, 40), channels=channels, seed=1)
    other = pickle.loads(pickle.dumps(source))
    splits = source.splits()
    assert [len(splits[split]) for split in SPLITS] == [4, 2, 0]
    seen = set()
    for sample in (sample for samples in splits.values() for sample in samples):
        image, mask = source.read_image(sample), source.read_mask(sample)
        assert (image.shape, mask.shape) == ((48, 40, channels), (48, 40))
        assert mask.max() <= (1 if mode == "binary" else 2)
        np.testing.assert_array_equal(other.read_image(sample), image)
        np.testing.assert_array_equal(other.read_mask(sample), mask)
        for read, before in ((source.read_image, image), (source.read_mask, mask)):
            read(sample)[:] = 77  # a copy
            np.testing.assert_array_equal(read(sample), before)
        seen |= {image.tobytes(), reseeded.read_image(sample).tobytes()}
    assert len(seen) == 2 * 6


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("cells", {"size": (8, 8)}, "size"),
        ("folder", {"root": "somewhere", "labels": "masks", "label_map": {7: 256}}, "label_map"),
    ],
)
def test_options_are_checked(name, options, key):
    with pytest.raises(SegkitError, match=f"option '{key}'"):
        DataSource.build(name, mode="binary", **options)
    source = DataSource.build(
        "folder", mode="binary", root="somewhere", labels="masks", label_map={"7": "1"}
    )
    assert source.label_map == {7: 1}
