"""Samples as tensors: the datasets of training and evaluation, and the sampler of seeded draws."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from typing_extensions import NotRequired, TypedDict

from segkit.data.coding import LabelCoding
from segkit.data.normalization import Normalization
from segkit.data.objects import components_as_ids, ids_of_mask
from segkit.data.source import DataSource, Sample
from segkit.data.target import Target
from segkit.data.transforms import TrainTransform
from segkit.errors import SegkitError, all_at_once
from segkit.targets import IGNORE_INDEX

Draw = tuple[int, int]
"""Index of a sample and the seed of its augmentation."""


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


class TrainDataset(Dataset[Item]):
    """Augmented crops; an item is drawn by (index, seed), so it is the same in whichever worker.

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
    ) -> None:
        self.source, self.samples, self.coding = source, samples, coding
        self.normalization, self.transform, self.target = normalization, transform, target
        example = np.zeros((1, 1, len(normalization.mean)), normalization.dtype)
        problems = transform.unfit(example.shape[2], normalization.to_unit(example).dtype)
        if problems:
            raise all_at_once("the augmentation does not fit the images:", problems)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Item:
        index, seed = draw
        sample = self.samples[index]
        image = self.normalization.to_unit(self.source.read_image(sample))
        marks = _marks(self.source, sample, self.coding, self.target)
        image, marks = self.transform(image, marks, seed)
        standardized = _tensor(self.normalization.standardize(image))
        return {"image": standardized, **_truth(marks, self.target, index)}


class WholeDataset(Dataset[Item]):
    """Whole images as they are, for validation and evaluation.

    Args:
        source: The data set.
        samples: Its samples.
        coding: What the values of its masks mean.
        normalization: What happens to the intensities.
        target: What is learned of the masks.
        objects: Whether items hold the ids of objects too.
    """

    def __init__(
        self,
        source: DataSource,
        samples: list[Sample],
        coding: LabelCoding,
        normalization: Normalization,
        target: Target,
        objects: bool = False,
    ) -> None:
        self.source, self.samples, self.coding = source, samples, coding
        self.normalization, self.target, self.objects = normalization, target, objects

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        try:
            image = self.normalization(self.source.read_image(sample))
        except SegkitError as error:
            raise SegkitError(f"{sample.name}: {error}") from error
        return {"image": _tensor(image), **self.truth(index)}

    def truth(self, index: int) -> Truth:
        """What is known of a sample, without its image."""
        sample = self.samples[index]
        marks = _marks(self.source, sample, self.coding, self.target)
        truth = _truth(marks, self.target, index)
        if self.objects:
            ids = marks if self.target.from_ids else _ids(self.source, sample, self.coding)
            truth["ids"] = torch.from_numpy(ids.astype(np.int32))
            if type(self.source).read_markers is not DataSource.read_markers:
                markers = self.source.read_markers(sample)
                if markers is None:  # of this image the outlines are all that is known
                    markers = np.where(ids == IGNORE_INDEX, 0, ids)
                truth["markers"] = torch.from_numpy(markers.astype(np.int32))
        return truth


class DrawSampler(Sampler[Draw]):
    """Draws of a training epoch: each sample as often as the next, in a new order every time.

    The draws of all epochs are one sequence, a permutation of the samples after the other, so that
    epochs that are shorter or longer than the set also share it out evenly. It depends on the seed
    alone: not on the number of workers, and a resumed training goes on with the draws that it would
    have had.

    Args:
        count: Number of samples.
        per_epoch: Number of draws in an epoch.
        seed: Seed of the training.
        rank: Number of this process.
        processes: Number of processes, which share the draws of an epoch out evenly.
    """

    def __init__(
        self, count: int, per_epoch: int, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        self.count, self.per_epoch, self.seed, self.epoch = count, per_epoch, seed, 0
        self.rank, self.processes = rank, processes

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.per_epoch // self.processes

    def __iter__(self) -> Iterator[Draw]:
        first = self.epoch * self.per_epoch
        end = first + self.per_epoch
        rounds = range(first // self.count, -(-end // self.count))
        order = np.concatenate(
            [np.random.default_rng((self.seed, 0, n)).permutation(self.count) for n in rounds]
        )
        start = first - rounds[0] * self.count
        seeds = np.random.default_rng((self.seed, 1, self.epoch)).integers(
            2**31, size=self.per_epoch
        )
        drawn = order[start : start + self.per_epoch]
        draws = list(zip(drawn.tolist(), seeds.tolist(), strict=True))
        # each process has as many, or one would wait for the others in vain
        return iter(draws[self.rank :: self.processes][: len(self)])


class EverySample(Sampler[int]):
    """Each sample once, shared out over the processes: none is repeated to make their shares even.

    Args:
        count: Number of samples.
        rank: Number of this process.
        processes: Number of processes.

    Raises:
        SegkitError: There are more processes than samples.
    """

    def __init__(self, count: int, rank: int = 0, processes: int = 1) -> None:
        if processes > count:
            raise SegkitError(
                f"there are {processes} processes and {count} images to validate: use fewer"
                " devices, or more images."
            )
        self.numbers = range(rank, count, processes)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)


def _marks(
    source: DataSource, sample: Sample, coding: LabelCoding, target: Target
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """What augmentation warps: ids of objects where the target is made from them, else labels."""
    return _ids(source, sample, coding) if target.from_ids else _labels(source, sample, coding)


def _ids(source: DataSource, sample: Sample, coding: LabelCoding) -> NDArray[np.uint16]:
    """The objects of a sample; of a set without ids the connected regions of its foreground."""
    if not source.instances:
        return components_as_ids(_labels(source, sample, coding))
    try:
        return ids_of_mask(source.read_mask(sample), coding.to_label)
    except SegkitError as error:
        raise SegkitError(f"{sample.name}: {error}") from error


def _labels(source: DataSource, sample: Sample, coding: LabelCoding) -> NDArray[np.uint8]:
    mask = source.read_mask(sample)
    try:
        return coding.encode(mask)
    except SegkitError as error:
        raise SegkitError(f"{sample.name}: {error}") from error


def _truth(marks: NDArray[np.uint8] | NDArray[np.uint16], target: Target, index: int) -> Truth:
    labels, weight = target.encode(marks)
    shown = labels if labels.ndim == 2 else labels.transpose(2, 0, 1)  # (H, W) or (N, H, W)
    truth: Truth = {
        "target": torch.from_numpy(np.ascontiguousarray(shown)).long(),
        "index": torch.tensor(index),
    }
    if weight is not None:
        truth["weight"] = torch.from_numpy(weight)  # (H, W)
    return truth


def _tensor(image: NDArray[np.float32]) -> Tensor:
    """(H, W, C) -> (C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
