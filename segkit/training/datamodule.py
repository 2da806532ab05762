"""The batches of a training as a LightningDataModule."""

from __future__ import annotations

import os

import lightning as L
from torch.utils.data import DataLoader

from segkit.data.checking import DataSummary
from segkit.data.dataset import DrawSampler, EverySample, Item, TrainDataset, WholeDataset
from segkit.data.normalization import Normalization
from segkit.data.source import DataSource, Split
from segkit.data.target import Target
from segkit.data.transforms import TrainTransform
from segkit.schema import Data


class SegmentationData(L.LightningDataModule):
    """Crops for training, whole images for validation.

    Args:
        source: The data set.
        summary: What its check found out.
        normalization: What happens to the intensities.
        transform: Crop and augmentation of the training.
        target: What is learned of the masks.
        config: Sizes of crops and batches.
        seed: Seed of the draws.
        objects: Whether the validation needs the ids of objects.
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
    ) -> None:
        super().__init__()
        self.source, self.summary, self.normalization = source, summary, normalization
        self.transform, self.target, self.config, self.seed = transform, target, config, seed
        self.objects = objects
        workers = config.num_workers
        # the main process computes: leave it a core
        self.workers = min(8, (os.cpu_count() or 1) - 1) if workers is None else workers

    def whole(self, split: Split) -> WholeDataset:
        """The whole images of a split."""
        return WholeDataset(
            self.source,
            self.summary.splits[split],
            self.summary.coding,
            self.normalization,
            self.target,
            self.objects,
        )

    def train_dataloader(self) -> DataLoader[Item]:
        """Batches of augmented crops."""
        samples = self.summary.splits["train"]
        dataset = TrainDataset(
            self.source,
            samples,
            self.summary.coding,
            self.normalization,
            self.transform,
            self.target,
        )
        per_epoch = self.config.samples_per_epoch or len(samples)
        sampler = DrawSampler(len(samples), per_epoch, self.seed, *self._process)
        return DataLoader(
            dataset,
            batch_size=min(self.config.batch_size, max(1, len(sampler))),
            sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=_has_gpu(),
            drop_last=True,
        )

    def val_dataloader(self) -> DataLoader[Item]:
        """Whole images, in batches where all have one size."""
        whole = self.whole("val")
        return DataLoader(
            whole,
            sampler=EverySample(len(whole), *self._process),
            batch_size=self.config.val_batch_size if self.summary.one_size["val"] else 1,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=_has_gpu(),
        )

    @property
    def _process(self) -> tuple[int, int]:
        """The number of this process, and how many there are."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
