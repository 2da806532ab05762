"""The floor of a time: what the work would take at the speed that the machine itself has.

The roofline model (Williams, Waterman and Patterson 2009): work takes at least its operations over
the rate of the arithmetic, and at least its bytes over the rate of the memory. Both rates are
measured, and so are the operations and the bytes, by running the work once. The rate of the
arithmetic is that of a large matrix product or of a large convolution, whichever is faster: they
come from two libraries, of which one may not know the processor well.
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

from segkit.benchmarking.child import Candidate
from segkit.benchmarking.machine import machine_facts
from segkit.benchmarking.timing import timed

SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows of the matrices, as many as columns: large enough to be all arithmetic."""
CHANNELS, BATCH, MAP = 256, {"cpu": 1, "cuda": 64}, 64
"""Of the 3x3 convolution: its channels, images, and the side of its maps."""
COPIED = {"cpu": 256 * 1024**2, "cuda": 2 * 1024**3}
"""Bytes that are copied: more than any cache holds."""
SECONDS = 2.0
"""How long each rate is measured; the fastest run counts."""
BYTES_OF_ADAMW = 7 * 4
"""What a step of AdamW moves for each parameter in float32: the gradient, the parameter and two
averages are read, the last three are written."""
RATES = {
    "matrix product, GFLOP/s": "product",
    "3x3 convolution, GFLOP/s": "convolution",
    "copy, GB/s": "bytes",
}
"""The rates among the facts of a machine, in billions."""
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
"""The operations of torch whose bytes are counted."""


@dataclass(frozen=True)
class Rates:
    """What a machine reaches at its best.

    Attributes:
        product: Floating-point operations a second, of a matrix product.
        convolution: Likewise, of a convolution.
        bytes: Bytes a second, of a copy: those that are read and those that are written.
    """

    product: float
    convolution: float
    bytes: float

    @property
    def flops(self) -> float:
        """Floating-point operations a second, the better of both."""
        return max(self.product, self.convolution)


@dataclass(frozen=True)
class Work:
    """What some work consists of.

    Attributes:
        flops: Operations of convolutions, matrix products and attention; a multiply-add is two.
        bytes: What they read and write: inputs, weights and results, once for each operation.
            Normalisation, activations, upsampling, concatenation and addition count nothing, since
            they can be done while values pass anyway.
    """

    flops: float
    bytes: float

    def floor(self, rates: Rates) -> float:
        """Seconds that it takes at least on such a machine."""
        return max(self.flops / rates.flops, self.bytes / rates.bytes)


def count_work(run: Callable[[], object]) -> Work:
    """Count what a run of torch does, way back included if it has one."""
    counter, traffic = FlopCounterMode(display=False), _Traffic()
    with counter, traffic:
        run()
    return Work(counter.get_total_flops(), traffic.bytes)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch says no types
    """Adds up the bytes of the tensors that convolutions and the like take and give."""

    def __init__(self) -> None:
        # torch gives it no types
        super().__init__()  # type: ignore[no-untyped-call]
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
    """The rates of a machine, each the best of the runs of that many seconds."""
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
    target = torch.zeros_like(source)  # zeros, not empty: else the first copy asks for its memory
    copy = _fastest(lambda: target.copy_(source), wait, seconds)
    return Rates(2 * side**3 / multiply, per_convolution / convolve, 2 * COPIED[kind] / copy)


def _fastest(run: Callable[[], object], wait: Callable[[], object], seconds: float) -> float:
    measure = timed(run, wait)
    measure()
    end = time.perf_counter() + seconds
    found = [measure()]
    while time.perf_counter() < end:
        found.append(measure())
    return min(found)


def machine(device: str, dtype: str, seconds: float = SECONDS) -> Candidate:
    """A candidate whose facts are the machine and its rates, with the threads of its process."""

    def facts() -> dict[str, Any]:
        rates = measure_rates(device, getattr(torch, dtype), seconds)
        return {
            **machine_facts(device),
            **{key: round(getattr(rates, name) / 1e9, 1) for key, name in RATES.items()},
        }

    return Candidate(lambda: None, facts, device)


def rates_of(facts: Mapping[str, Any]) -> Rates:
    """The rates among the facts of :func:`machine`."""
    return Rates(**{name: facts[key] * 1e9 for key, name in RATES.items()})
