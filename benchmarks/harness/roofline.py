"""The floor of a time: what the work would take at the speed of the machine itself.

The roofline model (Williams, Waterman and Patterson 2009): work takes at least its operations over
the rate of the arithmetic, and at least its bytes over the rate of the memory. The rates are
measured, and operations and bytes are counted in one run. The rate of the arithmetic is the better
one of a large matrix product and a large convolution: they come from two libraries, and one of
them may not know the processor well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from harness.machine import describe_machine
from harness.process import Candidate
from harness.timing import make_timer

SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices: large enough to be all arithmetic."""
CHANNELS, BATCH, MAP = 256, {"cpu": 1, "cuda": 64}, 64
"""Channels, images and side of the maps of the 3x3 convolution."""
COPIED = {"cpu": 256 * 1024**2, "cuda": 2 * 1024**3}
"""Bytes to copy: more than any cache holds."""
SECONDS = 2.0
"""Time for each rate; the fastest run counts."""
BYTES_OF_ADAMW = 7 * 4
"""What AdamW moves per parameter in float32: it reads the gradient, the parameter and two averages
and writes the last three."""
RATES = {
    "matrix product, GFLOP/s": "product",
    "3x3 convolution, GFLOP/s": "convolution",
    "copy, GB/s": "bytes",
}
"""Names of the rates in the facts of a machine, in billions per second."""
MOVING = frozenset(
    {
        "addmm",
        "baddbmm",
        "bmm",
        "convolution",
        "convolution_backward",
        "mm",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    }
)
"""Operations of torch whose bytes are counted."""


@dataclass(frozen=True)
class Rates:
    """The best rates of a machine.

    Attributes:
        product: Floating-point operations per second of a matrix product.
        convolution: The same of a convolution.
        bytes: Bytes per second of a copy, read and written ones.
    """

    product: float
    convolution: float
    bytes: float

    @property
    def flops(self) -> float:
        """Floating-point operations per second, the better of both."""
        return max(self.product, self.convolution)


@dataclass(frozen=True)
class Work:
    """The amount of some work.

    Attributes:
        flops: Operations of convolutions, matrix products and attention; a multiply-add is two.
        bytes: What those read and write: inputs, weights and results, once per operation.
            Normalisation, activations, upsampling, concatenation and addition count nothing, since
            they can be fused into the others.
    """

    flops: float
    bytes: float

    def floor(self, rates: Rates) -> float:
        """The least seconds that it takes on a machine of these rates."""
        return max(self.flops / rates.flops, self.bytes / rates.bytes)


def count_work(run: Callable[[], object]) -> Work:
    """Count the work of a run of torch, including the backward pass if there is one."""
    counter, traffic = FlopCounterMode(display=False), _Traffic()
    with counter, traffic:
        run()
    return Work(counter.get_total_flops(), traffic.bytes)


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of the inputs and outputs of convolutions and the like."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in MOVING:
            leaves = tree_leaves((args, dict(kwargs or {}), result))
            self.bytes += sum(x.numel() * x.element_size() for x in leaves if isinstance(x, Tensor))
        return result


def measure_rates(device: str, dtype: torch.dtype, seconds: float = SECONDS) -> Rates:
    """Measure the rates of a machine, each the best run in so many seconds."""
    kind = "cuda" if device.startswith("cuda") else "cpu"
    side = SIDE[kind]
    a = torch.rand(side, side, device=device, dtype=dtype)
    b = torch.rand(side, side, device=device, dtype=dtype)
    product = torch.empty_like(a)
    wait = torch.cuda.synchronize if kind == "cuda" else lambda: None
    multiply = _fastest(lambda: torch.mm(a, b, out=product), wait, seconds)
    maps, kernel = (
        torch.rand(*shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((BATCH[kind], CHANNELS, MAP, MAP), (CHANNELS, CHANNELS, 3, 3))
    )
    with torch.inference_mode():
        convolve = _fastest(lambda: F.conv2d(maps, kernel, padding=1), wait, seconds)
    per_convolution = 2 * 9 * CHANNELS**2 * MAP**2 * BATCH[kind]
    source = torch.zeros(COPIED[kind], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)  # not empty: the first copy would have to allocate
    copy = _fastest(lambda: target.copy_(source), wait, seconds)
    return Rates(2 * side**3 / multiply, per_convolution / convolve, 2 * COPIED[kind] / copy)


def _fastest(run: Callable[[], object], wait: Callable[[], object], seconds: float) -> float:
    measure = make_timer(run, wait)
    measure()
    end = time.perf_counter() + seconds
    found = [measure()]
    while time.perf_counter() < end:
        found.append(measure())
    return min(found)


def prepare_rates(device: str, dtype: str, seconds: float = SECONDS) -> Candidate:
    """A candidate whose facts are the machine and its rates, for the threads of its process."""

    def facts() -> dict[str, Any]:
        rates = measure_rates(device, getattr(torch, dtype), seconds)
        return {
            **describe_machine(device),
            **{key: round(getattr(rates, name) / 1e9, 1) for key, name in RATES.items()},
        }

    return Candidate(lambda: None, facts, device)


def read_rates(facts: Mapping[str, Any]) -> Rates:
    """Read the rates from the facts of :func:`prepare_rates`."""
    return Rates(**{name: facts[key] * 1e9 for key, name in RATES.items()})
