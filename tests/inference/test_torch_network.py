from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import segkit
from segkit.checkpoint import reading as checkpoint
from segkit.data.sources.cells import draw
from segkit.inference.predictor import Predictor
from segkit.inference.runtimes import torch_network
from segkit.inference.runtimes.torch_network import (
    FullPrecisionWarning,
    TorchNetwork,
    blend,
    find_windows,
)
from segkit.inference.tiles.tiling import Windows
from segkit.models.cost import peak_bytes
from segkit.models.segmenter import create_model

RESNET = {"name": "resnet18", "pretrained": False}
VALID = {"name": "unet", "width": 4, "depth": 2, "padding": "valid", "dropout": 0}
RELPOS = {"name": "test_vit_relpos", "pretrained": False, "img_size": 90}
SIZE = st.integers(1, 70)


@pytest.mark.parametrize(
    ("encoder", "neck", "side", "windows"),
    [
        (RESNET, "fpn", 1024, Windows(1024, 32, 64)),
        ({**VALID, "depth": 5, "width": 2}, "unet", 388, Windows(388, 16, 4, 92)),
        (RELPOS, "fpn", 1024, Windows(96, 32, fixed=(96, 96))),
    ],
)
def test_which_tiles_a_network_takes(encoder, neck, side, windows):
    model = create_model(encoder, neck, in_channels=1).eval()
    found = find_windows(model, side)
    assert found == windows
    first, second = found.fixed or (found.smallest, found.smallest + found.step)
    seen = [size + 2 * found.context for size in (first, second)]
    with torch.no_grad():
        assert model(torch.rand(1, 1, *seen)).shape[-2:] == (first, second)


@settings(max_examples=60, deadline=None)
@given(SIZE, SIZE, st.integers(1, 40), st.floats(0, 0.9), st.sampled_from([0, 5]))
def test_tiles_of_an_identity_give_back_the_image(height, width, side, overlap, context):
    def network(tiles):
        return tiles[..., context : tiles.shape[-2] - context, context : tiles.shape[-1] - context]

    images = torch.rand(2, 3, height, width)
    result = blend(network, images, Windows(side, 4, 4, context), overlap)
    torch.testing.assert_close(result, images, atol=1e-5, rtol=1e-5)


def test_tiles_of_an_unpadded_network_equal_one_pass():
    """The overlap-tile strategy is exact: each pixel sees the same surroundings in every tile."""
    model = create_model(VALID, "unet").eval()
    image = torch.rand(1, 3, 64, 48)
    with torch.no_grad():
        once = blend(model, image, find_windows(model, 64), 0)
        for side, overlap in ((16, 0.5), (24, 0), (33, 0.25)):
            tiled = blend(model, image, find_windows(model, side), overlap)
            torch.testing.assert_close(once, tiled, atol=1e-4, rtol=1e-4)


class Activation(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.forward = head.activate


def test_the_plain_way_and_the_pooled_one_agree(binary_run, multiclass_run):
    """Validation blends by itself, for the loss; its labels are those of the predictor."""
    for run, channels in ((binary_run, 1), (multiclass_run, 3)):
        model, card = checkpoint.read(run.checkpoint)
        image = draw(3, (150, 90), channels).image
        network = TorchNetwork(model, card, "cpu", tile=64)
        x = torch.from_numpy(card.normalization(image).transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            maps = blend(nn.Sequential(model, Activation(model.head)), x, network.windows)
        pooled = segkit.load(run.checkpoint, device="cpu", tile=64, batch_size=3)
        pooled = pooled(image, probabilities=True)
        np.testing.assert_allclose(pooled.probabilities, maps[0].numpy(), atol=1e-5)


def test_tile_and_batch_are_planned_from_crop_and_memory(binary_run, monkeypatch):
    model, card = checkpoint.read(binary_run.checkpoint)
    need = peak_bytes(model, 1)
    # a 3 x 3 convolution at full size keeps at least its input and its output
    assert need > 4 * 2 * 16

    def planned(memory, crop=(64, 64)):
        monkeypatch.setattr("segkit.inference.runtimes.torch_network.free_memory", lambda _: memory)
        found = TorchNetwork(model, type(card)(**{**vars(card), "img_size": crop}), "cpu")
        return found.windows.side, found.batch_size

    assert planned(2**40) == (1024, 1)
    assert planned(2**40, (1536, 64)) == (1536, 1)
    side, batch = planned(4 * need * 300**2)
    assert (side, batch) == (300, 1)


def test_a_threshold_of_ones_own(binary_run, multilabel_run):
    image = draw(2, (40, 40)).image
    for run in (binary_run, multilabel_run):
        found = segkit.load(run.checkpoint, device="cpu", threshold=0.3)
        found = found(image, probabilities=True)
        labels = found.probabilities > 0.3
        expected = labels[0] if run is binary_run else labels
        np.testing.assert_array_equal(found.labels, expected)


@pytest.fixture
def halves(monkeypatch):
    """As if the CPU were a GPU that is faster in half precision."""
    monkeypatch.setattr(torch_network, "choose_half", lambda device: torch.float16)


def test_half_precision_gives_the_labels_of_float32(binary_run, multiclass_run, halves):
    for run, channels in ((binary_run, 1), (multiclass_run, 3)):
        image = draw(3, (150, 90), channels).image
        full = segkit.load(run.checkpoint, device="cpu", precision="float32")
        full = full(image, probabilities=True)
        half = segkit.load(run.checkpoint, device="cpu")(image, probabilities=True)
        assert not np.array_equal(half.probabilities, full.probabilities)
        np.testing.assert_allclose(half.probabilities, full.probabilities, atol=5e-3)
        assert (half.labels == full.labels).mean() > 0.999
        assert half.probabilities.dtype == np.float32


def test_a_network_with_numbers_beyond_half_precision_predicts_in_float32(binary_run, halves):
    model, card = checkpoint.read(binary_run.checkpoint)
    with torch.no_grad():
        for convolution in (m for m in model.encoder.modules() if isinstance(m, nn.Conv2d)):
            convolution.weight.mul_(100)
            if convolution.bias is not None:
                convolution.bias.mul_(100)
    rng = np.random.default_rng(0)
    # in several batches
    images = [rng.integers(0, 256, (64, 96), np.uint8) for _ in range(5)]
    half = Predictor(TorchNetwork(model, card, "cpu", tile=64, batch_size=2))
    with pytest.warns(FullPrecisionWarning, match="precision=float32 does so from the start"):
        found = half(images, probabilities=True)
    network = TorchNetwork(model, card, "cpu", tile=64, batch_size=2, precision="float32")
    expected = Predictor(network)(images, probabilities=True)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    half(images)  # without another warning


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_a_gpu_predicts_many_images_as_the_cpu_does(multiclass_run, precision):
    """Copies, network and blending run beside each other there: each must wait for the other."""
    sizes = [(40, 50), (300, 200), (64, 64), (130, 64)] * 16
    images = [draw(number, size, 3).image for number, size in enumerate(sizes)]
    options = {"tile": 64, "batch_size": 5, "precision": precision}
    here = segkit.load(multiclass_run.checkpoint, device="cpu", **options)
    there = segkit.load(multiclass_run.checkpoint, device="cuda", **options)
    expected = here(images, probabilities=True)
    for one, other in zip(there(images, probabilities=True), expected, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=5e-3)
        np.testing.assert_array_equal(one.labels, one.probabilities.argmax(0))
    for one, other in zip(there(images), expected, strict=True):
        assert (one.labels == other.labels).mean() > 0.995


def test_half_precision_takes_half_the_memory(binary_run, halves, monkeypatch):
    model, card = checkpoint.read(binary_run.checkpoint)
    need = card.bytes_per_pixel
    monkeypatch.setattr(torch_network, "free_memory", lambda _: 4 * need * 300**2)
    sides = [TorchNetwork(model, card, precision=p).windows.side for p in ("float32", "auto")]
    assert sides == [300, 424]
