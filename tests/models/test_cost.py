"""The counted operations of networks whose number is known by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkit.models.contract import find_unused
from segkit.models.cost import gflops
from segkit.models.segmenter import create_model


def test_the_convolutions_of_a_small_network():
    """Two levels of two 3x3 convolutions each, one decoder block and a 1x1 head, by hand."""
    encoder = {"name": "unet", "depth": 2, "width": 4}
    model = create_model(encoder, {"name": "unet", "upsample": "deconv"}, in_channels=1)
    H, W = 16, 24
    fine, coarse = H * W, H * W // 4
    macs = fine * 9 * (1 * 4 + 4 * 4) + coarse * 9 * (4 * 8 + 8 * 8)  # the encoder
    macs += coarse * 4 * 8 * 4 + fine * 9 * (8 * 4 + 4 * 4)  # 2x2 deconvolution, two convolutions
    macs += fine * 4  # the head
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert gflops(model, 1, (H, W)) == pytest.approx(2 * macs / 1e9)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    # an unpadded network also computes the surroundings that it needs
    unpadded = create_model({**encoder, "padding": "valid"}, "unet", in_channels=1)
    assert gflops(unpadded, 1, (20, 20)) > gflops(model, 1, (20, 20))


def test_a_backbone_with_a_class_token():
    """A view of the token is an input of a part; what no logits depend on is found."""
    model = create_model({"name": "pit_xs_224", "pretrained": False}, "fcn", in_channels=3)
    norm = list(nn.BatchNorm2d(3).parameters())
    model.norm = nn.ParameterList(norm)
    next(model.encoder.parameters()).requires_grad = False
    trained = [p.requires_grad for p in model.parameters()]
    assert 0.1 < gflops(model, 3, (64, 64)) < 10
    assert [p.requires_grad for p in model.parameters()] == trained
    assert {id(p) for p in find_unused(model)} == {id(p) for p in norm}


def test_the_attention_of_a_transformer():
    """Queries times keys, and weights times values: N x N x C each for N tokens of C channels."""
    encoder = {"name": "test_vit", "pretrained": False, "blocks": "plain"}
    model = create_model(encoder, {"name": "linear", "norm": "none"})
    vit = model.encoder.backbone.model
    patches = 6 * 4
    tokens, channels = patches + 1, 64  # and the class token
    macs = patches * 16 * 16 * 3 * channels + patches * channels  # the patches, the head
    linear = [m for m in vit.blocks.modules() if isinstance(m, nn.Linear)]
    macs += sum(tokens * m.in_features * m.out_features for m in linear)
    macs += len(vit.blocks) * 2 * tokens**2 * channels
    assert gflops(model, 3, (96, 64)) == pytest.approx(2 * macs / 1e9)
