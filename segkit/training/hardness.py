"""How hard each training image is: the loss of its crops in the last epoch that had some."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Hardness(L.Callback):
    """Counts the loss of each training image, from which the next epoch draws.

    What an epoch draws from is fixed when it begins, so that a resumed run draws the same.

    Attributes:
        weights: (training images,) the loss of each image, for images without one yet the mean;
            None until the first epoch is over.
    """

    def __init__(self) -> None:
        self.weights: NDArray[np.float64] | None = None
        self._losses = np.zeros(0)
        self._sums = np.zeros((2, 0))  # of the losses of this epoch, and their number
        self._unread: list[tuple[Tensor, Tensor]] = []
        self._since_step: list[tuple[Tensor, Tensor]] = []  # a stop may lose these batches

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make room for the images; a resumed run has it."""
        # Lightning declares the attribute nowhere
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        count = len(data.summary.splits["train"])
        if len(self._losses) != count:
            self._losses, self._sums = np.full(count, np.nan), np.zeros((2, count))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Keep the losses of the crops; reading them would wait for a GPU."""
        losses = pl_module.crop_losses  # crops without labels are the last ones
        self._since_step.append((losses, batch["index"][: len(losses)]))
        if trainer.is_last_batch or (index + 1) % trainer.accumulate_grad_batches == 0:
            self._unread += self._since_step
            self._since_step = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the losses of the epoch, of all processes, as the weights of the next one."""
        self._read()
        sums = self._sums
        if trainer.world_size > 1:
            here = torch.from_numpy(sums).to(pl_module.device, torch.float32)
            sums = trainer.strategy.reduce(here, reduce_op="sum").cpu().numpy().astype(np.float64)
        total, number = sums
        seen = number > 0
        self._losses[seen] = total[seen] / number[seen]
        known = np.isfinite(self._losses)
        if known.any():
            self.weights = np.where(known, self._losses, self._losses[known].mean()).clip(0)
        self._sums = np.zeros_like(self._sums)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        self._read()
        weights = None if self.weights is None else torch.from_numpy(self.weights)
        return {
            "weights": weights,
            "losses": torch.from_numpy(self._losses),
            "sums": torch.from_numpy(self._sums),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        weights = state["weights"]
        self.weights = None if weights is None else weights.numpy()
        self._losses, self._sums = state["losses"].numpy(), state["sums"].numpy()

    def _read(self) -> None:
        for losses, indices in self._unread:
            np.add.at(self._sums[0], indices.cpu().numpy(), losses.cpu().numpy())
            np.add.at(self._sums[1], indices.cpu().numpy(), 1)
        self._unread = []
