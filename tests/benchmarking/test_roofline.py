from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segkit.benchmarking import roofline
from segkit.benchmarking.roofline import Rates, Work, count_work, machine, rates_of


def test_a_matrix_product_is_counted():
    a, b = torch.rand(10, 20), torch.rand(20, 30)
    assert count_work(lambda: a @ b) == Work(2 * 10 * 20 * 30, 4 * (200 + 600 + 300))


def test_a_convolution_is_counted_and_what_can_be_fused_is_not():
    x, w = torch.rand(2, 3, 8, 8), torch.rand(5, 3, 3, 3)
    plain = count_work(lambda: F.conv2d(x, w, padding=1))
    assert plain == Work(2 * 2 * 5 * 3 * 9 * 64, 4 * (2 * 3 * 64 + 135 + 2 * 5 * 64))
    more = count_work(lambda: torch.cat([F.conv2d(x, w, padding=1).relu() * 2, x], 1))
    assert more == plain


def test_the_way_back_is_counted():
    x, w = torch.rand(2, 3, 8, 8), torch.rand(5, 3, 3, 3, requires_grad=True)
    there = count_work(lambda: F.conv2d(x, w))
    both = count_work(lambda: F.conv2d(x, w).sum().backward())
    assert both.flops == 2 * there.flops  # the image needs no gradient
    assert both.bytes > 1.5 * there.bytes


def test_the_floor_takes_the_better_arithmetic_and_the_slower_of_both():
    rates = Rates(product=100.0, convolution=200.0, bytes=10.0)
    assert Work(1000, 10).floor(rates) == 5
    assert Work(1000, 100).floor(rates) == 10


def test_rates_of_this_machine(monkeypatch):
    monkeypatch.setattr(roofline, "SIDE", {"cpu": 64})
    monkeypatch.setattr(roofline, "COPIED", {"cpu": 2**22})
    facts = machine("cpu", "float32", seconds=0.01).facts()
    rates = rates_of(facts)
    assert min(rates.product, rates.convolution, rates.bytes) > 0
    assert facts["threads"] == torch.get_num_threads()
    assert {"python", "segkit", "torch"} <= set(facts["versions"])


@pytest.mark.parametrize("encoder", ["resnet18", "unet"])
def test_a_network_is_counted_as_its_architecture_says_it(encoder):
    """The CPU may compute a part of it in fewer operations."""
    from segkit.benchmarking.networks import build, inference
    from segkit.models.cost import gflops

    part = {"name": encoder, "width": 4, "depth": 3} if encoder == "unet" else {"name": encoder}
    facts = inference(part, {"name": "unet"}, batch=2, side=64).facts()
    model = build(part, {"name": "unet"}, 3, 1, 64)
    assert facts["flops"] == pytest.approx(2e9 * gflops(model, 3, (64, 64)))
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
