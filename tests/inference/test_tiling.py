from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segkit.inference.tiling import mirrored, starts, whole_logits
from segkit.models.segmenter import create_model


class Identity(nn.Module):
    """A network whose logits are the image: whatever tiling does to it must be undone."""

    def __init__(self, padding="same", fixed_size=None, depth=2):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.padding, self.encoder.fixed_size = padding, fixed_size
        self.encoder.strides = tuple(2**i for i in range(depth))
        self.head = nn.Module()
        self.head.num_logits = 1
        self.margin = {2: 8, 3: 20}[depth] if padding == "valid" else 0
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape[-2:]))
        m = self.margin
        return x[..., m : x.shape[-2] - m, m : x.shape[-1] - m]


SIZE = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(SIZE, SIZE, st.integers(1, 40), st.floats(0, 0.9))
def test_tiles_of_an_identity_give_back_the_image(height, width, tile, overlap):
    image = torch.rand(2, 1, height, width)
    result = whole_logits(Identity(), image, tile, overlap)
    torch.testing.assert_close(result, image, atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(SIZE, SIZE, st.integers(1, 40), st.sampled_from([2, 3]))
def test_an_unpadded_network_sees_mirrored_context_and_gives_back_the_image(
    height, width, tile, depth
):
    image = torch.rand(1, 1, height, width)
    result = whole_logits(Identity("valid", depth=depth), image, tile)
    torch.testing.assert_close(result, image, atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(SIZE, SIZE)
def test_a_network_of_one_size_sees_tiles_of_at_most_that_size(height, width):
    model = Identity(fixed_size=(32, 32))
    image = torch.rand(1, 1, height, width)
    torch.testing.assert_close(whole_logits(model, image), image, atol=1e-5, rtol=1e-5)
    assert all(h <= 32 and w <= 32 for h, w in model.seen)


@given(st.integers(1, 500), st.integers(1, 200), st.floats(0, 0.95))
def test_starts_cover_everything_with_at_least_the_overlap(size, tile, overlap):
    found = starts(size, tile, overlap)
    assert found[0] == 0
    assert max(found) + tile >= size
    assert all(0 < b - a <= tile for a, b in pairwise(found))
    if tile < size:
        assert found[-1] == size - tile


def test_small_images_go_through_at_once_and_large_ones_in_tiles(monkeypatch):
    model = Identity()
    whole_logits(model, torch.zeros(1, 1, 50, 60))
    assert model.seen == [(50, 60)]
    monkeypatch.setattr("segkit.inference.tiling.WHOLE_PIXELS", 1000)
    monkeypatch.setattr("segkit.inference.tiling.TILE", 32)
    model.seen.clear()
    whole_logits(model, torch.zeros(1, 1, 50, 60))
    assert len(model.seen) > 1
    assert set(model.seen) == {(32, 32)}


def test_mirrored_indices():
    assert mirrored(-2, 5, 3).tolist() == [1, 0, 0, 1, 2, 2, 1]
    assert mirrored(-3, 4, 1).tolist() == [0] * 7


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (40, 33)])
def test_real_networks_give_every_size(size):
    for encoder, neck in (
        ({"name": "resnet18", "pretrained": False}, "fpn"),
        ({"name": "unet", "width": 2, "depth": 3, "padding": "valid"}, "unet"),
    ):
        model = create_model(encoder, neck, in_channels=1).eval()
        with torch.no_grad():
            assert whole_logits(model, torch.rand(1, 1, *size)).shape == (1, 1, *size)


def test_tiles_of_an_unpadded_network_equal_one_pass():
    """The overlap-tile strategy is exact: each pixel sees the same surroundings in every tile."""
    model = create_model(
        {"name": "unet", "width": 4, "depth": 2, "padding": "valid", "dropout": 0}, "unet"
    ).eval()
    image = torch.rand(1, 3, 64, 48)
    with torch.no_grad():
        once = whole_logits(model, image, tile=64)
        # tiles on the grid of the pooling, else max-pooling groups other pixels
        tiled = whole_logits(model, image, tile=16, overlap=0.5)
    torch.testing.assert_close(once, tiled, atol=1e-4, rtol=1e-4)
