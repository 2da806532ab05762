"""Report how long the steps of an epoch waited for data, and why."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch

from segkit.core.memory import usable_cores
from segkit.data.loading import CROPPING, READING, TARGET, TrainDataset
from segkit.training.datamodule import SegmentationData

SHARE, SECONDS = 0.1, 1.0
"""Waits below this share of the epoch or this many seconds are not reported."""
SHOWN = 0.05
"""Stages below this share of an item's time are not listed."""
TIMED_STEPS = 1000
"""Most steps of an epoch that are timed on a GPU."""
AUGMENTATION = "augmentation"


class Bottleneck(L.Callback):
    """Prints how long an epoch waited for data, which stages took the time, and a remedy.

    A wait lasts from the end of a step to the start of the next. On a GPU only idle time
    counts, measured by events of the GPU, so that measuring never waits. Validations do not count.
    """

    def __init__(self) -> None:
        self._waited = 0.0
        self._began = self._since = 0.0
        self._before: tuple[int, tuple[float, ...]] = 0, ()  # the times before the epoch
        self._last: Any = None  # on a GPU the event at the end of the last step
        self._idle: list[tuple[Any, Any, float]] = []  # events around a wait, and the wait

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock for a run resumed in an epoch, which calls no on_train_epoch_start."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        dataset = _dataset(trainer)
        self._before = (0, ()) if dataset is None else dataset.times.totals()
        self._waited, self._idle = 0.0, []
        self._began = self._since = time.perf_counter()
        self._last = _event(pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any
    ) -> None:
        """End the wait."""
        wait = time.perf_counter() - self._since
        if self._last is None:
            self._waited += wait
        elif len(self._idle) < TIMED_STEPS:
            self._idle.append((self._last, _event(pl_module), wait))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Begin the wait for the next batch."""
        self._since = time.perf_counter()
        self._last = _event(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line if the wait was long."""
        # Lightning declares the attribute nowhere
        dataset, data = _dataset(trainer), trainer.datamodule  # type: ignore[attr-defined]
        if dataset is None or not trainer.is_global_zero or not isinstance(data, SegmentationData):
            return
        lasted = self._since - self._began
        waited = self._waited_on_gpu() if self._idle else self._waited
        if waited <= max(SECONDS, SHARE * lasted):
            return
        items, seconds = dataset.times.totals()
        count = max(1, items - self._before[0])
        means = [(now - then) / count for now, then in zip(seconds, self._before[1], strict=True)]
        named = list(zip(dataset.times.stages, means, strict=True))
        trainer.print(  # above the progress bar
            f"epoch {trainer.current_epoch}: waited {waited / lasted:.0%} of the time for data:"
            f" {describe(named)}. {recommend(named, data, trainer.current_epoch)}"
        )

    def _waited_on_gpu(self) -> float:
        """Return the seconds in which the GPU was idle for want of a batch."""
        last = self._idle[-1][1]
        last.synchronize()
        return sum(min(wait, 1e-3 * end.elapsed_time(start)) for end, start, wait in self._idle)


def describe(stages: Sequence[tuple[str, float]]) -> str:
    """List the stages of an item with their seconds, the longest first."""
    steps = _sum_by_name(stages, of_augmentation=True)
    groups = _sum_by_name(stages, of_augmentation=False)
    if steps:
        groups[AUGMENTATION] = sum(steps.values())
    total = sum(groups.values())
    parts = []
    for name, seconds in sorted(groups.items(), key=lambda group: -group[1]):
        if seconds < SHOWN * total:
            continue
        part = f"{name} {_format(seconds)}"
        if name == AUGMENTATION:
            slowest = max(steps, key=lambda step: steps[step])
            part = f"{name} {_format(seconds)} ({slowest} {_format(steps[slowest])})"
        parts.append(part)
    return f"{', '.join(parts)}; {_format(total)} for a crop in all"


def recommend(stages: Sequence[tuple[str, float]], data: SegmentationData, epoch: int) -> str:
    """Recommend a remedy for the slowest stage."""
    everything = _sum_by_name(stages, True) | _sum_by_name(stages, False)
    slowest = max(everything, key=lambda stage: everything[stage])
    workers, cores = data.workers, usable_cores()
    more = None
    if workers < cores - 1:  # one computes
        more = f"data.num_workers={min(2 * workers or 2, cores - 1)}"
    if slowest == READING and data.cache is None and data.config.cache is not True:
        return "data.cache=true keeps what was decoded."
    if slowest == READING and data.cache is not None and epoch == 0:
        return "The next epochs read from the cache that this one has filled."
    if more is not None:
        return f"More workers may help: {more} (now {workers})."
    if slowest == READING:
        return "Images on a faster disk, or in smaller files, are read faster."
    if slowest == TARGET:
        return "The target is drawn from objects, which larger crops have more of."
    if slowest == CROPPING:
        return "Smaller crops take less time."
    return f"There are no more cores: make {slowest} rarer (its p) or leave it out."


def _sum_by_name(stages: Sequence[tuple[str, float]], of_augmentation: bool) -> dict[str, float]:
    """Sum the seconds by name, as a transform may occur twice."""
    summed: dict[str, float] = {}
    for name, seconds in stages:
        if (name not in (READING, CROPPING, TARGET)) == of_augmentation:
            summed[name] = summed.get(name, 0.0) + seconds
    return summed


def _format(seconds: float) -> str:
    return f"{1e3 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"


def _dataset(trainer: L.Trainer) -> TrainDataset | None:
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    return dataset if isinstance(dataset, TrainDataset) else None


def _event(pl_module: L.LightningModule) -> Any:
    """Record a point in time of the GPU; None elsewhere."""
    if pl_module.device.type != "cuda":
        return None
    # torch gives it no types
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
