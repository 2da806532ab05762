"""The batches of a training."""

from __future__ import annotations

import math
import os
import re
import shutil
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar, cast

import lightning as L
import torch
from torch.utils.data import DataLoader

from segkit.checkpoint.values import Normalization
from segkit.config.schema import Data
from segkit.core.errors import SegkitError
from segkit.core.memory import GB, count_usable_cores, find_main_memory
from segkit.core.threads import limit_blas, use_one_thread
from segkit.data.augment import TrainTransform
from segkit.data.checks.summary import DataSummary
from segkit.data.draws import (
    ClassOrder,
    Draw,
    DrawSampler,
    EvenOrder,
    EverySample,
    HardOrder,
    Order,
    UnlabeledOrder,
    count_unlabeled,
)
from segkit.data.layout.blocks import list_parts, take_part
from segkit.data.loading import (
    READING,
    SMALL,
    ArrayCache,
    Crop,
    Item,
    StageTimes,
    TrainDataset,
    WholeDataset,
    as_item,
)
from segkit.data.mixing.mixes import Mix
from segkit.data.sources.base import DataSource, Sample, Split
from segkit.data.unlabeled import UnlabeledImages
from segkit.inference.tiles.tiling import BATCH_PIXELS
from segkit.targets.base import Target
from segkit.training.hardness import Hardness

SHARE = 0.25
"""Largest share of the memory and of the free disk for data.cache=auto."""
MOST_WORKERS = 16
"""Processes that make crops, at most, unless data.num_workers says how many."""
RATES = {"cpu": 200.0, "mps": 1000.0, "cuda": 4000.0}
"""Crops a second that the fastest networks take on a device."""
TRIED, TRIED_SECONDS = 5, 1.0
"""Crops that are made to see what one costs, unless they take longer."""
PART = 2048
"""Height and width of the parts, at most, in which images too large for memory are validated."""
SHARED = "/dev/shm"
"""Where batches of other processes lie on Linux. Containers have 64 MB unless told otherwise."""
ENLARGE = "enlarge it (docker run --shm-size=2g)"
CACHED: tuple[Split, ...] = ("train", "val")
"""Splits that are read in every epoch."""


Batch = TypeVar("Batch")


class LazyLoader(DataLoader[Batch]):
    """A loader whose workers start when the first batch is asked for.

    Lightning makes the first iterator before it has restored the state of a resumed run, and
    workers would fetch the batches of epoch 0.

    Raises:
        SegkitError: A worker was killed for want of memory.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch: its own iterator
        try:
            yield from super().__iter__()
        except (RuntimeError, OSError) as error:
            said = str(error)
            if "killed by signal: Killed" in said:
                raise SegkitError(
                    "the system has ended a process that reads images, as memory is used up: give"
                    " fewer of them (data.num_workers)."
                ) from error
            if self.num_workers and re.search(r"Bus error|shared memory|No space left", said):
                raise SegkitError(
                    f"{SHARED} is full, through which processes that read images hand over their"
                    f" batches: {ENLARGE}, or set data.num_workers=0."
                ) from error
            raise


class NextDraws(DrawSampler):
    """The draws that come next: at the start of an epoch, or in the middle of a resumed one.

    The trainer is asked when an iteration starts, so that the two cannot get out of step; without
    one the draws are those of epoch 0.
    """

    trainer: L.Trainer | None = None
    batch_size = 1

    def __iter__(self) -> Iterator[Draw]:
        if self.trainer is None:
            return super().__iter__()
        loop = self.trainer.fit_loop
        epoch: Any = loop.epoch_progress.current  # Lightning's types lack their counts
        batches: Any = loop.epoch_loop.batch_progress.current
        finished, within = epoch.processed, 0
        if epoch.processed < epoch.started:  # an epoch is under way
            more, within = divmod(batches.processed, len(self) // self.batch_size or 1)
            finished += more
        self.set_epoch(finished)
        return islice(super().__iter__(), within * self.batch_size, None)


class SegmentationData(L.LightningDataModule):
    """Crops for training, whole images for validation.

    During the fit, decoded images are cached for all processes of the machine; :meth:`close`
    removes the cache. Of large images only counts of the foreground are.

    Args:
        transform: Crop and augmentation.
        seed: Seed of the draws.
        objects: Whether validation needs ids of objects.
        mixes: What is put together from several crops.
        unlabeled: Images without masks, which are a share of each batch.
    """

    def __init__(
        self,
        source: DataSource,
        summary: DataSummary,
        normalization: Normalization,
        transform: TrainTransform,
        target: Target,
        config: Data,
        seed: int,
        objects: bool = False,
        mixes: Sequence[Mix] = (),
        unlabeled: UnlabeledImages | None = None,
    ) -> None:
        super().__init__()
        self.source, self.summary, self.normalization = source, summary, normalization
        self.transform, self.target, self.config, self.seed = transform, target, config, seed
        self.objects, self.mixes, self.unlabeled = objects, mixes, unlabeled
        self.workers = default_workers() if config.num_workers is None else config.num_workers
        self.cache: ArrayCache | None = None
        self.cached, self.cache_note = self._plan_cache()

    def setup(self, stage: str) -> None:
        """Create the cache, or join that of another process on this machine."""
        if stage != "fit":
            return
        self._open_cache()
        if self.config.num_workers is None:
            self.workers = self._choose_workers()

    def _open_cache(self) -> None:
        if self.cache is not None or not (self.cached or self.summary.large):
            return
        kinds = None if self.cached else SMALL
        together = self._process[1] > 1 and torch.distributed.is_initialized()
        first = self.trainer is None or not together or self.trainer.local_rank == 0
        if first:
            self.cache = _new_cache(kinds)
        if together:
            own = socket.gethostname(), None if self.cache is None else self.cache.folder
            offers: list[Any] = [None] * self._process[1]
            torch.distributed.all_gather_object(offers, own)
            shared = [folder for host, folder in offers if host == own[0] and folder is not None]
            if not first and shared:
                self.cache = ArrayCache(shared[0], kinds)

    def close(self) -> None:
        """Remove the cache; from now on images are read from their files."""
        if self.cache is not None:
            self.cache.close()
        self.cache = None

    def on_after_batch_transfer(self, batch: Crop | Item, dataloader_idx: int) -> Item:
        """Normalise crops on the device of the network; they travel as bytes."""
        if "unit" not in batch:
            return batch
        item = as_item(cast(Crop, batch), self.normalization)
        if self.trainer is None:
            return item
        return cast(Item, self.trainer.precision_plugin.convert_input(item))

    @property
    def keeps_features(self) -> bool:
        """Whether what the encoder gives for the images is cached with them."""
        return self.config.cache == "features"

    def whole(self, split: Split, samples: list[Sample] | None = None) -> WholeDataset:
        """Return the whole images of a split, or samples instead of them."""
        return WholeDataset(
            self.source,
            self.summary.splits[split] if samples is None else samples,
            self.summary.coding,
            self.normalization,
            self.target,
            self.objects,
            self.cache,
            self.summary.with_empty,
        )

    def train_dataloader(self) -> DataLoader[Crop]:
        """Return batches of augmented crops."""
        samples = self.summary.splits["train"]
        batch_size = self.config.batch_size
        without = self.count_unlabeled(batch_size)
        each_once = round(len(samples) * batch_size / (batch_size - without))
        per_epoch = self.config.samples_per_epoch or each_once
        batch_size = min(batch_size, max(1, per_epoch // self._process[1]))
        size = 1 if self.normalization.dtype == "uint8" else 4
        # labels of a byte, and perhaps weights
        pixel = self.summary.in_channels * size + 5
        self.workers = self._fit_workers(batch_size * math.prod(self.config.crop_size) * pixel)
        order = self._choose_order(batch_size)
        sampler = NextDraws(order, per_epoch, self.seed, *self._process)
        sampler.trainer, sampler.batch_size = self.trainer, batch_size
        if not self.workers:
            limit_blas()
        return LazyLoader(
            self._make_dataset(self.workers),
            batch_size=batch_size,
            sampler=sampler,
            generator=torch.Generator(),  # leaves the global one to dropout
            num_workers=self.workers,
            worker_init_fn=use_one_thread,
            persistent_workers=self.workers > 0,
            pin_memory=self._on_gpu,
            drop_last=True,
        )

    def count_unlabeled(self, batch: int) -> int:
        """How many crops of a batch have no labels; they are its last ones."""
        if self.unlabeled is None:
            return 0
        return count_unlabeled(batch, self.config.unlabeled_share)

    def _choose_order(self, batch: int) -> Order:
        order, without = self._choose_labelled_order(), self.count_unlabeled(batch)
        if self.unlabeled is None:
            return order
        counts = len(self.summary.splits["train"]), len(self.unlabeled.samples)
        return UnlabeledOrder(
            order, counts, (batch - without, without), self.seed, self._process[1]
        )

    def _choose_labelled_order(self) -> Order:
        if self.config.sampling == "classes":
            return ClassOrder(self.summary.train_presence, self.seed)
        order = EvenOrder(len(self.summary.splits["train"]), self.seed)
        if self.config.sampling == "hard" and self.trainer is not None:
            # Lightning declares the attribute nowhere
            held: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
            (hardness,) = (each for each in held if isinstance(each, Hardness))
            return HardOrder(order, lambda: hardness.weights)
        return order

    def _make_dataset(self, workers: int) -> TrainDataset:
        return TrainDataset(
            self.source,
            self.summary.splits["train"],
            self.summary.coding,
            self.normalization,
            self.transform,
            self.target,
            self.cache,
            workers,
            self.summary.with_empty,
            self.mixes,
            self.unlabeled,
        )

    def _choose_workers(self) -> int:
        """As many processes as there are cores for, if crops cost so much; one at least."""
        trainer = self.trainer
        most = default_workers(self._processes_here)
        if most <= 1:
            return most
        dataset, began = self._make_dataset(0), time.monotonic()
        try:
            for number in range(1 + TRIED):
                if number == 1:  # the first one is slower
                    dataset.times = StageTimes(dataset.times.stages, 0)
                dataset[number % len(dataset), number]
                if number and time.monotonic() - began > TRIED_SECONDS:
                    break
        except Exception:  # the training says so, with the sample's name
            return most
        count, seconds = dataset.times.totals()
        cost = sum(
            spent
            for stage, spent in zip(dataset.times.stages, seconds, strict=True)
            if stage != READING or not self.cached  # the cache is read in no time
        )
        device = "cpu" if trainer is None else trainer.strategy.root_device.type
        return max(1, min(most, math.ceil(RATES.get(device, RATES["cpu"]) * cost / count)))

    def _fit_workers(self, batch: int) -> int:
        """The processes whose batches of so many bytes fit into shared memory, at most all."""
        try:
            state = os.statvfs(SHARED)
        except (AttributeError, OSError):  # Windows and macOS share in other ways
            return self.workers
        free = state.f_bavail * state.f_frsize // self._processes_here
        # each makes two ahead; one is trained on, and one on its way to the device
        fitting = max(0, (free // batch - 2) // 2)
        if fitting >= self.workers:
            return self.workers
        warnings.warn(
            f"{fitting} of {self.workers} processes read images, as {SHARED} has room for"
            f" {free // 2**20} MB and a batch takes {batch / 2**20:.1f}: {ENLARGE} for more speed.",
            RuntimeWarning,
            stacklevel=2,
        )
        return fitting

    def val_dataloader(self) -> DataLoader[Item]:
        """Return whole images, in batches of one size.

        Images that are too large for memory are in parts, whose counts add up to nearly those of
        the whole: a tile of the network sees nothing beyond the edge of its part.
        """
        samples = self.summary.splits["val"]
        parts = [part for sample in samples for part in self._divide_huge(sample)]
        sizes = [
            self.summary.sizes[part.name] if part.window is None else part.window[2:]
            for part in parts
        ]
        most, pixels = self.config.val_batch_size, BATCH_PIXELS["cuda" if self._on_gpu else "cpu"]
        sampler = EverySample(sizes, most, pixels, *self._process)
        largest = max(len(batch) * math.prod(sizes[batch[0]]) for batch in sampler.batches)
        # image float32, labels int64; weights and ids are rare
        workers = self._fit_workers(largest * (4 * self.summary.in_channels + 8))
        return LazyLoader(
            self.whole("val", parts),
            batch_sampler=sampler,
            generator=torch.Generator(),
            num_workers=workers,
            worker_init_fn=use_one_thread,
            persistent_workers=workers > 0,
            pin_memory=self._on_gpu,
        )

    def _divide_huge(self, sample: Sample) -> list[Sample]:
        """A sample in parts if it is too large for memory."""
        large = self.source.measure_large(sample) if sample.name in self.summary.large else None
        if large is None or max(large.shape[:2]) <= PART:
            return [sample]
        return [take_part(sample, block) for block in list_parts(large.shape[:2], PART)]

    @property
    def _process(self) -> tuple[int, int]:
        """The rank of this process and the number of processes."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    @property
    def _processes_here(self) -> int:
        """The number of processes that train on this machine."""
        trainer = self.trainer
        return 1 if trainer is None else max(1, trainer.world_size // trainer.num_nodes)

    @property
    def _on_gpu(self) -> bool:
        """Whether batches go to a GPU; pinned memory lets the copy overlap the steps."""
        if self.trainer is None:
            return torch.cuda.is_available()
        return self.trainer.strategy.root_device.type == "cuda"

    def _plan_cache(self) -> tuple[bool, str]:
        """Decide whether to cache decoded samples; also return a line for the user."""
        size = sum(self.summary.decoded.get(split, 0) for split in CACHED)
        count = sum(s.name in self.summary.large for k in CACHED for s in self.summary.splits[k])
        if not count:
            return self._plan_for(size)
        note = f"of {count} samples only parts are read, at every crop, as their images are large"
        if not size:
            return True, note
        is_cached, others = self._plan_for(size)
        return is_cached, f"{note}; others: {others}"

    def _plan_for(self, size: int) -> tuple[bool, str]:
        """Decide for decoded samples of so many bytes in all."""
        said = f"{size / GB:.1f} GB" if size >= GB else f"{size / 2**20:.0f} MB"
        if self.config.cache is False:
            return False, "images are decoded at every read (data.cache=false)"
        if self.config.cache == "auto":
            try:
                free = shutil.disk_usage(tempfile.gettempdir()).free
            except OSError as error:  # no folder for temporary files, among others
                return False, f"images are decoded at every read: {error}"
            room = {"memory": find_main_memory(), f"free disk of {tempfile.gettempdir()}": free}
            small = [name for name, given in room.items() if size > SHARE * given]
            if small:
                return False, (
                    f"images are decoded at every read: together they take {said}, more than"
                    f" {SHARE:.0%} of the {small[0]} (data.cache=true caches them anyway)"
                )
        more = ", and what the encoder gives for them" if self.keeps_features else ""
        return True, (
            f"decoded images are cached during the run, {said}{more}; data.cache=false turns this"
            " off"
        )


def default_workers(processes: int = 1) -> int:
    """Return the number of spare cores of one of the processes that train on this machine.

    Of two cores that compute none is spare, as each batch waits for the slower one.
    """
    cores = max(1, count_usable_cores() // processes)
    on_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return min(MOST_WORKERS, cores - 1) if on_gpu or cores > 2 else 0


def _new_cache(kinds: frozenset[str] | None) -> ArrayCache | None:
    try:
        return ArrayCache(kinds=kinds)
    except OSError as error:
        warnings.warn(
            f"decoded images cannot be cached: {error}. They are decoded at every read;"
            " set data.cache=false to hide this warning.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
