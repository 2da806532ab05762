"""Report how long the steps of an epoch waited for data, and why."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning as L
import torch

from segkit.core.memory import count_usable_cores
from segkit.data.loading import CROPPING, READING, TARGET
from segkit.training.datamodule import SegmentationData

SHARE, SECONDS = 0.1, 1.0
"""Waits below this share of the epoch or this many seconds are not reported."""
SHOWN = 0.05
"""Stages below this share of an item's time are not listed."""
TIMED_STEPS = 1000
"""Most steps of an epoch that are timed."""


class Bottleneck(L.Callback):
    """Prints how long an epoch waited for data, which stages took the time, and a remedy.

    A wait lasts from the end of a step to the start of the next. On a GPU only idle time counts,
    measured by events of the GPU, so that measuring never waits. Validations do not count.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock for a run resumed in an epoch, which calls no on_train_epoch_start."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        loader = trainer.train_dataloader
        self._before = loader.dataset.times.totals() if loader is not None else (0, ())
        self._waits: list[tuple[float, Any, Any]] = []  # with the events around it on a GPU
        self._began = self._since = time.perf_counter()
        self._last = _record_event(pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any
    ) -> None:
        """End the wait."""
        if len(self._waits) < TIMED_STEPS:
            wait = time.perf_counter() - self._since
            self._waits.append((wait, self._last, _record_event(pl_module)))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Begin the wait for the next batch."""
        if len(self._waits) < TIMED_STEPS:
            self._since = time.perf_counter()
            self._last = _record_event(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line if the wait was long."""
        lasted = self._since - self._began
        waited = _sum_waits(self._waits)
        if waited <= max(SECONDS, SHARE * lasted) or not trainer.is_global_zero:
            return
        loader: Any = trainer.train_dataloader
        items, totals = loader.dataset.times.totals()
        seconds: dict[str, float] = {}  # by name, as a transform may occur twice
        for name, now, before in zip(
            loader.dataset.times.stages, totals, self._before[1], strict=True
        ):
            mean = (now - before) / max(1, items - self._before[0])
            seconds[name] = seconds.get(name, 0.0) + mean
        # Lightning declares the attribute nowhere
        data: SegmentationData = trainer.datamodule  # type: ignore[attr-defined]
        slowest = max(seconds, key=seconds.__getitem__)
        crops = len(self._waits) * loader.batch_size / max(lasted - waited, 1e-9)
        needed = math.ceil(crops * sum(seconds.values()))
        trainer.print(  # above the progress bar
            f"epoch {trainer.current_epoch}: waited {waited / lasted:.0%} of the time for data:"
            f" {list_stages(seconds)}. {recommend(slowest, data, trainer.current_epoch, needed)}"
        )


def list_stages(seconds: dict[str, float]) -> str:
    """List the stages of an item with their times, the longest first."""
    total = sum(seconds.values())
    parts = [
        f"{name} {1e3 * seconds[name]:.1f} ms"
        for name in sorted(seconds, key=seconds.__getitem__, reverse=True)
        if seconds[name] >= SHOWN * total
    ]
    return f"{', '.join(parts)}; {1e3 * total:.1f} ms for a crop in all"


def recommend(slowest: str, data: SegmentationData, epoch: int, needed: int) -> str:
    """Recommend a remedy for the slowest stage.

    ``needed`` is the number of workers whose crops would keep up with the steps.
    """
    if slowest == READING and data.cache is None and data.config.cache is not True:
        return "data.cache=true keeps what was decoded."
    if slowest == READING and data.cache is not None and epoch == 0:
        return "The next epochs read from the cache that this one has filled."
    workers, most = data.workers, count_usable_cores() - 1  # one core computes
    if needed <= workers:
        return f"{needed} of the {workers} workers keep up, once they have started."
    if needed <= most:
        return f"data.num_workers={needed} keeps up with the steps (now {workers})."
    remedies = {
        READING: "Images on a faster disk, or in smaller files, are read faster.",
        TARGET: "The target is drawn from objects, which larger crops have more of.",
        CROPPING: "Smaller crops take less time.",
    }
    remedy = remedies.get(slowest, f"Make {slowest} rarer (its p) or leave it out.")
    if workers < most:
        return f"data.num_workers={most} helps (now {workers}), {needed} would keep up. {remedy}"
    return f"There are no more cores, {needed + 1} would keep up. {remedy}"


def _sum_waits(waits: list[tuple[float, Any, Any]]) -> float:
    """Sum the seconds of waiting, on a GPU those in which it was idle."""
    if waits and waits[-1][2] is not None:
        waits[-1][2].synchronize()
    return sum(
        wait if end is None else min(wait, 1e-3 * end.elapsed_time(start))
        for wait, end, start in waits
    )


def _record_event(pl_module: L.LightningModule) -> Any:
    """Record a point in time of the GPU; None elsewhere."""
    if pl_module.device.type != "cuda":
        return None
    # torch gives it no types
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
