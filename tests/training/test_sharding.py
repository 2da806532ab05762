"""Weights in shards: the same logits and gradients, whatever the encoder is made of."""

from __future__ import annotations

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from segkit.models.fast import to_channels_last
from segkit.models.segmenter import create_model
from segkit.training import sharding


@pytest.fixture
def mesh():
    """A group of one process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # no loss changes logits in place
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "vit_tiny_patch16_224"])
def test_shards_compute_what_whole_weights_do(mesh, monkeypatch, name, recompute):
    monkeypatch.setattr(sharding, "BLOCK", 20_000)
    torch.manual_seed(0)  # for a few weights, rounding decides which side of a ReLU a value is on
    encoder = {"name": "timm", "model": name, "pretrained": False}
    model = create_model(encoder, "unet", "binary", img_size=64).eval()
    to_channels_last(model)
    image = torch.rand(1, 3, 64, 64)
    (logits,) = model.all_logits(image)
    logits.sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    sharding.shard(model, mesh)
    assert sum(isinstance(module, FSDPModule) for module in model.modules()) > 4
    (found,) = model.all_logits(image, recompute)
    found.sum().backward()
    torch.testing.assert_close(found, logits, rtol=1e-3, atol=1e-4)
    assert expected
    for key, parameter in model.named_parameters():
        if key in expected:
            scale = float(expected[key].abs().max()) + 1e-6
            off = (parameter.grad.full_tensor() - expected[key]).abs().max()
            assert float(off) < 1e-3 * scale, key
