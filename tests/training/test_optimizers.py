"""Optimizer steps in one pass over the weights, against those of torch as it comes."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from segkit.models.fast import to_channels_last
from segkit.models.segmenter import create_model
from segkit.training.optimizers import Optimizer


@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        ("adamw", {"weight_decay": 0.1}, torch.optim.AdamW),
        ("sgd", {"momentum": 0.99, "nesterov": True}, torch.optim.SGD),
    ],
)
def test_steps_are_those_of_torch(name: str, options: dict[str, Any], plain: Any) -> None:
    model = create_model("unet", "fpn", in_channels=1)
    optimizer = Optimizer.build(name, lr=0.01, **options).for_model(model)
    assert all(group["fused"] for group in optimizer.param_groups)
    ours = [p for group in optimizer.param_groups for p in group["params"]]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    kept = iter(theirs)
    groups = [
        {
            "params": [next(kept) for _ in group["params"]],
            "weight_decay": group["weight_decay"],
        }
        for group in optimizer.param_groups
    ]
    reference = plain(groups, lr=0.01, **{k: v for k, v in options.items() if k != "weight_decay"})
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        optimizer.step()
        reference.step()
    assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("neck", ["unet", "fpn"])
def test_gradients_lie_as_the_weights_do(neck: str) -> None:
    """A step in one pass walks through both as they are in memory."""
    model = create_model({"name": "resnet18", "pretrained": False}, neck)
    to_channels_last(model)
    image = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    model(image).square().mean().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        strides = zip(parameter.shape, parameter.stride(), parameter.grad.stride(), strict=True)
        assert all(own == gradient for side, own, gradient in strides if side > 1)
