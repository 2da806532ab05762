from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import tifffile
import torch
from conftest import train_quick

import segkit
from segkit.checkpoint import reading as checkpoint
from segkit.checkpoint.card import ModelCard
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.images.reading import write_image
from segkit.inference.tiles.tiling import Windows


@pytest.fixture(scope="module")
def predictor(binary_run):
    return segkit.load(binary_run.checkpoint, device="cpu")


def test_every_size_and_every_form_of_an_image(predictor, tmp_path):
    for height, width in [(1, 1), (7, 5), (64, 64), (65, 130)]:
        image = draw(1, (max(16, height), max(16, width))).image[:height, :width]
        result = predictor(image)
        assert result.labels.shape == (height, width)
        assert result.labels.dtype == np.uint8
        assert result.probabilities.shape == (1, height, width)
        assert result.probabilities.dtype == np.float32
        assert result.instances is None
    image = draw(2, (40, 30)).image  # (H, W, 1)
    write_image(tmp_path / "a.png", image)
    as_array = predictor(image).probabilities
    for same in (
        image[..., 0],
        np.repeat(image, 3, axis=2),
        image.astype(np.uint16) * 257,
        image.astype(np.float64) / 255,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ):
        np.testing.assert_allclose(predictor(same).probabilities, as_array, atol=2e-3)


def test_images_that_do_not_fit_are_errors(predictor):
    with pytest.raises(SegkitError, match="an image with 5 channels cannot be converted to 1"):
        predictor(np.zeros((8, 8, 5), np.uint8))
    with pytest.raises(SegkitError, match="must range from 0 to 1, but this one reaches 200"):
        predictor(np.full((8, 8), 200.0, np.float32))
    with pytest.raises(SegkitError, match="int64"):
        predictor(np.zeros((8, 8), np.int64))
    with pytest.raises(SegkitError):
        predictor("no/such/file.png")
    for wrong in ([[1, 2]], torch.zeros(4, 4), np.zeros(4)):
        with pytest.raises(SegkitError, match="an image is a path, or a numpy array"):
            predictor(wrong)
    with pytest.raises(SegkitError, match=r"no pixels: its shape is \(0, 4\)"):
        predictor(np.zeros((0, 4)))


@pytest.fixture(scope="module")
def images():
    sizes = [(64, 64), (150, 90), (7, 5), (64, 50)]
    return [draw(i, (150, 150)).image[:h, :w] for i, (h, w) in enumerate(sizes)]


@pytest.mark.parametrize("tta", ["none", "flips", "d4"])
def test_batch_order_and_company_do_not_matter(binary_run, images, tta):
    alone = segkit.load(binary_run.checkpoint, device="cpu", tile=64, batch_size=1, tta=tta)
    expected = [alone(image).probabilities for image in images]
    pooled = segkit.load(binary_run.checkpoint, device="cpu", tile=64, batch_size=7, tta=tta)
    for found, one in zip(pooled(images[::-1]), expected[::-1], strict=True):
        np.testing.assert_allclose(found.probabilities, one, atol=1e-5)


def test_lists_may_hold_paths_and_an_error_stops_them(predictor, images, tmp_path):
    write_image(tmp_path / "a.png", images[0])
    found = predictor([str(tmp_path / "a.png"), images[1]])
    np.testing.assert_array_equal(found[0].labels, predictor(images[0]).labels)
    assert predictor([]) == []
    with pytest.raises(SegkitError, match=r"none\.png"):
        predictor([images[0], tmp_path / "none.png"])


def test_an_image_is_let_go_of_with_its_prediction(predictor):
    """At once, and not when the garbage collector comes: images are large and objects few."""
    gc.disable()
    try:
        alive = []
        for number, result in enumerate(
            predictor.stream(draw(i, (64, 64)).image for i in range(9))
        ):
            alive.append(weakref.ref(result.probabilities))
            del result
            assert sum(one() is not None for one in alive) <= 1, number
    finally:
        gc.enable()


def test_errors_name_the_file(predictor, images, tmp_path):
    tifffile.imwrite(tmp_path / "five.tif", np.zeros((5, 9, 8), np.uint8), planarconfig="separate")
    for call in (predictor, lambda path: predictor([images[0], path])):
        with pytest.raises(SegkitError, match=r"five\.tif: an image with 5 channels"):
            call(tmp_path / "five.tif")


def test_an_image_that_memory_does_not_hold_is_an_error_of_its_own(predictor, images):
    vast = np.broadcast_to(np.uint8(0), (2**24, 2**24))
    first, second, third = predictor.try_stream([images[0], vast, images[1]])
    assert "does not fit into memory" in str(second)
    assert first.labels.shape == (64, 64)
    assert third.labels.shape == (150, 90)


def test_a_full_device_is_said_with_a_remedy(binary_run, images, monkeypatch):
    predictor = segkit.load(binary_run.checkpoint, device="cpu")

    def full(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(predictor.networks[0].model.head, "activate", full)
    with pytest.raises(SegkitError, match=r"cpu has too little memory.*tile=256 batch_size=1"):
        predictor(images[0])


def test_a_tile_that_a_network_cannot_take_is_an_error(binary_run, monkeypatch):
    fixed = Windows(64, 32, 64, fixed=(64, 64))
    monkeypatch.setattr(
        "segkit.inference.runtimes.torch_network.windows_of", lambda model, side: fixed
    )
    with pytest.raises(SegkitError, match=r"tile=96 cannot be used.* only tiles of 64 x 64 pixels"):
        segkit.load(binary_run.checkpoint, device="cpu", tile=96)
    assert segkit.load(binary_run.checkpoint, device="cpu", tile=64).windows == fixed


def test_a_stream_has_the_error_in_the_place_of_the_image(predictor, images):
    wrong = np.zeros((8, 8, 5), np.uint8)
    found = list(predictor.try_stream([images[0], wrong, images[1], np.zeros((0, 4)), images[2]]))
    kinds = ["error" if isinstance(one, SegkitError) else one.labels.shape for one in found]
    assert kinds == [(64, 64), "error", (150, 90), "error", (7, 5)]


def test_windows_of_an_image_equal_it_in_memory(multiclass_run, multilabel_run):
    for run, channels in ((multiclass_run, 3), (multilabel_run, 1)):
        image = draw(7, (190, 333), channels).image
        predictor = segkit.load(run.checkpoint, device="cpu", tile=64)
        whole = predictor(image)
        labels, maps = np.full_like(whole.labels, 99), np.full_like(whole.probabilities, np.nan)

        class Windowed:
            shape = image.shape

            def read(self, top, left, height, width, image=image):
                return image[top : top + height, left : left + width]

        def writes_to(array):
            def write(top, left, block):
                height, width = block.shape[-2:]
                array[..., top : top + height, left : left + width] = block

            return write

        predictor.predict_windows(Windowed(), writes_to(labels), writes_to(maps))
        np.testing.assert_array_equal(labels, whole.labels)
        np.testing.assert_allclose(maps, whole.probabilities, atol=1e-6)


def test_context_is_seen_and_not_decided(binary_run):
    image = draw(9, (128, 128)).image
    plain = segkit.load(binary_run.checkpoint, device="cpu", tile=64, overlap=0)
    wide = segkit.load(binary_run.checkpoint, device="cpu", tile=64, overlap=0, context=50)
    whole = segkit.load(binary_run.checkpoint, device="cpu", tile=256, context=64)(image)
    assert wide.windows.context == 52  # on the network's grid
    errors = [np.abs(p(image).probabilities - whole.probabilities).max() for p in (plain, wide)]
    assert errors[1] < 0.5 * errors[0]


def test_an_ensemble_is_the_mean_of_its_members(binary_run, border_core_run, tmp_path):
    image = draw(5, (60, 70)).image
    stored = torch.load(binary_run.checkpoint, weights_only=True)
    for value in stored["state_dict"].values():
        if value.is_floating_point():
            value.mul_(0.9)
    torch.save(stored, tmp_path / "other.ckpt")
    paths = [binary_run.checkpoint, tmp_path / "other.ckpt"]
    one, two = (segkit.load(path, device="cpu")(image).probabilities for path in paths)
    found = segkit.load(paths, device="cpu")(image).probabilities
    np.testing.assert_allclose(found, (one + two) / 2, atol=1e-6)
    assert np.abs(one - two).max() > 1e-3
    with pytest.raises(SegkitError, match="number 2 of the list cannot be averaged"):
        segkit.load([binary_run.checkpoint, border_core_run.checkpoint])
    stored["segkit"]["threshold"] = 0.4
    torch.save(stored, tmp_path / "other.ckpt")
    with pytest.raises(SegkitError, match=r"thresholds of their own.*give threshold=VALUE"):
        segkit.load(paths)
    assert segkit.load(paths, threshold=0.4)(image).labels.shape == (60, 70)
    with pytest.raises(SegkitError, match="the list is empty"):
        segkit.load([])


def test_an_unpadded_network_is_exact_in_tiles(tmp_path):
    run = train_quick(
        tmp_path,
        "encoder=unet",
        "encoder.padding=valid",
        "encoder.width=4",
        "encoder.depth=3",
        "data.crop_size=76",
        "trainer.max_epochs=1",
    )
    image = draw(6, (90, 131)).image
    small = segkit.load(run.checkpoint, device="cpu", tile=36, batch_size=2)(image)
    large = segkit.load(run.checkpoint, device="cpu", tile=400)(image)
    np.testing.assert_allclose(small.probabilities, large.probabilities, atol=1e-5)
    with pytest.raises(SegkitError, match="context=10 cannot be used"):
        segkit.load(run.checkpoint, context=10)


def test_labels_are_decided_by_the_head(multiclass_run, multilabel_run):
    image = draw(3, (32, 48), 3).image
    result = segkit.load(multiclass_run.checkpoint, device="cpu")(image)
    np.testing.assert_array_equal(result.labels, result.probabilities.argmax(0))
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-5)
    result = segkit.load(multilabel_run.checkpoint, device="cpu")(image[..., :1])
    assert result.labels.shape == (3, 32, 48)
    np.testing.assert_array_equal(result.labels, result.probabilities > 0.5)


def test_augmented_prediction_is_equivariant(binary_run):
    """The mean over all eight views of a turned image is the turned mean."""
    predictor = segkit.load(binary_run.checkpoint, device="cpu", tta="d4")
    image = draw(4, (64, 64)).image
    straight = predictor(image).probabilities[0]
    np.testing.assert_allclose(
        predictor(np.rot90(image)).probabilities[0], np.rot90(straight), atol=1e-5
    )
    np.testing.assert_allclose(
        predictor(image[:, ::-1]).probabilities[0], straight[:, ::-1], atol=1e-5
    )
    flipped = segkit.load(binary_run.checkpoint, device="cpu", tta="flips")
    once = flipped(image).probabilities[0]
    np.testing.assert_allclose(flipped(image[::-1]).probabilities[0], once[::-1], atol=1e-5)


def test_options_that_do_not_exist_are_errors(binary_run, multilabel_run):
    with pytest.raises(SegkitError, match="tta='d8': Input should be 'none', 'flips' or 'd4'"):
        segkit.load(binary_run.checkpoint, tta="d8")
    with pytest.raises(SegkitError, match="instances='magic'"):
        segkit.load(binary_run.checkpoint, instances="magic")
    with pytest.raises(SegkitError, match="head=binary: use components or watershed"):
        segkit.load(binary_run.checkpoint, instances="border_core")
    with pytest.raises(SegkitError, match="multilabel"):
        segkit.load(multilabel_run.checkpoint, instances="components")
    for options in ({"overlap": -1.0}, {"overlap": 2}, {"tile": 0}, {"tile": "a"}):
        with pytest.raises(SegkitError, match=f"{next(iter(options))}="):
            segkit.load(binary_run.checkpoint, **options)
    for wrong in (None, 3, [None]):
        with pytest.raises(SegkitError, match="give a path, or a list of paths"):
            segkit.load(wrong)
    for options in ({"threshold": "high"}, {"threshold": 2}, {"min_size": -1}):
        with pytest.raises(SegkitError, match=f"{next(iter(options))}="):
            segkit.load(binary_run.checkpoint, **options)
    with pytest.raises(SegkitError, match="device 'tpu9'"):
        segkit.load(binary_run.checkpoint, device="tpu9")


def test_options_of_objects_that_would_do_nothing_are_named(binary_run, multilabel_run):
    for option in ({"min_size": 9}, {"waist": 0.5}, {"fill_holes": True}):
        (name,) = option
        with pytest.raises(
            SegkitError,
            match=rf"{name}=.*instances=null.*instances=components or instances=watershed",
        ):
            segkit.load(binary_run.checkpoint, device="cpu", **option)
        with pytest.raises(SegkitError, match=rf"instances=null\). Leave {name} out"):
            segkit.load(multilabel_run.checkpoint, device="cpu", **option)
        if name != "waist":
            segkit.load(binary_run.checkpoint, device="cpu", instances="components", **option)
    with pytest.raises(SegkitError, match="has no effect with instances=components"):
        segkit.load(binary_run.checkpoint, device="cpu", instances="components", waist=0.5)
    plain = {"min_size": 0, "waist": 0.8, "fill_holes": False}
    assert segkit.load(binary_run.checkpoint, device="cpu", **plain).instances is None


def test_a_file_of_several_pages_asks_for_the_page(binary_run, tmp_path):
    pages = np.stack([draw(i, (32, 40)).image[..., 0] for i in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    predictor = segkit.load(binary_run.checkpoint, device="cpu")
    with pytest.raises(SegkitError, match=r"3 pages: choose one.*page=0\), or page=2 for the last"):
        predictor(tmp_path / "stack.tif")
    last = predictor(tmp_path / "stack.tif", page=2)
    np.testing.assert_array_equal(last.probabilities, predictor(pages[2]).probabilities)
    with pytest.raises(SegkitError, match="there is no page 3"):
        predictor(tmp_path / "stack.tif", page=3)


def test_the_card_comes_back_as_it_was_written(binary_run):
    card = checkpoint.read(binary_run.checkpoint)[1]
    assert ModelCard.from_dict(card.to_dict()) == card


def test_loading_asks_no_hub(binary_run, monkeypatch, tmp_path):
    """Even where the training had pretrained weights."""
    stored = torch.load(binary_run.checkpoint, weights_only=True)
    stored["segkit"]["encoder"]["pretrained"] = True
    torch.save(stored, tmp_path / "a.ckpt")

    def fail(*args, **kwargs):
        raise AssertionError("asked for weights")

    monkeypatch.setattr("segkit.models.encoders.timm.find_weights", fail)
    segkit.load(tmp_path / "a.ckpt", device="cpu")
