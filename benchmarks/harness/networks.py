"""Networks of segkit as candidates: what its users get when they predict and when they train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from harness.process import Candidate
from harness.roofline import BYTES_OF_ADAMW, Work, count_work
from segkit.benchmark.networks import (
    build_network,
    find_input_side,
    prepare_prediction,
    prepare_training_step,
    use_precision,
)
from segkit.inference.runtimes.torch_network import choose_device
from segkit.models.conv import plain_joins

Part = Mapping[str, Any]
"""Name and options."""


def predict(
    encoder: Part,
    neck: Part,
    batch: int,
    side: int,
    channels: int = 3,
    device: str = "cpu",
    dtype: str = "float32",
) -> Candidate:
    """Probabilities of a batch, as ``segkit.load`` computes them."""
    device = str(choose_device(device))
    torch.manual_seed(0)
    model = build_network(encoder, neck, channels, 1, side)
    facts = Facts(model)
    run = prepare_prediction(model, batch, side, device, dtype)

    def count() -> dict[str, Any]:
        # of a new network: the copy that predicts computes convolutions in fewer operations
        plain = build_network(encoder, neck, channels, 1, side).to(device).eval()
        seen = find_input_side(plain, side)
        images = torch.rand(batch, channels, seen, seen, device=device)
        with torch.no_grad(), use_precision(device, dtype):
            return facts.of(lambda: plain(images))()

    return Candidate(run, count, device)


def train(
    encoder: Part,
    neck: Part,
    batch: int,
    side: int,
    channels: int = 3,
    device: str = "cpu",
    dtype: str = "float32",
    compiled: bool = False,
) -> Candidate:
    """A training step as ``python -m segkit.train`` takes it."""
    device = str(choose_device(device))
    torch.manual_seed(0)
    model = build_network(encoder, neck, channels, 1, side)
    facts = Facts(model)
    run = prepare_training_step(model, batch, side, device, dtype, compiled)
    return Candidate(run, facts.of(run, BYTES_OF_ADAMW), device)


class Facts:
    """What a candidate says about itself after its runs."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = sum(p.numel() for p in model.parameters())

    def of(
        self, run: Callable[[], object], bytes_per_parameter: int = 0
    ) -> Callable[[], dict[str, Any]]:
        """Parameters and counted work, with the bytes that the optimizer moves per parameter."""

        def facts() -> dict[str, Any]:
            with plain_joins():  # as the architecture says, however it is computed
                work = count_work(run)
            moved = work.bytes + bytes_per_parameter * self.parameters
            return {"parameters": self.parameters, **asdict(Work(work.flops, moved))}

        return facts
