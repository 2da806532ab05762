from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.core.errors import SegkitError
from segkit.inference.runtimes.network import Network
from segkit.inference.tiles.blending import Canvas, predict_canvases
from segkit.inference.tiles.tiling import Windows, plan_grid


class Identity(Network):
    """Its probabilities are the image: whatever is done to tiles must be undone."""

    def __init__(self, windows, batch_size=1, channels=1):
        self.windows, self.batch_size, self.channels = windows, batch_size, channels
        self.card = SimpleNamespace(num_logits=channels, in_channels=channels)
        self.calls = []

    def prepare(self, window):
        if np.isnan(window).any():
            raise SegkitError("not a number")
        return np.ascontiguousarray(window.transpose(2, 0, 1))

    def _compute(self, batch):
        self.calls.append(batch.shape)
        c = self.windows.context
        return batch[..., c : batch.shape[-2] - c, c : batch.shape[-1] - c]


class Image:
    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def read(self, top, left, height, width):
        part = self.values[top : top + height, left : left + width]
        assert part.shape[:2] == (height, width), "read beyond the image"
        return part


def make_canvas(network, image, write=lambda *_: None, overlap=0.25, band_bytes=2**20, tta="none"):
    grid = plan_grid(*image.shape[:2], network.windows, overlap, tta != "none")
    return Canvas(Image(image), grid, write, network, band_bytes)


def predict(network, images, overlap=0.25, tta="none", band_bytes=2**20):
    """What comes back for each image, and how often each of its pixels was written."""
    results = [np.zeros(im.shape, np.float32).transpose(2, 0, 1) for im in images]
    counts = [np.zeros(im.shape[:2], int) for im in images]
    canvases = []
    for image, result, count in zip(images, results, counts, strict=True):

        def write(top, left, block, result=result, count=count):
            inside = (..., slice(top, top + block.shape[-2]), slice(left, left + block.shape[-1]))
            result[inside] = block
            count[inside] += 1

        canvases.append(make_canvas(network, image, write, overlap, band_bytes, tta))
    done = list(predict_canvases(canvases, [network], tta))
    assert done == canvases  # in their order
    return results, counts, canvases


def draw_noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


SIZE = st.integers(1, 70)
WINDOWS = st.builds(
    lambda step, more, context: Windows(step * (1 + more), step, step, context),
    st.integers(1, 12),
    st.integers(0, 5),
    st.sampled_from([0, 3, 40]),
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(SIZE, SIZE), min_size=1, max_size=4),
    WINDOWS,
    st.floats(0, 0.9),
    st.integers(1, 5),
    st.sampled_from(["none", "flips", "d4"]),
    st.sampled_from([1, 500, 2**20]),
)
def test_an_identity_gives_back_images_of_any_size(sizes, windows, overlap, batch, tta, band):
    images = [draw_noise(*size, 2) for size in sizes]
    network = Identity(windows, batch, channels=2)
    results, counts, canvases = predict(network, images, overlap, tta, band)
    for image, result, count, canvas in zip(images, results, counts, canvases, strict=True):
        np.testing.assert_allclose(result, image.transpose(2, 0, 1), atol=1e-5)
        assert (count == 1).all()
        assert canvas.error is None


def test_tiles_of_many_images_share_full_batches():
    network = Identity(Windows(32, 32, 32), batch_size=8)
    images = [draw_noise(20 + i, 31, 1, seed=i) for i in range(10)]
    images.append(np.ones((32, 130, 1), np.float32))  # five tiles more
    results, _, _ = predict(network, images, overlap=0)
    assert [shape[0] for shape in network.calls] == [8, 7]
    for image, result in zip(images, results, strict=True):
        np.testing.assert_allclose(result[0], image[..., 0], atol=1e-6)


def test_small_tiles_fill_a_batch_of_as_many_pixels():
    network = Identity(Windows(64, 8, 8), batch_size=1)
    predict(network, [np.ones((16, 16, 1), np.float32)] * 20)
    assert [shape[0] for shape in network.calls] == [16, 4]


@pytest.mark.parametrize(
    ("limit", "value", "sizes", "most"),
    [
        # images that fit with no other do not wait for ever
        ("OPEN", 3, [(8 * (1 + i % 5), 8) for i in range(40)], 4),
        # large ones do not gather behind a small one, which waits for a batch
        ("OPEN_PIXELS", 3 * 64 * 64, [(8, 8), *[(64, 64)] * 10], 4),
    ],
)
def test_few_images_wait_for_others(limit, value, sizes, most, monkeypatch):
    monkeypatch.setattr(f"segkit.inference.tiles.blending.{limit}", value)
    monkeypatch.setattr("segkit.inference.tiles.blending.BATCHES", 0)
    network = Identity(Windows(64, 8, 8), batch_size=1)
    asked = []

    def open_canvases():
        for size in sizes:
            asked.append(size)
            yield make_canvas(network, np.ones((*size, 1), np.float32))

    waiting = [
        len(asked) - number
        for number, _ in enumerate(predict_canvases(open_canvases(), [network], "none"))
    ]
    assert max(waiting) <= most
    assert len(waiting) == len(sizes)


def test_a_batch_is_no_larger_than_any_network_of_an_ensemble_takes():
    strong, weak = (Identity(Windows(32, 8, 8), batch_size=size) for size in (8, 2))
    canvas = make_canvas(strong, np.ones((32, 32 * 9, 1), np.float32), overlap=0, tta="d4")
    list(predict_canvases([canvas], [strong, weak], "d4"))
    assert max(shape[0] for shape in strong.calls + weak.calls) == 2


class Small(Identity):
    """Its device holds few tiles."""

    def __init__(self, windows, batch_size, holds, side=999):
        super().__init__(windows, batch_size)
        self.holds, self.side = holds, side

    def _compute(self, batch):
        if len(batch) > self.holds or batch.shape[-1] > self.side:
            self.calls.append("full")
            raise MemoryError
        return super()._compute(batch)


@pytest.mark.parametrize("tta", ["none", "d4"])
def test_a_batch_that_does_not_fit_into_memory_is_halved(tta):
    network = Small(Windows(16, 16, 16), batch_size=32, holds=3)
    images = [draw_noise(40 + i, 40, 1, seed=i) for i in range(9)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # as outside of tests
        results, _, _ = predict(network, images, tta=tta)
    (warning,) = caught  # one for all four
    assert "give a smaller batch_size" in str(warning.message)
    for image, result in zip(images, results, strict=True):
        np.testing.assert_allclose(result[0], image[..., 0], atol=1e-5)
    assert network.calls[:4] == ["full"] * 4  # 32, 16, 8, 4; all later batches fit
    assert "full" not in network.calls[4:]


def test_a_tile_that_does_not_fit_into_memory_fails_only_its_image():
    network = Small(Windows(64, 8, 8), batch_size=4, holds=1, side=16)
    images = [np.full((side, side, 1), side, np.float32) for side in (16, 40, 8)]
    results, _, canvases = predict(network, images)
    assert [canvas.error is None for canvas in canvases] == [True, False, True]
    assert "too little memory for a batch of the shape (1, 1, 40, 40)" in str(canvases[1].error)
    assert "tile=256 batch_size=1" in str(canvases[1].error)
    np.testing.assert_allclose(results[0], 16)
    np.testing.assert_allclose(results[2], 8)


def test_an_image_that_cannot_be_predicted_does_not_touch_the_others():
    network = Identity(Windows(16, 16, 16), batch_size=3)
    images = [np.full((40, 40, 1), i, np.float32) for i in range(3)]
    images[1][39, 39] = np.nan  # in its last tile
    results, _, canvases = predict(network, images)
    assert [str(canvas.error) for canvas in canvases] == ["None", "not a number", "None"]
    np.testing.assert_allclose(results[2], 2, atol=1e-6)


class Uneven(Identity):
    """What it says of a pixel depends on where it lies in the tile, and on all others."""

    def _compute(self, batch):
        inside = super()._compute(batch)
        down, across = (np.arange(side, dtype=np.float32) / 9 for side in inside.shape[-2:])
        far = batch.mean((-2, -1), keepdims=True) + batch[..., :1, :1]
        return inside * across + np.square(inside) * down[:, None] + far


VIEWS = [lambda a: a, lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a[::-1, ::-1]]
TURNED = [lambda a, v=v: v(a.swapaxes(0, 1)) for v in VIEWS]


@pytest.mark.parametrize(("tta", "views"), [("flips", VIEWS), ("d4", VIEWS + TURNED)])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (13, 61), (50, 33), (40, 40)])
@pytest.mark.parametrize(
    "windows", [Windows(16, 8, 8), Windows(24, 6, 12, 5), Windows(256, 32, 64)]
)
def test_a_mirrored_image_gets_the_mirrored_prediction(tta, views, size, windows):
    """Whether it fits into a tile or not, whatever the padding and the cuts."""
    network = Uneven(windows, batch_size=4)
    image = draw_noise(*size, 1)
    ((wanted,), _, _) = predict(network, [image], tta=tta)
    ((plain,), _, _) = predict(network, [image])
    assert np.abs(plain - wanted).max() > 0.1
    mean = np.zeros(size, np.float32)
    for view in views:
        ((found,), _, _) = predict(network, [np.ascontiguousarray(view(image))], tta=tta)
        np.testing.assert_allclose(found[0], view(wanted[0]), rtol=1e-5, atol=1e-5)
        ((one,), _, _) = predict(network, [np.ascontiguousarray(view(image))])
        back = np.empty(size, np.float32)
        view(back)[:] = one[0]
        mean += back / len(views)
    np.testing.assert_allclose(wanted[0], mean, rtol=1e-5, atol=1e-5)  # nothing else is done


@pytest.mark.parametrize("band_bytes", [1, 4 * 16 * 40, 2**30])
def test_strips_cover_a_wide_image_with_few_tiles_twice(band_bytes):
    network = Identity(Windows(16, 8, 8))
    image = draw_noise(30, 200, 1)
    results, counts, canvases = predict(network, [image], band_bytes=band_bytes)
    np.testing.assert_allclose(results[0][0], image[..., 0], atol=1e-6)
    assert (counts[0] == 1).all()
    rows, columns = (len(axis.starts) for axis in (canvases[0].grid.rows, canvases[0].grid.columns))
    most = {1: 3, 4 * 16 * 40: 1.5, 2**30: 1}[band_bytes]
    assert rows * columns <= len(network.calls) <= most * rows * columns


def test_there_is_no_seam():
    """A network that is wrong at the borders of its tiles: blending hides it."""

    class Wrong(Identity):
        def _compute(self, batch):
            found = batch + 1
            found[..., 2:-2] -= 1
            return found

    image = np.zeros((64, 300, 1), np.float32)

    def steps(overlap):
        ((result,), _, _) = predict(Wrong(Windows(64, 8, 8)), [image], overlap)
        return np.abs(np.diff(result[0, 32, 2:-2]))

    assert steps(0).max() == pytest.approx(1, abs=1e-3)
    assert steps(0.25).max() < 0.02


def test_what_fails_its_check_is_computed_again_in_its_order():
    class Doubtful(Identity):
        """Its first two batches are wrong, which is known one batch later."""

        is_asynchronous = True

        def _compute(self, batch):
            right = super()._compute(batch)
            return right if len(self.calls) > 2 else right + 1

        def begin_check(self):
            number = len(self.calls)
            return lambda: number > 2

    network = Doubtful(Windows(16, 8, 8), batch_size=3)
    images = [draw_noise(40, 56, 1, seed=seed) for seed in range(3)]
    results, counts, _ = predict(network, images)
    for image, result, count in zip(images, results, counts, strict=True):
        np.testing.assert_allclose(result, image.transpose(2, 0, 1), atol=1e-5)
        assert (count == 1).all()


def test_a_batch_is_begun_before_the_one_before_it_is_waited_for():
    order = []

    class Slow(Identity):
        is_asynchronous = True

        def _compute(self, batch):
            order.append("begin")
            return super()._compute(batch)

        def begin_check(self):
            return lambda: order.append("wait") or True

    predict(Slow(Windows(8, 8, 8)), [np.zeros((8, 8, 1), np.float32)] * 4)
    assert order == ["begin", *["begin", "wait"] * 3, "wait"]


def test_a_result_comes_before_the_next_image_where_nothing_runs_ahead():
    network, asked = Identity(Windows(8, 8, 8)), []

    def open_canvases():
        for number in range(4):
            asked.append(number)
            yield make_canvas(network, np.zeros((8, 8, 1), np.float32))

    for number, _ in enumerate(predict_canvases(open_canvases(), [network], "none")):
        assert len(asked) == number + 1


def test_batches_of_small_images_are_full_however_many_they_hold():
    network = Identity(Windows(8, 8, 8), batch_size=50)
    images = [draw_noise(8, 8, 1, seed=seed) for seed in range(230)]
    results, _, _ = predict(network, images)
    assert [shape[0] for shape in network.calls] == [50, 50, 50, 50, 30]
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(result, image.transpose(2, 0, 1))


def test_an_image_that_fails_leaves_none_of_its_tiles_in_the_way():
    images = [draw_noise(40, 40, 1, seed=seed) for seed in range(3)]
    images[0][-1, -1] = np.nan  # its last tile: the others wait for a batch
    results, _, canvases = predict(Identity(Windows(16, 8, 8), batch_size=50), images)
    assert [str(canvas.error) for canvas in canvases] == ["not a number", "None", "None"]
    np.testing.assert_allclose(results[2], images[2].transpose(2, 0, 1), atol=1e-5)


def test_too_little_memory_for_blending_is_an_error_of_the_image():
    def write(*_):
        raise MemoryError

    network = Identity(Windows(8, 8, 8), batch_size=2)
    image = np.zeros((8, 8, 1), np.float32)
    canvases = [make_canvas(network, image, write), make_canvas(network, image)]
    list(predict_canvases(canvases, [network], "none"))
    assert [str(canvas.error) for canvas in canvases] == [
        "the batch does not fit into memory.",
        "None",
    ]
