"""The batches of a training as a LightningDataModule."""

from __future__ import annotations

import os

import lightning as L
from torch.utils.data import DataLoader

from segkit.data.checking import DataSummary
from segkit.data.dataset import DrawSampler, Item, TrainDataset, WholeDataset
from segkit.data.normalization import Normalization
from segkit.data.source import DataSource, Split
from segkit.data.transforms import TrainTransform
from segkit.schema import Data


class SegmentationData(L.LightningDataModule):
    """Crops for training, whole images for validation.

    Args:
        source: The data set.
        summary: What its check found out.
        normalization: What happens to the intensities.
        transform: Crop and augmentation of the training.
        config: Sizes of crops and batches.
        seed: Seed of the draws.
    """

    def __init__(
        self,
        source: DataSource,
        summary: DataSummary,
        normalization: Normalization,
        transform: TrainTransform,
        config: Data,
        seed: int,
    ) -> None:
        super().__init__()
        self.source, self.summary, self.normalization = source, summary, normalization
        self.transform, self.config, self.seed = transform, config, seed
        workers = config.num_workers
        # the main process computes: leave it a core
        self.workers = min(8, (os.cpu_count() or 1) - 1) if workers is None else workers

    def whole(self, split: Split) -> WholeDataset:
        """The whole images of a split."""
        return WholeDataset(
            self.source, self.summary.splits[split], self.summary.coding, self.normalization
        )

    def train_dataloader(self) -> DataLoader[Item]:
        """Batches of augmented crops."""
        samples = self.summary.splits["train"]
        dataset = TrainDataset(
            self.source, samples, self.summary.coding, self.normalization, self.transform
        )
        per_epoch = self.config.samples_per_epoch or len(samples)
        return DataLoader(
            dataset,
            batch_size=min(self.config.batch_size, per_epoch),
            sampler=DrawSampler(len(samples), per_epoch, self.seed),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=_has_gpu(),
            drop_last=True,
        )

    def val_dataloader(self) -> DataLoader[Item]:
        """Whole images, in batches where all have one size."""
        return DataLoader(
            self.whole("val"),
            batch_size=self.config.val_batch_size if self.summary.one_size["val"] else 1,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=_has_gpu(),
        )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
