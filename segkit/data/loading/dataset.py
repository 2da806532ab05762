"""Samples as tensors: the datasets of training and evaluation."""

from __future__ import annotations

from functools import lru_cache
from typing import NotRequired

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import TypedDict

from segkit.checkpoint.coding import LabelCoding
from segkit.checkpoint.normalization import Normalization
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.labels import IGNORE_INDEX
from segkit.data.augment.transforms import TrainTransform
from segkit.data.loading.cache import ArrayCache
from segkit.data.loading.sample_reader import SampleReader
from segkit.data.loading.samplers import Draw
from segkit.data.loading.stage_times import StageTimes, Ticks
from segkit.data.sources.base import DataSource, Sample
from segkit.targets.base import Target

READING, CROPPING, TARGET = "reading", "cropping", "target"
"""The stages of making a training item besides the transforms."""


class Truth(TypedDict):
    """What is known of a batch of samples, or of one of them.

    ``target`` (B, H, W) int64 (or (B, N, H, W) of overlapping classes), ``index`` (B,) the number
    of the sample in its split. Where they were asked for: ``weight`` (B, H, W) float32 of each
    pixel in the loss, ``ids`` (B, H, W) int32 of objects, and ``markers`` likewise, where the
    source has its own.
    """

    target: Tensor
    index: Tensor
    weight: NotRequired[Tensor]
    ids: NotRequired[Tensor]
    markers: NotRequired[Tensor]


class Item(Truth):
    """A batch, or one of its items: also ``image`` (B, C, H, W) float32, normalised."""

    image: Tensor


class Crop(TypedDict):
    """A batch of augmented crops, or one of them, on its way to where the network computes.

    As few bytes as there can be: ``unit`` (B, H, W, C) as :meth:`Normalization.to_unit` gives it,
    uint8 or float32; ``labels`` uint8, else like ``target`` of :class:`Truth`; ``index`` and
    ``weight`` as there. :func:`as_item` makes an :class:`Item` of it.
    """

    unit: Tensor
    labels: Tensor
    index: Tensor
    weight: NotRequired[Tensor]


def as_item(crops: Crop, normalization: Normalization) -> Item:
    """A batch of crops as the network takes it, normalised where the batch is.

    The numbers are those of :meth:`Normalization.standardize`, to the bit.
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
    """Augmented crops; an item is drawn by (index, seed), so it is the same in whichever worker.

    Args:
        source: The data set.
        samples: Its samples.
        coding: What the values of its masks mean.
        normalization: What happens to the intensities.
        transform: Crop and augmentation.
        target: What is learned of the masks.
        cache: Where decoded images and masks are kept; None: they are read each time.
        workers: Number of the processes that make items, of which :attr:`times` is taken.

    Attributes:
        times: How long the stages of an item take.

    Raises:
        SegkitError: The augmentation cannot be applied to images like these.
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
        self.source, self.samples, self.coding = source, samples, coding
        self.normalization, self.transform, self.target = normalization, transform, target
        self.read = SampleReader(source, coding, target, cache)
        self.times = StageTimes([READING, CROPPING, *transform.names, TARGET], workers)
        example = np.zeros((1, 1, len(normalization.mean)), normalization.dtype)
        problems = transform.unfit(example.shape[2], normalization.to_unit(example).dtype)
        if problems:
            raise all_at_once("the augmentation does not fit the images:", problems)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Crop:
        index, seed = draw
        sample, ticks = self.samples[index], Ticks()
        image, marks = self.read.image(sample), self.read.marks(sample)
        counts = self.read.counts(sample) if self.transform.foreground_share else None
        ticks.tick()
        image, marks = self.transform.cut(image, marks, seed, counts)
        image = self.normalization.to_unit(image)
        ticks.tick()
        image, marks = self.transform.augment(image, marks, seed, ticks.tick)
        labels, weight = self.target.encode(marks)
        crop: Crop = {
            "unit": torch.from_numpy(np.ascontiguousarray(image)),
            "labels": _labels_first(labels),
            "index": torch.tensor(index),
        }
        if weight is not None:
            crop["weight"] = torch.from_numpy(weight)  # (H, W)
        ticks.tick()
        self.times.add(ticks)
        return crop


class WholeDataset(Dataset[Item]):
    """Whole images as they are, for validation and evaluation.

    Args:
        source: The data set.
        samples: Its samples.
        coding: What the values of its masks mean.
        normalization: What happens to the intensities.
        target: What is learned of the masks.
        objects: Whether items hold the ids of objects too.
        cache: Where decoded images and masks are kept; None: they are read each time.
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
        return {"image": _tensor(image), **self.truth(index)}

    def truth(self, index: int) -> Truth:
        """What is known of a sample, without its image."""
        sample = self.samples[index]
        truth = _truth(self.read.marks(sample), self.target, index)
        if self.objects:
            ids = self.read.ids(sample)
            truth["ids"] = torch.from_numpy(ids.astype(np.int32))
            if type(self.source).read_markers is not DataSource.read_markers:
                markers = self.source.read_markers(sample)
                if markers is None:  # of this image the outlines are all that is known
                    markers = np.where(ids == IGNORE_INDEX, 0, ids)
                truth["markers"] = torch.from_numpy(markers.astype(np.int32))
        return truth


def _truth(marks: NDArray[np.uint8] | NDArray[np.uint16], target: Target, index: int) -> Truth:
    labels, weight = target.encode(marks)
    truth: Truth = {"target": _labels_first(labels).long(), "index": torch.tensor(index)}
    if weight is not None:
        truth["weight"] = torch.from_numpy(weight)  # (H, W)
    return truth


# kept, as a copy to a GPU would wait for all that it has to do
@lru_cache(maxsize=8)
def _mean_and_std(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Each (C, 1, 1)."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
        for values in (normalization.mean, normalization.std)
    )
    return mean, std


def _labels_first(labels: NDArray[np.uint8]) -> Tensor:
    """(H, W) as it is, (H, W, N) -> (N, H, W)."""
    shown = labels if labels.ndim == 2 else labels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(shown))


def _tensor(image: NDArray[np.float32]) -> Tensor:
    """(H, W, C) -> (C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
