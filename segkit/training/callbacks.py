"""Callbacks of a training: averaged weights, stopping, the table of metrics."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar, WeightAveraging
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import AveragedModel

from segkit.core.interrupts import Stopped, StopSignals
from segkit.losses.base import Loss
from segkit.models.contract import is_foreign
from segkit.models.segmenter import Segmenter
from segkit.report.table import read_csv, write_csv
from segkit.training.checkpoints import LossNotFiniteError
from segkit.training.resume import METRICS

STEPS_UNREAD = 50
"""Steps between two looks at the losses on a GPU."""


class Average(AveragedModel):
    """A copy of a network whose weights follow it; see :class:`ExponentialAverage`.

    An update is a few operations on all weights, and the CPU counts: on a GPU torch's own waits for
    the count at every step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay
        self._real: tuple[list[Tensor], list[Tensor]] | None = None
        self._counts: tuple[list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the averages, in place: they are as large as the network."""
        count = int(self.n_averaged)
        new = 1 - min(self.decay, (1 + count) / (10 + count)) if count else 1.0
        if self._real is None or self._counts is None:  # looking through the modules takes time
            self._real, self._counts = (_list_pairs(self.module, model, r) for r in (True, False))
        torch._foreach_lerp_(*self._real, new)
        if self._counts[0]:
            torch._foreach_copy_(*self._counts)
        self.n_averaged += 1


def _list_pairs(
    averages: nn.Module, model: nn.Module, is_real: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of an average and of its network: real numbers, or counts of batches."""
    both = (
        [t for t in (*m.parameters(), *m.buffers()) if t.is_floating_point() is is_real]
        for m in (averages, model)
    )
    means, currents = both
    return means, currents


class ExponentialAverage(WeightAveraging):
    """An exponential moving average of the weights, used by validation and checkpoints.

    The decay of update n is min(decay, (1 + n) / (10 + n)), so that a short training is not judged
    by its first weights (Tarvainen and Valpola 2017, Mean Teacher).
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay
        self._swapped = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copy the network to where it will be trained: it is not there yet."""
        if stage == "fit":
            self._average_model = Average(pl_module, self._decay)
            self._average_model.module.to(trainer.strategy.root_device)

    @property
    def network(self) -> Segmenter:
        """The network with the averaged weights."""
        average: Any = self._average_model
        network: Segmenter = average.module.model
        return network

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate the averaged weights."""
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = True

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Return to the weights in training."""
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Swap the weights back before a checkpoint is written after Ctrl-C in a validation."""
        if self._swapped:
            self._swap_models(pl_module)


class EpochBar(RichProgressBar):
    """The progress bar of an epoch, which counts from 1 and knows that epochs may have no end."""

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        total = f" of {last}" if last is not None and last > 0 else ""
        return f"epoch {current_epoch + 1}{total}".ljust(len(self.validation_description))


class StopAfterStep(L.Callback):
    """Ends the training after the current optimizer step when a signal asks for it.

    So no accumulated gradients are lost. If one of several processes is asked, all of them stop at
    the same step.
    """

    def __init__(self) -> None:
        self.signals = StopSignals()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take SIGTERM back from Lightning, which ends a run before its checkpoint is written."""
        self.signals.listen()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Stop after a step, but leave the last one of an epoch to the hooks below."""
        if (index + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch:
            self._stop()

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop in a validation; a resumed run starts it again."""
        if trainer.world_size == 1:  # each process has its own number of images
            self._stop()

    def on_train_epoch_end(self, *_: Any) -> None:
        """Stop after the row in metrics.csv is written."""
        self._stop()

    def _stop(self) -> None:
        number = _largest_of_all(self.signals.number)
        if number:
            raise Stopped(number)


class StopWhenNotFinite(L.Callback):
    """Ends a training whose loss is NaN or infinite, before a checkpoint is written.

    On the CPU the weights are not even updated. On a GPU, where reading a loss waits for the step,
    losses are read every fifty steps and before each validation and checkpoint. If one process
    finds a loss that is not finite, all of them stop.

    Args:
        names: Names of the training samples.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._indices = torch.empty(0)
        self._unread: list[tuple[Tensor, Tensor, int]] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the samples."""
        self._indices = batch["index"]

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Remember the loss; read it now if that does not wait for a GPU."""
        self._unread.append((loss.detach(), self._indices, trainer.global_step))
        if loss.device.type == "cpu" or len(self._unread) == STEPS_UNREAD:
            self._read_losses(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the remaining losses."""
        self._read_losses(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the remaining losses; Lightning runs checkpoint callbacks after all others."""
        self._read_losses(trainer, pl_module)

    def _read_losses(self, trainer: L.Trainer, pl_module: Any) -> None:
        unread, self._unread = self._unread, []
        message = None
        if unread and not torch.stack([loss for loss, *_ in unread]).isfinite().all():
            value, indices, step = next(entry for entry in unread if not entry[0].isfinite())
            files = ", ".join(self.names[i] for i in indices.tolist())
            message = (
                f"the loss became {value.item()} in epoch {trainer.current_epoch}, step {step}, on"
                f" the samples {files}. {_recommend(pl_module.loss, trainer.precision)}"
            )
        message = _first_message(message)
        if message is not None:
            raise LossNotFiniteError(message)


class History(L.Callback):
    """Writes metrics.csv: one row per epoch with the learning rate and all logged values.

    The mean of the training loss is counted here, as a resumed run needs what the epoch has summed
    before; batches whose gradients a stop has lost are trained again, and not in it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS
        self.rows: list[dict[str, Any]] = []
        self._validated = False
        self._began = self._epoch_began = time.monotonic()
        self._first_step = 0
        self._sums = dict[str, float | Tensor]()  # of the losses and their parts in whole steps
        self._count = 0
        self._losses: list[dict[str, Tensor]] = []  # since the last step

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the epoch."""
        return {"sums": {k: float(v) for k, v in self._sums.items()}, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        # version 0.1.0 had the loss alone
        self._sums = state["sums"] if "sums" in state else {"loss": state["sum"]}
        self._count = int(state["count"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Count the losses of a step once it is done."""
        # Lightning has divided it
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        parts = {key: value.detach() for key, value in pl_module.parts.items()}
        self._losses.append({"loss": loss, **parts})
        if trainer.is_last_batch or (index + 1) % trainer.accumulate_grad_batches == 0:
            for losses in self._losses:
                self._count += 1
                for key, value in losses.items():
                    self._sums[key] = self._sums.get(key, 0.0) + value
            self._losses = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the rows of a resumed run up to its checkpoint."""
        self._began = time.monotonic()
        if not trainer.ckpt_path:
            return
        done = trainer.current_epoch
        written = read_csv(self.path) if self.path.is_file() else []
        self.rows = [row for row in written if float(str(row["epoch"])) < done]
        if len(self.rows) < done:
            warnings.warn(
                f"{self.path} has rows of {len(self.rows)} of the {done} epochs before: it was"
                " changed after the training wrote it. The training goes on without the others.",
                stacklevel=2,
            )
        if self.rows:  # add the time spent before
            self._began -= float(str(self.rows[-1]["seconds"]))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the steps."""
        self._epoch_began, self._first_step = time.monotonic(), trainer.global_step

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock of the steps."""
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart the clock, and note that this epoch has validation scores."""
        self._epoch_began += time.monotonic() - self._validation_began
        self._validated = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the row; a validation of this epoch is over by now."""
        means = {}
        for key, total in ({"loss": 0.0} | self._sums).items():
            mean = torch.as_tensor(total / max(1, self._count))
            mean = trainer.strategy.reduce(mean, reduce_op="mean")
            means[f"train/{key}"] = float(mean)
            pl_module.log(f"train/{key}", mean, prog_bar=key == "loss")
        self._sums, self._count = {}, 0
        wanted = ("train/", "val/") if self._validated else ("train/",)
        self._validated = False
        logged = {
            key: float(value)
            for key, value in sorted(trainer.callback_metrics.items())
            if key.startswith(wanted)
        }
        steps = max(1, trainer.global_step - self._first_step)
        self.rows.append(
            {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "seconds": round(time.monotonic() - self._began, 2),
                "seconds_per_step": round((time.monotonic() - self._epoch_began) / steps, 4),
                "lr": find_rate(trainer),
                **(logged | means),
            }
        )
        if trainer.is_global_zero:
            write_csv(self.path, self.rows)


def find_rate(trainer: L.Trainer) -> float:
    """The learning rate of the parts that have none of their own."""
    groups = trainer.optimizers[0].param_groups
    return float(max(group["lr"] / group.get("lr_factor", 1.0) for group in groups))


def _recommend(loss: Loss, precision: str) -> str:
    """Say what to check if a loss is not finite, in the order of suspicion."""
    parts = [part for part in loss.modules() if isinstance(part, Loss)]
    foreign = [part.name for part in parts if is_foreign(part)]
    full = precision == "32-true"
    look = "Look at these images and masks"
    if foreign or full:
        suspect = foreign[0] if foreign else loss.name
        look = f"Check the loss '{suspect}' first, then these images and masks"
    remedy = "" if full else " or use trainer.precision=32-true"
    return f"{look}; if they are right, lower optimizer.lr{remedy}."


def is_lost_connection(error: Exception) -> bool:
    """Return whether the error says that another process is gone, or has not answered."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _largest_of_all(number: int) -> int:
    """The largest number, 0 to 255, of all processes. All must call it at the same point."""
    if not distributed.is_initialized():
        return number
    numbers = torch.tensor([number], dtype=torch.uint8)
    distributed.all_reduce(numbers, distributed.ReduceOp.MAX, group=_cpu_group())
    return int(numbers)


def _first_message(message: str | None) -> str | None:
    """Return the message of the first process that has one. All must call it at the same point."""
    if not _largest_of_all(message is not None) or not distributed.is_initialized():
        return message
    messages: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(messages, message, group=_cpu_group())
    return next(each for each in messages if each is not None)


@cache
def _cpu_group() -> Any:
    """Talk between CPUs, so that no process waits for its GPU."""
    return distributed.new_group(backend="gloo")
