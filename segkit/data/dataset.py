"""Samples as tensors: the datasets of training and evaluation, and the sampler of seeded draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from segkit.data.coding import LabelCoding
from segkit.data.normalization import Normalization
from segkit.data.source import DataSource, Sample
from segkit.data.transforms import TrainTransform
from segkit.errors import SegkitError, all_at_once

Draw = tuple[int, int]
"""Index of a sample and the seed of its augmentation."""


class Item(TypedDict):
    """A batch, or one of its items.

    ``image`` (B, C, H, W) float32, ``target`` (B, H, W) int64 (or (B, N, H, W) of overlapping
    classes), ``index`` (B,) the number of the sample in its split.
    """

    image: Tensor
    target: Tensor
    index: Tensor


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
    ) -> None:
        self.source, self.samples, self.coding = source, samples, coding
        self.normalization, self.transform = normalization, transform
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
        image, labels = self.transform(image, _labels(self.source, sample, self.coding), seed)
        return _item(self.normalization.standardize(image), labels, index)


class WholeDataset(Dataset[Item]):
    """Whole images as they are, for validation and evaluation."""

    def __init__(
        self,
        source: DataSource,
        samples: list[Sample],
        coding: LabelCoding,
        normalization: Normalization,
    ) -> None:
        self.source, self.samples, self.coding = source, samples, coding
        self.normalization = normalization

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        image = self.source.read_image(sample)
        try:
            image = self.normalization(image)
        except SegkitError as error:
            raise SegkitError(f"{sample.name}: {error}") from error
        return _item(image, _labels(self.source, sample, self.coding), index)


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
    """

    def __init__(self, count: int, per_epoch: int, seed: int) -> None:
        self.count, self.per_epoch, self.seed, self.epoch = count, per_epoch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.per_epoch

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
        return iter(list(zip(drawn.tolist(), seeds.tolist(), strict=True)))


def _labels(source: DataSource, sample: Sample, coding: LabelCoding) -> NDArray[np.uint8]:
    mask = source.read_mask(sample)
    try:
        return coding.encode(mask)
    except SegkitError as error:
        raise SegkitError(f"{sample.name}: {error}") from error


def _item(image: NDArray[np.float32], labels: NDArray[Any], index: int) -> Item:
    return {
        "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),  # (C, H, W)
        "target": torch.from_numpy(
            np.ascontiguousarray(labels if labels.ndim == 2 else labels.transpose(2, 0, 1))
        ).long(),  # (H, W) or (N, H, W)
        "index": torch.tensor(index),
    }
