"""Writing the checkpoints of a training, and restoring its state from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from segkit.checkpoint.reading import KEY
from segkit.core.errors import SegkitError
from segkit.core.files import written_whole

FOR_PREDICTION = ("state_dict", KEY, "epoch", "global_step", "pytorch-lightning_version")
"""The entries of best.ckpt; the others, such as the state of the optimizer, are for resuming."""
FROZEN = "frozen"
"""The entry of last.ckpt that names the weights which best.ckpt leaves out."""


class CheckpointNotWrittenError(SegkitError):
    """A checkpoint could not be written, so trying another one is useless."""


class LossNotFiniteError(SegkitError):
    """The loss is NaN or infinite; the weights are about to follow."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically, in the folder of the old one.

    Lightning writes to the folder for temporary files and moves the file from there. Between two
    disks that is a copy, which replaces the last good checkpoint by half a one when the disk is
    full.

    best.ckpt holds only what prediction needs; last.ckpt is for resuming.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; if the disk is full, say, raise CheckpointNotWrittenError."""
        if Path(path).name == "best.ckpt":
            left_out = set(checkpoint[FROZEN])
            checkpoint = {key: checkpoint[key] for key in FOR_PREDICTION if key in checkpoint}
            weights = checkpoint["state_dict"].items()
            checkpoint["state_dict"] = {k: v for k, v in weights if k not in left_out}
        try:
            with written_whole(path) as file:
                _save(checkpoint, file)
        except SegkitError as error:
            raise CheckpointNotWrittenError(str(error)) from error


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    """Call torch.save, and raise the error of the file that torch hides behind its own."""
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None


class LastCheckpoint(ModelCheckpoint):
    """Writes last.ckpt when a training ends early, unless its loss is NaN or the disk is full."""

    _began = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that there is something to keep; a resumed run has been restored by now."""
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
            # the error that ended the training is the one to report
            if isinstance(exception, KeyboardInterrupt):
                raise


class Resumption(L.Callback):
    """Makes a resumed run equal to one that was never stopped.

    The random numbers of a step, such as those of dropout, follow from seed, epoch, batch and
    process. Batches whose gradients were lost are trained again, and an interrupted validation
    starts again. Paths follow the folder of the checkpoints, so a moved run keeps its best score.

    Args:
        seed: The seed of the run.
        folder: Where its checkpoints are now.
        patience: The validations without a better score after which it stops.
    """

    def __init__(self, seed: int, folder: Path, patience: int | None = None) -> None:
        self.seed, self.folder = seed, Path(os.path.realpath(folder))
        self.patience = patience

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the random numbers of this batch."""
        key = (self.seed, 2, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Correct the state that Lightning is about to restore."""
        loops = checkpoint["loops"]["fit_loop"]
        epoch, progress = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
        lost = progress["current"]["processed"] % trainer.accumulate_grad_batches
        if progress["current"]["processed"] < progress["current"]["ready"]:
            progress["is_last_batch"] = False  # it was the next one, whose step did not end
        if lost and not progress["is_last_batch"]:
            for counts in (progress["current"], progress["total"]):
                counts.update(dict.fromkeys(counts, counts["processed"] - lost))
        if progress["is_last_batch"] and epoch["processed"] < epoch["started"]:
            validation = loops["epoch_loop.val_loop.batch_progress"]
            for counts in (validation["current"], validation["total"]):  # it has just begun
                counts.update(ready=1, started=1, processed=0, completed=0)
        for state in checkpoint["callbacks"].values():
            if "patience" in state:  # of EarlyStopping; the user may have changed it
                state["patience"] = self.patience
            if "best_model_path" in state:
                state["dirpath"] = str(self.folder)
                for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[key] = self._move(state[key])
                best = state["best_k_models"]
                state["best_k_models"] = {self._move(path): best[path] for path in best}

    def _move(self, path: str) -> str:
        return path and str(self.folder / Path(path).name)


def make_checkpoints(folder: Path, monitor: str, mode: str) -> list[L.Callback]:
    """Write best.ckpt after every better validation, last.ckpt after every epoch and a stop."""
    common: dict[str, Any] = {"dirpath": str(folder), "enable_version_counter": False}
    best = ModelCheckpoint(
        filename="best", monitor=monitor, mode=mode, save_on_train_epoch_end=False, **common
    )
    last = LastCheckpoint(
        filename="last", save_on_exception=True, save_on_train_epoch_end=True, **common
    )
    return [best, last]
