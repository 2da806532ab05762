"""What happens around the steps: averaged weights, checkpoints, the table of metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.report.table import read_csv, write_csv
from segkit.training.checkpoint_io import CheckpointNotWrittenError
from segkit.training.processes import any_process, first_message

METRICS_FILE = "metrics.csv"
STEPS_UNSEEN = 50
"""Steps whose losses are not looked at, on a GPU."""


class ExponentialAverage(WeightAveraging):
    """An exponential moving average of the weights, which validation and checkpoints take.

    Its decay rises with the number of updates n to its value, as min(decay, (1 + n) / (10 + n)),
    so that a short training is not judged by its first weights (Tarvainen and Valpola 2017, Mean
    Teacher).

    Args:
        decay: What an update keeps of the average.
    """

    def __init__(self, decay: float) -> None:
        def average(means: Sequence[Tensor], currents: Sequence[Tensor], count: Tensor) -> None:
            new = 1 - torch.clamp((1 + count) / (10 + count), max=decay)
            for mean, current in zip(means, currents, strict=True):
                if mean.is_floating_point():
                    mean.lerp_(current, new.to(mean))  # in place: as large as the network
                else:  # a count of batches
                    mean.copy_(current)

        super().__init__(multi_avg_fn=average)
        self._swapped = False

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate the average."""
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = True

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train on."""
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave no exchanged weights to a checkpoint written after Ctrl-C in a validation."""
        if self._swapped and self._average_model is not None:
            self._swap_models(pl_module)
            self._swapped = False


class StopAfterStep(L.Callback):
    """Makes Ctrl-C end the training after the optimizer step that is under way.

    An exception out of nowhere could fall into the writing of a checkpoint, or into code that
    swallows it, and gradients that are accumulated for a later step would be lost. A second Ctrl-C
    does not wait. Several processes stop at the same step, whichever was asked.
    """

    def __init__(self) -> None:
        self.asked = False

    def ask(self, *_: Any) -> None:
        """Handle the signal."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Stop after a step; after the last one of an epoch, validation or its end stop it."""
        if (index + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch:
            self._stop()

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop within a validation, which a resumed run starts again."""
        if trainer.world_size == 1:  # each process has its own number of images
            self._stop()

    def on_train_epoch_end(self, *_: Any) -> None:
        """Stop when the epoch has its row in metrics.csv."""
        self._stop()

    def _stop(self) -> None:
        if any_process(self.asked):
            raise KeyboardInterrupt


class Resumption(L.Callback):
    """Lets a resumed run do what it would have done without the stop.

    Random numbers of a step, as dropout draws them, follow from the seed, the epoch, the batch and
    the process. Batches whose gradients were lost are trained again, and a validation that was
    stopped starts again. Paths are those of the run
    folder where it is now, so that the best score counts on after a move.

    Args:
        seed: The seed of the training.
        folder: The folder of the checkpoints.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, Path(os.path.realpath(folder))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the random numbers of this batch."""
        key = (self.seed, 2, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Change what Lightning will take from the checkpoint."""
        loops = checkpoint["loops"]["fit_loop"]
        epoch, progress = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
        lost = progress["current"]["processed"] % trainer.accumulate_grad_batches
        if lost and not progress["is_last_batch"]:
            for counts in (progress["current"], progress["total"]):
                counts.update(dict.fromkeys(counts, counts["processed"] - lost))
        if progress["is_last_batch"] and epoch["processed"] < epoch["started"]:
            validation = loops["epoch_loop.val_loop.batch_progress"]
            for counts in (validation["current"], validation["total"]):  # it has begun, and no more
                counts.update(ready=1, started=1, processed=0, completed=0)
        for state in checkpoint["callbacks"].values():
            if "best_model_path" in state:
                state["dirpath"] = str(self.folder)
                for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[key] = self._moved(state[key])
                best = state["best_k_models"]
                state["best_k_models"] = {self._moved(path): best[path] for path in best}

    def _moved(self, path: str) -> str:
        return path and str(self.folder / Path(path).name)


class LossNotFiniteError(SegkitError):
    """The loss is no number any more, so that the weights would become none either."""


class StopWhenNotFinite(L.Callback):
    """Ends a training whose loss is NaN or infinite, before a checkpoint of it is written.

    On the CPU the weights are not even updated. On a GPU, where looking at a loss would wait for
    the step, that is done every fifty steps and before each validation and checkpoint. If one
    process finds it, all of them stop.

    Args:
        names: Names of the training samples.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._indices = torch.empty(0)
        self._unseen: list[tuple[Tensor, Tensor, int]] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the samples."""
        self._indices = batch["index"]

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Remember the loss, and look at it where that waits for nothing."""
        self._unseen.append((loss.detach(), self._indices, trainer.global_step))
        if loss.device.type == "cpu" or len(self._unseen) == STEPS_UNSEEN:
            self._look(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at what is left."""
        self._look(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at what is left; Lightning puts the checkpoints behind all other callbacks."""
        self._look(trainer)

    def _look(self, trainer: L.Trainer) -> None:
        unseen, self._unseen = self._unseen, []
        message = None
        if unseen and not torch.stack([loss for loss, *_ in unseen]).isfinite().all():
            value, indices, step = next(entry for entry in unseen if not entry[0].isfinite())
            files = ", ".join(self.names[i] for i in indices.tolist())
            message = (
                f"the loss became {value.item()} in epoch {trainer.current_epoch}, step {step}, on"
                f" the samples {files}. Look at these images and masks; if they are right, lower"
                " optimizer.lr or use trainer.precision=32-true."
            )
        message = first_message(message)
        if message is not None:
            raise LossNotFiniteError(message)


class LastCheckpoint(ModelCheckpoint):
    """Keeps what was reached when a training ends early, if it is finite and can be written."""

    _began = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on there is something to keep; a resumed run is restored by now."""
        super().on_train_start(trainer, pl_module)
        self._began = True

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Write the checkpoint."""
        if not self._began or isinstance(exception, LossNotFiniteError | CheckpointNotWrittenError):
            return
        try:
            super().on_exception(trainer, pl_module, exception)
        except CheckpointNotWrittenError:
            # what ended the training is to be told, if it was not the user
            if isinstance(exception, KeyboardInterrupt):
                raise


class History(L.Callback):
    """Writes metrics.csv: a row for each epoch with the learning rate and all that was logged.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE
        self.rows: list[dict[str, Any]] = []
        self._validated = False
        self._began = self._epoch_began = time.monotonic()
        self._first_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on with the rows of a resumed run, up to where its checkpoint was written."""
        self._began = time.monotonic()
        if trainer.ckpt_path and self.path.is_file():
            self.rows = [
                row
                for row in read_csv(self.path)
                if float(str(row["epoch"])) < trainer.current_epoch
            ]
            if self.rows:  # the time that was spent before counts on
                self._began -= float(str(self.rows[-1]["seconds"]))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the steps."""
        self._epoch_began, self._first_step = time.monotonic(), trainer.global_step

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop it."""
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let it run on, and remember that this epoch has values of its own."""
        self._epoch_began += time.monotonic() - self._validation_began
        self._validated = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the row; validation, if it is due, has run by then."""
        wanted = ("train/", "val/") if self._validated else ("train/",)
        self._validated = False
        values = {
            key: float(value)
            for key, value in trainer.callback_metrics.items()
            if key.startswith(wanted)
        }
        steps = max(1, trainer.global_step - self._first_step)
        groups = trainer.optimizers[0].param_groups
        self.rows.append(
            {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "seconds": round(time.monotonic() - self._began, 2),
                "seconds_per_step": round((time.monotonic() - self._epoch_began) / steps, 4),
                "lr": max(group["lr"] / group.get("lr_factor", 1.0) for group in groups),
                **dict(sorted(values.items())),
            }
        )
        if trainer.is_global_zero:
            write_csv(self.path, self.rows)


def checkpoints(folder: Path, monitor: str, mode: str) -> list[L.Callback]:
    """best.ckpt after every better validation; last.ckpt after every epoch and when stopped."""
    common: dict[str, Any] = {"dirpath": str(folder), "enable_version_counter": False}
    return [
        ModelCheckpoint(
            filename="best", monitor=monitor, mode=mode, save_on_train_epoch_end=False, **common
        ),
        LastCheckpoint(
            filename="last",
            monitor=None,
            save_on_exception=True,
            save_on_train_epoch_end=True,
            **common,
        ),
    ]
