"""What a training waits for: a line at the end of an epoch whose steps waited for data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch

from segkit.core.machine import usable_cores
from segkit.data.loading.dataset import CROPPING, READING, TARGET, TrainDataset
from segkit.training.datamodule import SegmentationData

SHARE, SECONDS = 0.1, 1.0
"""A wait is worth saying that takes more of the time of an epoch, and longer in all."""
SHOWN = 0.05
"""What takes less of the time of an item is not named."""
TIMED_STEPS = 1000
"""Steps of an epoch that are timed on a GPU, at most."""
AUGMENTATION = "augmentation"


class Bottleneck(L.Callback):
    """Says how much of an epoch was spent waiting for data, what took the time, and what helps.

    A wait is the time from the end of a step to the start of the next one. On a GPU, which works on
    while the program waits, only that part counts in which it had nothing to do; the GPU itself
    takes the time, so that nothing waits for the measurement. Validations do not count.
    """

    def __init__(self) -> None:
        self._waited = 0.0
        self._began = self._since = 0.0
        self._before: tuple[int, tuple[float, ...]] = 0, ()  # the times before the epoch
        self._last: Any = None  # on a GPU the event at the end of the last step
        self._idle: list[tuple[Any, Any, float]] = []  # events around a wait, and the wait

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock: a training that is resumed inside an epoch does not start that one."""
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
        """The wait is over."""
        wait = time.perf_counter() - self._since
        if self._last is None:
            self._waited += wait
        elif len(self._idle) < TIMED_STEPS:
            self._idle.append((self._last, _event(pl_module), wait))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Wait for the next batch."""
        self._since = time.perf_counter()
        self._last = _event(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say it, if it is worth it."""
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
            f" {describe(named)}. {advice(named, data, trainer.current_epoch)}"
        )

    def _waited_on_gpu(self) -> float:
        """Seconds in which the GPU had nothing to do because there was no batch."""
        last = self._idle[-1][1]
        last.synchronize()
        return sum(min(wait, 1e-3 * end.elapsed_time(start)) for end, start, wait in self._idle)


def describe(stages: Sequence[tuple[str, float]]) -> str:
    """What takes how much of the time of an item, the longest first.

    Args:
        stages: Each stage of making an item, and its seconds.
    """
    steps = _summed(stages, of_augmentation=True)
    groups = _summed(stages, of_augmentation=False)
    if steps:
        groups[AUGMENTATION] = sum(steps.values())
    total = sum(groups.values())
    parts = []
    for name, seconds in sorted(groups.items(), key=lambda group: -group[1]):
        if seconds < SHOWN * total:
            continue
        part = f"{name} {_milliseconds(seconds)}"
        if name == AUGMENTATION:
            slowest = max(steps, key=lambda step: steps[step])
            part = f"{name} {_milliseconds(seconds)} ({slowest} {_milliseconds(steps[slowest])})"
        parts.append(part)
    return f"{', '.join(parts)}; {_milliseconds(total)} for a crop in all"


def advice(stages: Sequence[tuple[str, float]], data: SegmentationData, epoch: int) -> str:
    """What to do about it.

    Args:
        stages: Each stage of making an item, and its seconds.
        data: The batches.
        epoch: The number of the epoch.
    """
    everything = _summed(stages, True) | _summed(stages, False)
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


def _summed(stages: Sequence[tuple[str, float]], of_augmentation: bool) -> dict[str, float]:
    """Seconds by name, as a transform may be there twice."""
    summed: dict[str, float] = {}
    for name, seconds in stages:
        if (name not in (READING, CROPPING, TARGET)) == of_augmentation:
            summed[name] = summed.get(name, 0.0) + seconds
    return summed


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"


def _dataset(trainer: L.Trainer) -> TrainDataset | None:
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    return dataset if isinstance(dataset, TrainDataset) else None


def _event(pl_module: L.LightningModule) -> Any:
    """A moment in the work of a GPU; None elsewhere."""
    if pl_module.device.type != "cuda":
        return None
    # torch gives it no types
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
