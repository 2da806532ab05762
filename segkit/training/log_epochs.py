"""What the loggers of a run are told while it trains."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.data.loading import WholeDataset
from segkit.report.overlay import draw_comparison, make_class_layer
from segkit.report.page import fit_to_page
from segkit.training.callbacks import STEPS_UNREAD, History, find_rate
from segkit.training.loggers.base import Pictures
from segkit.training.loggers.together import Loggers
from segkit.training.module import SegmentationModule


class LogEpochs(L.Callback):
    """Logs the rows of metrics.csv, the IoU of each class, and predictions of the same few images.

    Between the rows it logs the loss and the learning rate of single steps, one in fifty, as
    step/loss and step/lr. The predictions are those that the validation makes anyway.

    Args:
        loggers: Those of the run; nothing happens in other processes than the first.
        history: What makes the rows; it must come before this callback.
    """

    def __init__(self, loggers: Loggers, history: History) -> None:
        self.loggers, self.history = loggers, history
        self._chosen: frozenset[int] = frozenset()
        self._seen: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}  # truth and labels
        self._seen_in, self._shown_in = -1, -1  # epochs

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the logged runs, or go on with them, before the clocks of the training start."""
        if trainer.is_global_zero:
            self.loggers.open()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Log a step in fifty."""
        accumulated = trainer.accumulate_grad_batches
        is_step = (index + 1) % accumulated == 0 or trainer.is_last_batch
        if not (is_step and trainer.global_step % STEPS_UNREAD == 0 and self._is_on(trainer)):
            return
        loss = float(outputs["loss"]) * accumulated  # Lightning has divided it
        values = {"step/loss": loss, "step/lr": find_rate(trainer)}
        self.loggers.log(values, trainer.global_step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the images, spread over those that this process validates."""
        self._seen = {}
        wanted = self.loggers.settings.logger.images
        if wanted and not self._chosen and self._is_on(trainer):
            loader: Any = trainer.val_dataloaders
            batches = loader.batch_sampler.batches
            numbers = sorted(number for batch in batches for number in batch)
            places = np.linspace(0, len(numbers) - 1, min(wanted, len(numbers)))
            self._chosen = frozenset(numbers[round(place)] for place in places)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        *_: Any,
    ) -> None:
        """Keep the labels of the chosen images."""
        if not self._chosen or not isinstance(outputs, Tensor):
            return
        for number, truth, labels in zip(
            batch["index"].tolist(), batch["target"], outputs, strict=True
        ):
            if number in self._chosen:
                self._seen[number] = truth.cpu().numpy(), labels.cpu().numpy()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note in which epoch that was."""
        self._seen_in = trainer.current_epoch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the row of metrics.csv, and now and then the pictures."""
        if not self._is_on(trainer):
            return
        values = {k: v for k, v in self.history.rows[-1].items() if k != "step"}
        if isinstance(pl_module, SegmentationModule) and self._seen_in == trainer.current_epoch:
            values |= pl_module.class_scores
        self.loggers.log(values, trainer.global_step)
        every = self.loggers.settings.logger.images_every
        if self._shown_in < 0 or trainer.current_epoch - self._shown_in >= every:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the last predictions."""
        if self._is_on(trainer):
            self._show(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, *_: Any) -> None:
        """End the logged runs of a training that is stopped or fails."""
        if trainer.is_global_zero:
            self.loggers.close("failed")

    def _is_on(self, trainer: L.Trainer) -> bool:
        return trainer.is_global_zero and bool(self.loggers)

    def _show(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self._seen and self._shown_in != self._seen_in:
            self._shown_in = self._seen_in
            with suppress(SegkitError):  # an image that is no longer there does not end a training
                loader: Any = trainer.val_dataloaders
                drawn = draw_predictions(loader.dataset, self._seen, pl_module)
                self.loggers.show(drawn, trainer.global_step)


def draw_predictions(
    dataset: WholeDataset,
    seen: dict[int, tuple[NDArray[Any], NDArray[Any]]],
    module: SegmentationModule,
) -> Pictures:
    """Draw image, truth, prediction and errors of samples, given truth and labels by number."""
    drawn = {}
    for number, (truth, labels) in sorted(seen.items()):
        sample = dataset.samples[number]
        panel = draw_comparison(
            dataset.source.read_image(sample),
            make_class_layer(truth, module.card),
            make_class_layer(labels, module.card),
        )
        drawn[sample.name] = fit_to_page(panel)
    return drawn
