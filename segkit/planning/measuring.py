"""What a training step costs on a device, measured by a few steps."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch

from segkit.config.schema import TrainConfig
from segkit.core.machine import choose_precision
from segkit.losses.base import build_typical_loss
from segkit.models.fast import to_channels_last
from segkit.models.heads.queries import QueriesHead
from segkit.models.segmenter import Segmenter
from segkit.models.sizes import valid_input
from segkit.optim.optimizers import Optimizer
from segkit.planning.network import Network, build_network

WARM_UP, STEPS = {True: 3, False: 1}, {True: 5, False: 2}
"""Steps before the measured ones, and those, on a GPU and on a CPU, whose steps are slower."""
SECONDS = 5.0
"""What the steps with the larger batch may take."""
FEWEST = 2
"""Crops of the smaller of the two batches: batch norm needs several values."""


def measure_steps(
    network: Network,
    settings: TrainConfig,
    in_channels: int,
    num_classes: int,
    size: tuple[int, int],
    batch: int,
    device: str,
) -> Network:
    """The network with the time of a step and the memory of a crop as they are on a device.

    Steps are taken with two crops and with ``batch`` crops of that size: both costs are taken for a
    straight line between. The larger batch is halved as long as it does not fit. If not even two
    crops fit, the network is returned as it is.
    """
    small = _take_steps(settings, in_channels, num_classes, size, FEWEST, device)
    if small is None:
        return network
    pixels, large = math.prod(size), None
    # crops take at most as long as the two did
    steps = sum(count[device.startswith("cuda")] for count in (WARM_UP, STEPS))
    batch = min(batch, int(FEWEST * SECONDS / (steps * small[0])))
    while large is None and batch > FEWEST:
        large = _take_steps(settings, in_channels, num_classes, size, batch, device)
        batch = batch if large is not None else batch // 2
    if large is None:
        return replace(network, seconds_per_pixel=small[0] / (FEWEST * pixels))
    more = (batch - FEWEST) * pixels
    seconds, memory = (max(0.0, (b - a) / more) for a, b in zip(small, large, strict=True))
    return replace(
        network,
        seconds_per_pixel=max(seconds, 1e-15),  # a small crop may cost nothing besides the launch
        step_seconds=max(0.0, small[0] - FEWEST * pixels * seconds),
        bytes_per_pixel=memory or network.bytes_per_pixel,
    )


def _take_steps(
    settings: TrainConfig,
    in_channels: int,
    num_classes: int,
    size: tuple[int, int],
    batch: int,
    device: str,
) -> tuple[float, float] | None:
    """Seconds of a step and its peak of memory in bytes; None if it does not fit."""
    try:
        # planning must not change the draws of the training
        with torch.random.fork_rng([device] if device.startswith("cuda") else []):
            model = build_network(settings, in_channels, num_classes, max(size)).to(device).train()
            return _time_steps(model, settings, size, batch, device)
    except RuntimeError:  # too little memory; the libraries of NVIDIA have errors of their own
        return None
    finally:
        if device.startswith("cuda"):
            torch.cuda.empty_cache()


def _time_steps(
    model: Segmenter, settings: TrainConfig, size: tuple[int, int], batch: int, device: str
) -> tuple[float, float]:
    if settings.trainer.channels_last:
        to_channels_last(model)
    loss = build_typical_loss(model.head.mode, isinstance(model.head, QueriesHead)).to(device)
    optimizer = Optimizer.build(settings.optimizer.name).for_model(model)
    seen = size
    if model.encoder.padding == "valid":
        depth = len(model.encoder.strides)
        seen = valid_input(size[0], depth), valid_input(size[1], depth)
    image = torch.rand(batch, model.encoder.in_channels, *seen, device=device)
    if settings.trainer.channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    target = torch.zeros(batch, *model.output_size(*seen), dtype=torch.long, device=device)

    def step() -> None:
        with _choose_autocast(settings, device):
            logits = model.all_logits(image, settings.trainer.recompute)
            value = loss(logits[0], target)
        torch.autograd.backward(value)
        optimizer.step()
        optimizer.zero_grad()

    is_gpu = device.startswith("cuda")
    for _ in range(WARM_UP[is_gpu]):
        step()
    _wait(device)
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    for _ in range(STEPS[is_gpu]):
        step()
    _wait(device)
    seconds = (time.perf_counter() - began) / STEPS[is_gpu]
    if not is_gpu:
        return seconds, 0.0
    return seconds, float(torch.cuda.max_memory_allocated(device))


def _choose_autocast(settings: TrainConfig, device: str) -> AbstractContextManager[object]:
    precision = choose_precision(settings.trainer.precision, settings.trainer.accelerator)
    if not precision.endswith("-mixed"):
        return nullcontext()
    return torch.autocast(
        torch.device(device).type, torch.bfloat16 if "bf16" in precision else torch.float16
    )


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
