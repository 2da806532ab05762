"""Samples as tensors: the datasets for training and evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NotRequired

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from typing_extensions import TypedDict

from segkit.checkpoint.coding import LabelCoding
from segkit.checkpoint.normalization import Normalization
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.labels import IGNORE_INDEX
from segkit.data.augment.transforms import TrainTransform, count_by_row
from segkit.data.loading.cache import ArrayCache
from segkit.data.loading.samplers import Draw
from segkit.data.sources.base import DataSource, Sample
from segkit.targets.base import Target
from segkit.targets.objects import number_labelled_objects, number_regions

READING, CROPPING, TARGET = "reading", "cropping", "target"
"""The stages of making a training item besides the transforms."""


class Truth(TypedDict):
    """The ground truth of a batch of samples, or of a single one.

    ``target`` (B, H, W) int64, or (B, N, H, W) for overlapping classes; ``index`` (B,), the numbers
    of the samples in their split. Optionally ``weight`` (B, H, W) float32, the weight of each pixel
    in the loss, ``ids`` (B, H, W) int32 of objects, and ``markers`` likewise if the source has its
    own.
    """

    target: Tensor
    index: Tensor
    weight: NotRequired[Tensor]
    ids: NotRequired[Tensor]
    markers: NotRequired[Tensor]


class Item(Truth):
    """A batch or a single item: also ``image`` (B, C, H, W) float32, normalized."""

    image: Tensor


class Crop(TypedDict):
    """A batch of augmented crops, or a single one, on its way to the device.

    As few bytes as possible: ``unit`` (B, H, W, C) as :meth:`Normalization.to_unit` returns it,
    uint8 or float32; ``labels`` uint8, otherwise like ``target`` of :class:`Truth`; ``index`` and
    ``weight`` as there. :func:`as_item` converts it to an :class:`Item`.
    """

    unit: Tensor
    labels: Tensor
    index: Tensor
    weight: NotRequired[Tensor]


def as_item(crops: Crop, normalization: Normalization) -> Item:
    """Convert a batch of crops to the network's input, on the device of the batch.

    The result equals that of :meth:`Normalization.standardize` bit for bit.
    """
    unit = crops["unit"].permute(0, 3, 1, 2)  # (B, C, H, W)
    mean, std = _mean_and_std(normalization, unit.device)
    image = unit.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    if unit.dtype == torch.uint8:
        image *= float(np.float32(1 / 255))
    item: Item = {
        "image": image.sub_(mean).div_(std),
        "target": crops["labels"].long(),
        "index": crops["index"],
    }
    if "weight" in crops:
        item["weight"] = crops["weight"]
    return item


class TrainDataset(Dataset[Crop]):
    """Augmented crops; an item is identified by (index, seed), so all workers make the same one.

    Args:
        cache: Keeps decoded images and masks; None reads them each time.
        workers: Number of the worker processes.

    Raises:
        SegkitError: A transform does not support the images.
    """

    def __init__(
        self,
        source: DataSource,
        samples: list[Sample],
        coding: LabelCoding,
        normalization: Normalization,
        transform: TrainTransform,
        target: Target,
        cache: ArrayCache | None = None,
        workers: int = 0,
    ) -> None:
        self.samples, self.normalization = samples, normalization
        self.transform, self.target = transform, target
        self.read = SampleReader(source, coding, target, cache)
        self.times = StageTimes([READING, CROPPING, *transform.names, TARGET], workers)
        example = np.zeros((1, 1, len(normalization.mean)), normalization.dtype)
        problems = transform.find_unsuitable(example.shape[2], normalization.to_unit(example).dtype)
        if problems:
            raise all_at_once("the augmentation does not fit the images:", problems)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Crop:
        index, seed = draw
        sample, ticks = self.samples[index], [time.perf_counter()]

        def tick() -> None:
            ticks.append(time.perf_counter())

        image, marks = self.read.image(sample), self.read.marks(sample)
        counts = self.read.counts(sample) if self.transform.foreground_share else None
        tick()
        image, marks = self.transform.cut(image, marks, seed, counts)
        image = self.normalization.to_unit(image)
        tick()
        image, marks = self.transform.augment(image, marks, seed, tick)
        labels, weight = self.target.encode(marks)
        crop: Crop = {
            "unit": torch.from_numpy(np.ascontiguousarray(image)),
            "labels": _move_labels_first(labels),
            "index": torch.tensor(index),
        }
        if weight is not None:
            crop["weight"] = torch.from_numpy(weight)  # (H, W)
        tick()
        self.times.add(ticks)
        return crop


class WholeDataset(Dataset[Item]):
    """Unchanged whole images for validation and evaluation.

    Args:
        objects: Whether items also contain the ids of objects.
        cache: Keeps decoded images and masks; None reads them each time.
    """

    def __init__(
        self,
        source: DataSource,
        samples: list[Sample],
        coding: LabelCoding,
        normalization: Normalization,
        target: Target,
        objects: bool = False,
        cache: ArrayCache | None = None,
    ) -> None:
        self.source, self.samples, self.coding = source, samples, coding
        self.normalization, self.target, self.objects = normalization, target, objects
        self.read = SampleReader(source, coding, target, cache)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        try:
            image = self.normalization(self.read.image(sample))
        except SegkitError as error:
            raise SegkitError(f"{sample.name}: {error}") from error
        channels_first = np.ascontiguousarray(image.transpose(2, 0, 1))
        return {"image": torch.from_numpy(channels_first), **self.truth(index)}

    def truth(self, index: int) -> Truth:
        """Return the ground truth of a sample without reading its image."""
        sample = self.samples[index]
        labels, weight = self.target.encode(self.read.marks(sample))
        truth: Truth = {
            "target": _move_labels_first(labels).long(),
            "index": torch.tensor(index),
        }
        if weight is not None:
            truth["weight"] = torch.from_numpy(weight)  # (H, W)
        if self.objects:
            ids = self.read.ids(sample)
            truth["ids"] = torch.from_numpy(ids.astype(np.int32))
            if type(self.source).read_markers is not DataSource.read_markers:
                markers = self.source.read_markers(sample)
                if markers is None:  # the outlines of this image are all there is
                    markers = np.where(ids == IGNORE_INDEX, 0, ids)
                truth["markers"] = torch.from_numpy(markers.astype(np.int32))
        return truth


class SampleReader:
    """Reads images and masks as arrays, from their files or from the cache of the run.

    The arrays may be memory-mapped and must not be written to.
    """

    def __init__(
        self,
        source: DataSource,
        coding: LabelCoding,
        target: Target,
        cache: ArrayCache | None = None,
    ) -> None:
        self.source, self.coding, self.target, self.cache = source, coding, target, cache

    def image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C), uint8, uint16 or float32, as the source returns it."""
        return self._fetch(sample, "image", self.source.read_image)

    def marks(self, sample: Sample) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The map that is augmented: ids of objects if the target needs them, otherwise labels.

        Raises:
            SegkitError: The mask cannot be read, or has a value that is neither a label nor an id.
        """
        return self.ids(sample) if self.target.from_ids else self.labels(sample)

    def counts(self, sample: Sample) -> NDArray[np.int32] | None:
        """The :func:`count_by_row` of the marks, for crops on the foreground; None if not cached.

        Counting takes as long as looking for the foreground once.
        """
        if self.cache is None:
            return None
        return self.cache.fetch(sample, "counts", lambda: count_by_row(self.marks(sample)))

    def labels(self, sample: Sample) -> NDArray[np.uint8]:
        """(H, W) or (H, W, N) labels. Raises: See :meth:`marks`."""
        return self._fetch(sample, "labels", self._encode)

    def ids(self, sample: Sample) -> NDArray[np.uint16]:
        """(H, W) ids of objects; without ids in the masks, the foreground's connected components.

        Raises: See :meth:`marks`.
        """
        return self._fetch(sample, "ids", self._number_objects)

    def _fetch(
        self, sample: Sample, kind: str, read: Callable[[Sample], NDArray[Any]]
    ) -> NDArray[Any]:
        if self.cache is None:
            return read(sample)
        return self.cache.fetch(sample, kind, lambda: read(sample))

    def _encode(self, sample: Sample) -> NDArray[np.uint8]:
        mask = self.source.read_mask(sample)
        try:
            return self.coding.encode(mask)
        except SegkitError as error:
            raise SegkitError(f"{sample.name}: {error}") from error

    def _number_objects(self, sample: Sample) -> NDArray[np.uint16]:
        if not self.source.instances:
            return number_regions(self.labels(sample))
        try:
            return number_labelled_objects(self.source.read_mask(sample), self.coding.to_label)
        except SegkitError as error:
            raise SegkitError(f"{sample.name}: {error}") from error


class StageTimes:
    """Seconds per stage of making an item, summed in memory shared with the worker processes.

    Each worker adds to its own row, so that none waits for another.

    Args:
        stages: Names of the stages in order; names may repeat.
        workers: Number of workers; 0 if the main process makes the items.
    """

    def __init__(self, stages: Sequence[str], workers: int) -> None:
        self.stages = tuple(stages)
        self._table = torch.zeros(max(1, workers), 1 + len(stages), dtype=torch.float64)
        if workers:
            # torch does not annotate it
            self._table.share_memory_()  # type: ignore[no-untyped-call]

    def add(self, ticks: Sequence[float]) -> None:
        """Add an item: its start and the end of each stage, in seconds of one clock."""
        worker = get_worker_info()
        row = self._table[worker.id % len(self._table) if worker else 0].numpy()
        row[0] += 1
        row[1:] += [after - before for before, after in pairwise(ticks)]

    def totals(self) -> tuple[int, tuple[float, ...]]:
        """The number of items so far, and the total seconds of each stage."""
        items, *seconds = self._table.sum(0).tolist()
        return int(items), tuple(seconds)


# cached, because a copy to a GPU would wait for all its pending work
@lru_cache(maxsize=8)
def _mean_and_std(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Each (C, 1, 1)."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
        for values in (normalization.mean, normalization.std)
    )
    return mean, std


def _move_labels_first(labels: NDArray[np.uint8]) -> Tensor:
    """(H, W) unchanged, (H, W, N) to (N, H, W)."""
    moved = labels if labels.ndim == 2 else labels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(moved))
