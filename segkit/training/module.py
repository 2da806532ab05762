"""One training step, one validation step, the optimizer: the LightningModule."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from segkit.checkpoint import KEY, ModelCard
from segkit.data.dataset import Item
from segkit.errors import SegkitError
from segkit.inference.tiling import whole_logits
from segkit.losses.base import Loss
from segkit.metrics.confusion import ConfusionMatrix
from segkit.metrics.scores import scores
from segkit.models.segmenter import Segmenter
from segkit.training.optimizers import Optimizer
from segkit.training.schedules import Schedule


class SegmentationModule(L.LightningModule):
    """Trains a Segmenter.

    Args:
        model: The network.
        card: What goes into its checkpoints.
        loss: The loss, of the head's mode.
        optimizer: Makes the optimizer.
        schedule: The course of the learning rate.
        auxiliary: Weights of the losses of the auxiliary heads.
        monitor: The metric that the progress bar shows besides the loss.
        channels_last: Whether images are laid out with the channels last, for tensor cores.
        compiled: Whether the training step's network is compiled.
    """

    def __init__(
        self,
        model: Segmenter,
        card: ModelCard,
        loss: Loss,
        optimizer: Optimizer,
        schedule: Schedule,
        auxiliary: list[float],
        monitor: str = "val/iou",
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.card, self.loss = model, card, loss
        self.optimizer, self.schedule, self.auxiliary = optimizer, schedule, auxiliary
        self.all_logits = torch.compile(model.all_logits) if compiled else model.all_logits
        self.monitor = monitor
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.confusion = ConfusionMatrix(model.head.mode, model.head.num_classes)

    def training_step(self, batch: Item, batch_idx: int) -> Tensor:
        """The loss of the head, plus the weighted losses of the auxiliary heads."""
        image = batch["image"].contiguous(memory_format=self.layout)  # (B, C, H, W)
        logits = self.all_logits(image)  # [(B, num_logits, H, W)]
        loss = self.loss(logits[0], batch["target"])
        for weight, coarse in zip(self.auxiliary, logits[1:], strict=True):
            loss = loss + weight * self.loss(coarse, batch["target"])
        self.log("train/loss", loss, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Item, batch_idx: int) -> None:
        """Count the confusions of whole images."""
        image = batch["image"].contiguous(memory_format=self.layout)
        logits = whole_logits(self.model, image)  # (B, num_logits, H, W)
        loss = self.loss(logits, batch["target"])
        self.log(
            "val/loss",
            loss,
            prog_bar=self.monitor == "val/loss",
            batch_size=len(logits),
            sync_dist=True,
        )
        head = self.model.head
        self.confusion.update(head.decide(head.activate(logits)), batch["target"])

    def on_validation_epoch_end(self) -> None:
        """Scores from the one confusion matrix of the epoch."""
        matrix = self.confusion.compute()
        self.confusion.reset()
        mean = scores(matrix, self.model.head.mode, self.card.class_names).mean
        for name, value in mean.items():
            key = f"val/{name}"
            self.log(key, torch.tensor(value), prog_bar=key == self.monitor)

    def configure_optimizers(self) -> Any:
        """The optimizer, and its schedule over all steps of the training."""
        optimizer = self.optimizer.for_model(self.model)
        total = self.trainer.estimated_stepping_batches
        if total == 0:
            raise SegkitError(
                "there is no training step: an epoch has fewer batches than there are devices, or"
                " trainer.max_steps is 0."
            )
        factor = self.schedule.factor
        scheduler = LambdaLR(optimizer, lambda step: factor(min(1.0, step / total)))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint self-contained."""
        checkpoint[KEY] = self.card.to_dict()
