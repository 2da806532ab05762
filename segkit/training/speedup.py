"""What makes long trainings faster: convolutions chosen by trying them, a compiled step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.training.budget import Budget

WORTH = 900.0
"""Seconds of training that must be left: compiling takes one or two minutes, and saves a fifth."""
TUNED = 60.0
"""Seconds that must be left for trying the algorithms of cuDNN, which takes a few seconds."""
TRIALS = 3
"""Steps until CUDA graphs are in use: the first runs as usual, the second is recorded."""
FIRST, LAST = 20, 60
"""Steps between which the time of a step is measured; the first ones are slower."""

Compute = Callable[..., Tensor]
"""Takes what :meth:`SegmentationModule.compute_loss` takes; returns the loss."""


def compile_step(compute: Compute, device: torch.device, replays: bool) -> Compute:
    """Compile what computes a loss. That happens at its first call.

    On a GPU the step is recorded as CUDA graphs if ``replays``: the GPU then gets it as a whole
    instead of kernel by kernel. They hold the gradients in memory of their own, which the next step
    overwrites. torch keeps what it has compiled for later runs.
    """
    graphs = replays and device.type == "cuda"
    compiled = torch.compile(compute, mode="reduce-overhead" if graphs else None)
    if not graphs:
        return compiled

    def replay(*given: Any) -> Tensor:
        # torch has no types of it
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return compiled(*given).clone()  # the next step overwrites the original

    return replay


class Speedup(L.Callback):
    """Takes what makes steps faster but takes time itself, if the training is long enough.

    On a GPU cuDNN tries its algorithms for the crops, though not for the images of a validation,
    whose sizes differ; and the step is compiled. Both depend on the measured time of a step.

    Args:
        compiles: Whether to compile: "auto" on a GPU if more than ``WORTH`` seconds are left; True
            from the first step on, and as CUDA graphs, which take more memory.
    """

    def __init__(self, compiles: bool | str) -> None:
        self.compiles = compiles
        self._count = 0
        self._began = self._measured_from = 0.0
        self._is_compiling = self._is_tuned = False

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Compile at the first step if that is wanted."""
        if self.compiles is True:
            self._compile(trainer, pl_module)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Measure the time of a step, and decide."""
        if pl_module.device.type != "cuda":
            return
        self._count += 1
        if self._count == FIRST:
            torch.cuda.synchronize()
            self._measured_from = time.monotonic()
        elif self._count == LAST:
            torch.cuda.synchronize()
            step = (time.monotonic() - self._measured_from) / (LAST - FIRST)
            rest = _estimate_rest(trainer, step)
            # different algorithms would give different numbers in another run
            self._tune(rest > TUNED and not torch.are_deterministic_algorithms_enabled())
            fits = not pl_module.loss.takes_queries  # which it matches on the CPU
            if self.compiles == "auto" and fits and rest > WORTH:
                self._compile(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Leave the images of a validation alone."""
        if self._is_tuned:
            torch.backends.cudnn.benchmark = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Go on as before."""
        if self._is_tuned:
            torch.backends.cudnn.benchmark = True

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """What follows the training sees images of many sizes."""
        if self._is_tuned:
            self._tune(wanted=False)

    def _tune(self, wanted: bool) -> None:
        self._is_tuned = torch.backends.cudnn.benchmark = wanted

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Say how long it took."""
        if self._is_compiling:
            self._is_compiling = False
            took = time.monotonic() - self._began
            trainer.print(f"the training step is compiled; that took {took:.0f} s")

    def _compile(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._is_compiling, self._began = True, time.monotonic()
        plain, alone = pl_module.compute_loss, trainer.world_size == 1
        graphs = self.compiles is True and alone and trainer.accumulate_grad_batches == 1
        compiled = compile_step(plain, pl_module.device, graphs)

        def compute_first(*given: Any) -> Tensor:
            """Compute the first step; if that fails, all steps are computed plainly."""
            try:
                if alone:  # other processes would wait for its gradients
                    _try_out(compiled, pl_module, given, TRIALS if graphs else 1)
                loss = compiled(*given)
            except Exception as error:  # compilers have many types
                problem = str(error).strip().partition("\n")[0]
                if self.compiles is True:
                    raise SegkitError(
                        f"trainer.compile=true: this training step cannot be compiled: {problem}."
                        " Leave the option out."
                    ) from error
                self._is_compiling = False
                trainer.print(f"the training step is not compiled, as that failed: {problem}")
                pl_module.compute_loss = plain
            else:
                pl_module.compute_loss = compiled
                return loss
            return plain(*given)

        pl_module.compute_loss = compute_first


def _try_out(compute: Compute, pl_module: Any, given: tuple[Any, ...], times: int) -> None:
    """Take steps backwards too, where the rest is compiled, and leave everything as it was."""
    gradients = [parameter.grad for parameter in pl_module.parameters()]
    buffers = [buffer.clone() for buffer in pl_module.buffers()]
    device = pl_module.device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for _ in range(times):
                pl_module.zero_grad(set_to_none=True)
                loss = compute(*given)
                with torch.autocast(device.type, enabled=False):
                    torch.autograd.backward(loss)
    finally:
        for parameter, gradient in zip(pl_module.parameters(), gradients, strict=True):
            parameter.grad = gradient
        for buffer, before in zip(pl_module.buffers(), buffers, strict=True):
            buffer.data.copy_(before)


def _estimate_rest(trainer: L.Trainer, step: float) -> float:
    """Seconds until the end of a training whose steps take so long."""
    # Lightning declares the attribute nowhere
    held: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    rest = step * (trainer.estimated_stepping_batches - trainer.global_step)
    for budget in held:
        if isinstance(budget, Budget):
            rest = min(rest, budget.seconds - budget.elapsed)
    return rest
