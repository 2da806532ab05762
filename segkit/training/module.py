"""The LightningModule: training step, validation step, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.frozen import OWN
from segkit.checkpoint.reading import KEY, PREFIX
from segkit.config.schema import OF_OBJECTS, Trainer
from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX
from segkit.data.loading import Item
from segkit.inference.objects.merging import ObjectMerger
from segkit.inference.runtimes.torch_network import blend, find_windows
from segkit.inference.tiles.tiling import choose_side
from segkit.losses.base import Loss
from segkit.metrics.confusion import ConfusionMatrix, score_matrix
from segkit.metrics.instances import InstanceScores, count_objects
from segkit.models.fast import to_channels_last
from segkit.models.segmenter import Segmenter
from segkit.optim.optimizers import Optimizer
from segkit.optim.schedules import Schedule, rise_again
from segkit.training.budget import Budget
from segkit.training.callbacks import ExponentialAverage
from segkit.training.checkpoints import FROZEN
from segkit.training.datamodule import SegmentationData
from segkit.training.features import FeatureCache, Features
from segkit.training.pseudo_labels import PseudoLabels
from segkit.training.sharding import begin_validation, end_validation, shard
from segkit.training.teacher import Teacher

LIMITS, REWARMING = "limits", "rewarming"
"""Entries of a checkpoint: what ends the training, and where its rate began to rise again."""


class SegmentationModule(L.LightningModule):
    """Trains a Segmenter.

    Args:
        card: The model card for the checkpoints.
        auxiliary: Loss weights of the auxiliary heads.
        settings: How to compute: channels_last, recompute, sync_batchnorm.
        monitor: The metric shown in the progress bar besides the loss.
        decoder: Separates the objects of an image, given probabilities and labels, in validation;
            ``ids`` are those of a head that tells them apart itself.
        mixup: Parameter alpha of MixUp (Zhang et al. 2018); None: batches are not blended.
        keeps_crop_losses: Whether ``crop_losses`` (B,) is kept for each batch.
        teacher: The network that this one follows besides the labels.
        pseudo: What learns from pixels without labels; it needs the average of the weights.

    Attributes:
        parts: Parts of the loss of the last batch, and what else :class:`History` counts, by name.
    """

    def __init__(
        self,
        model: Segmenter,
        card: ModelCard,
        loss: Loss,
        optimizer: Optimizer,
        schedule: Schedule,
        auxiliary: list[float],
        settings: Trainer,
        monitor: str = "val/iou",
        decoder: Callable[..., NDArray[np.int32]] | None = None,
        mixup: float | None = None,
        keeps_crop_losses: bool = False,
        teacher: Teacher | None = None,
        pseudo: PseudoLabels | None = None,
    ) -> None:
        super().__init__()
        self.model, self.card, self.loss = model, card, loss
        self.optimizer, self.schedule, self.auxiliary = optimizer, schedule, auxiliary
        self.monitor, self.decoder = monitor, decoder
        self.teacher, self.pseudo, self.parts = teacher, pseudo, dict[str, Tensor]()
        self.keeps_crop_losses, self.crop_losses = keeps_crop_losses, torch.zeros(0)
        self.mixup = None if mixup is None else torch.distributions.Beta(mixup, mixup)
        self.recompute, self.sync_batchnorm = settings.recompute, settings.sync_batchnorm
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        if settings.channels_last:
            to_channels_last(model)
        self.confusion = ConfusionMatrix(model.head.mode, model.head.num_classes)
        self.val_loss, self.objects = MeanMetric(), InstanceScores()
        self.class_scores: dict[str, float] = {}
        self._batch_idx = 0
        self.features: FeatureCache | None = None
        self.limits = [settings.max_epochs, settings.max_steps, settings.max_time]
        self.rewarming: dict[str, float] | None = None
        left_out = [] if card.frozen_sha256 is None else model.encoder.list_frozen()
        self.left_out = [f"{PREFIX}{OWN}{name}" for name in left_out]
        self.windows = find_windows(model, choose_side(card))

    def configure_model(self) -> None:
        """Shard the network if trainer.strategy is fsdp."""
        if self.device_mesh is not None:
            if self.sync_batchnorm:  # Lightning does that for ddp only
                convert = nn.SyncBatchNorm.convert_sync_batchnorm
                convert(self.model)  # type: ignore[no-untyped-call]  # torch has no types of it
            shard(self.model, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Attach the teacher, and the cache of what a frozen encoder gives, if they are wanted."""
        if self.teacher is not None:
            self.teacher.attach(self.model, self.device)
        # Lightning declares the attribute nowhere
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, SegmentationData) and data.keeps_features and data.cache is not None:
            self.features = FeatureCache(self.model.extract, data.cache, self.layout)

    def on_validation_start(self) -> None:
        """Let processes with more images than others predict them alone."""
        begin_validation(self.model)

    def on_validation_end(self) -> None:
        """Go on training."""
        end_validation(self.model)

    def training_step(self, batch: Item, batch_idx: int) -> Tensor:
        """Return the loss of the head plus the weighted losses of the auxiliary heads.

        :class:`segkit.training.callbacks.History` logs its mean over the epoch.
        """
        self._batch_idx = batch_idx
        image = batch["image"].contiguous(memory_format=self.layout)  # (B, C, H, W)
        labelled = len(image) - self._count_unlabeled(len(image))
        features = None
        if self.features is not None:
            features = self.features.fetch_each(image, batch["index"])
        weight = batch["weight"][:labelled] if "weight" in batch else None
        given = image[:labelled], batch["target"][:labelled], weight, batch.get("ids")
        if self.mixup is None:
            loss = self.compute_loss(*given, features)
        else:
            loss = self.compute_loss(*given, features, self.mixup.sample().to(image))
        return loss if self.pseudo is None else loss + self._guess_labels(batch, image, labelled)

    def _count_unlabeled(self, batch: int) -> int:
        """How many crops at the end of a batch have no labels."""
        # Lightning declares the attribute nowhere
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return data.count_unlabeled(batch) if isinstance(data, SegmentationData) else 0

    def _guess_labels(self, batch: Item, image: Tensor, labelled: int) -> Tensor:
        """The loss of pseudo-labels; of crops with labels too if some of their pixels have none."""
        assert self.pseudo is not None
        # Lightning declares the attribute nowhere
        held: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        (average,) = (c.network for c in held if isinstance(c, ExponentialAverage))
        first = 0 if self.pseudo.guesses_all else labelled
        found = self.pseudo.compute_loss(
            self.model,
            average,
            self.loss,
            image[first:],
            batch["guess"][first:],
            self._find_progress(self.trainer.global_step),
        )
        self.parts |= found
        return found["pseudo_loss"]

    def on_train_batch_start(self, batch: Item, batch_idx: int) -> None:
        """Tell the encoder how far the training is."""
        self.model.encoder.set_progress(self._find_progress(self.trainer.global_step))

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients so that those of an optimizer step are the mean over its batches.

        Lightning divides each loss by accumulate_grad_batches, also where an epoch ends with fewer.
        """
        wanted = self.trainer.accumulate_grad_batches
        left = self.trainer.num_training_batches - self._batch_idx // wanted * wanted
        if left < wanted:
            loss = loss * (wanted / left)
        super().backward(loss, *args, **kwargs)

    def compute_loss(
        self,
        image: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ids: Tensor | None = None,
        features: Features | None = None,
        share: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch; :class:`Speedup` replaces this by the same, compiled.

        ``features`` are as for :meth:`Segmenter.all_logits`. With MixUp only a ``share`` of each
        image is its own, the rest is that of the one before it, and so is the loss: the logits are
        compared with the labels of both.
        """
        if share is not None:
            image = torch.lerp(image.roll(1, 0), image, share)
            before = target.roll(1, 0), None if weight is None else weight.roll(1, 0)
            logits = self.model.all_logits(image, self.recompute)
            other = self._sum_losses(logits, *before)
            loss = torch.lerp(other, self._sum_losses(logits, target, weight), share)
            return self._follow_teacher(loss, image, logits[0])
        logits = self.model.all_logits(image, self.recompute, features)  # [(B, num_logits, H, W)]
        if self.loss.takes_queries:
            found: Tensor = self.loss(logits[0], target, ids=ids)
            return found
        return self._follow_teacher(self._sum_losses(logits, target, weight), image, logits[0])

    def _follow_teacher(self, loss: Tensor, image: Tensor, logits: Tensor) -> Tensor:
        """The loss with that of the teacher, if there is one."""
        if self.teacher is None:
            return loss
        self.parts["teacher_loss"] = self.teacher.compute_loss(image, logits)
        return loss + self.parts["teacher_loss"]

    def _sum_losses(self, logits: list[Tensor], target: Tensor, weight: Tensor | None) -> Tensor:
        """The loss of the head plus the weighted losses of the auxiliary heads."""
        if self.keeps_crop_losses:
            self.crop_losses = self._find_crop_losses(logits[0].detach(), target, weight)
        loss: Tensor = self.loss(logits[0], target, weight)
        for factor, coarse in zip(self.auxiliary, logits[1:], strict=True):
            loss = loss + factor * self.loss(coarse, target, weight)
        return loss

    @torch.no_grad()
    def _find_crop_losses(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """The loss of each crop alone, (B,)."""
        given = [logits, target] if weight is None else [logits, target, weight]
        ones = (torch.split(each, 1) for each in given)
        return torch.stack([self.loss(*one).float() for one in zip(*ones, strict=True)])

    def validation_step(self, batch: Item, batch_idx: int) -> Tensor:
        """Update loss, confusion matrix and object scores with whole images; return the labels."""
        image = batch["image"].contiguous(memory_format=self.layout)
        if self.loss.takes_queries:
            return self._validate_queries(batch, image)
        find_features = self._follow_tiles(batch)

        def run(tiles: Tensor) -> Tensor:
            """Both: the predictor blends probabilities, the loss needs logits."""
            logits = self.model(tiles, find_features(tiles)).float()
            return torch.cat([logits, self.model.head.activate(logits)], dim=1)

        both = blend(run, image, self.windows)  # (B, 2 num_logits, H, W)
        logits, probabilities = both.chunk(2, 1)
        target, weight = batch["target"], batch.get("weight")
        for i in range(len(logits)):  # image by image: independent of the batch size
            one = slice(i, i + 1)
            own = None if weight is None else weight[one]
            self.val_loss.update(self.loss(logits[one], target[one], own))
        return self._score(batch, probabilities, None)

    def _validate_queries(self, batch: Item, image: Tensor) -> Tensor:
        """As :meth:`validation_step`: the loss of an image is the mean of those of its tiles."""
        head, maps = self.model.head, []
        scores_objects = head.tells_objects and self.decoder is not None
        mergers = [ObjectMerger(*image.shape[-2:]) for _ in image] if scores_objects else None
        ids = batch.get("ids") if head.tells_objects else None
        truth = [each.unsqueeze(1) for each in (batch["target"], ids) if each is not None]
        channels = [image.shape[1], *[1] * len(truth)]
        find_features = self._follow_tiles(batch)
        for i in range(len(image)):
            losses: list[Tensor] = []

            def run(tiles: Tensor, losses: list[Tensor] = losses) -> Tensor:
                pixels, labels, *numbers = torch.split(tiles, channels, 1)
                masks = self.model.find_masks(pixels, features=find_features(pixels))
                own = numbers[0][:, 0].long() if numbers else None
                losses.append(self.loss(masks, labels[:, 0].long(), ids=own))
                return head.activate(self.model.draw(masks[-1]))

            given = torch.cat([image[i : i + 1], *(t[i : i + 1].to(image) for t in truth)], 1)
            own_merger = None if mergers is None else mergers[i]
            maps.append(blend(run, given, self.windows, merger=own_merger))
            self.val_loss.update(torch.stack(losses).mean())
        return self._score(batch, torch.cat(maps), mergers)

    def _score(
        self, batch: Item, probabilities: Tensor, mergers: list[ObjectMerger] | None
    ) -> Tensor:
        """Update the confusion matrix and the scores of objects; return the labels."""
        labels = self.model.head.decide(probabilities)
        self.confusion.update(labels, batch["target"])
        if self.decoder is None or "ids" not in batch:
            return labels
        maps = [m.cpu().numpy() for m in (probabilities, labels, batch["ids"])]
        markers = batch["markers"].cpu().numpy() if "markers" in batch else [None] * len(labels)
        for i, (p, decided, ids, marks) in enumerate(zip(*maps, markers, strict=True)):
            own = None if mergers is None else mergers[i].finish()
            found = self.decoder(p, decided, ids=own)
            self.objects.update(count_objects(ids, found, marks, IGNORE_INDEX))
        return labels

    def _follow_tiles(self, batch: Item) -> Callable[[Tensor], Features | None]:
        """What finds the features of the tiles of a batch, in their order, if they are cached."""
        if self.features is None:
            return lambda tiles: None
        features, first, number = self.features, int(batch["index"][0]), count()
        return lambda tiles: features.fetch(("val", first, next(number)), tiles)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and free the gradients before the next forward pass.

        Callbacks see them in on_after_backward and on_before_optimizer_step.
        """
        super().optimizer_step(*args, **kwargs)
        for optimizer in self.trainer.optimizers:
            optimizer.zero_grad()

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the epoch."""
        matrix = self.confusion.compute()
        self.confusion.reset()
        scores = score_matrix(matrix, self.model.head.mode, self.card.class_names)
        mean, named = scores.mean, zip(scores.class_names, scores.iou, strict=True)
        self.class_scores = {f"val/iou/{name}": float(value) for name, value in named}
        if len(self.class_scores) == 1:  # it is the mean
            self.class_scores = {}
        loss = self.val_loss.compute().item()
        self.val_loss.reset()
        found = {} if self.decoder is None else self.objects.compute()
        self.objects.reset()
        logged = {f"val/{name}": value for name, value in {"loss": loss, **mean}.items()}
        logged |= {f"val/{n}": value for n, value in found.items() if f"val/{n}" in OF_OBJECTS}
        for key, value in logged.items():
            # equal in all processes; sync_dist only silences a warning of Lightning
            self.log(key, torch.tensor(value), prog_bar=key == self.monitor, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Create the optimizer and the schedule over all steps of the training."""
        optimizer = self.optimizer.for_model(self.model)
        total = self.trainer.estimated_stepping_batches
        if total == 0:
            raise SegkitError(
                "there is no training step: an epoch has fewer batches than there are devices, or"
                " trainer.max_steps is 0."
            )
        # Lightning declares the attribute nowhere
        held: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        budget = next((c for c in held if isinstance(c, Budget)), None)

        def find_progress(step: int) -> float:
            """The progress of steps or time, whichever is further, 0 to 1."""
            return min(1.0, max(step / total, budget.progress if budget is not None else 0.0))

        def find_factor(step: int) -> float:
            progress = find_progress(step)
            factor, old = self.schedule.factor(progress), self.rewarming
            if old is None or step < old["step"]:
                return factor
            begun = old.setdefault("progress", progress)
            return rise_again(old["factor"], factor, (progress - begun) / max(1 - begun, 1e-9))

        self._find_progress = find_progress
        scheduler = LambdaLR(optimizer, find_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the model card, and what best.ckpt leaves out."""
        checkpoint[KEY] = self.card.to_dict()
        checkpoint[FROZEN] = self.left_out
        checkpoint[LIMITS], checkpoint[REWARMING] = self.limits, self.rewarming

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the rate rise slowly where the schedule of a resumed run has become another one."""
        self.rewarming = checkpoint.get(REWARMING)
        if checkpoint.get(LIMITS, self.limits) != self.limits:
            rates = checkpoint["lr_schedulers"][0]
            pairs = zip(rates["_last_lr"], rates["base_lrs"], strict=True)
            factor = next((last / base for last, base in pairs if base), 1.0)
            self.rewarming = {"step": checkpoint["global_step"], "factor": factor}
