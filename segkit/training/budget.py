"""A training with a time limit: when it validates and when it ends."""

from __future__ import annotations

import time
from typing import Any

import lightning as L

VALIDATION_SHARE = 0.2
"""Largest share of the time for validations, without the first and the last one."""
NEVER = 1_000_000_000


class Budget(L.Callback):
    """Ends a training after a given time, most of it spent on training.

    The learning rate follows :attr:`progress`, so its schedule ends with the time. Time for a last
    validation, as long as the previous one, is reserved. Validations are skipped if they would take
    more than a fifth of the time, or longer than the training that is left. Time before a resume
    counts.

    Args:
        seconds: The time limit.
        every: Epochs between validations, time permitting.
    """

    def __init__(self, seconds: float, every: int = 1) -> None:
        self.seconds, self.every = seconds, every
        self.elapsed = 0.0
        self._began = self._validation_began = 0.0
        self._validating = self._last = 0.0
        self._epoch_began = self._epoch = 0.0

    @property
    def progress(self) -> float:
        """The share of the time used, 0 to 1, at the end of the last step."""
        return min(1.0, self.elapsed / max(self.seconds - self._last, 1e-6))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock at the time used before a stop."""
        self._began = time.monotonic() - self.elapsed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Decide whether this epoch ends with a validation."""
        due = (trainer.current_epoch + 1) % self.every == 0
        spent = self._validating + self._last
        affordable = not self._last or spent <= VALIDATION_SHARE * (self.elapsed + self._last)
        left = self.seconds - self.elapsed - self._epoch - self._last  # to train after this epoch
        late = left < 2 * self._last
        trainer.check_val_every_n_epoch = 1 if due and affordable and not late else NEVER
        self._epoch_began = self.elapsed

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """End the training with a validation when the time is over."""
        self.elapsed = _broadcast(trainer, time.monotonic() - self._began)
        self._epoch = self.elapsed - self._epoch_began  # at its end: how long it took
        if self.progress >= 1:
            trainer.check_val_every_n_epoch = 1
            trainer.should_stop = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the validation."""
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record how long it took."""
        self._last = _broadcast(trainer, time.monotonic() - self._validation_began)
        self._validating += self._last
        self.elapsed = _broadcast(trainer, time.monotonic() - self._began)

    def state_dict(self) -> dict[str, float]:
        """Return the state that a resumed training needs."""
        return {"elapsed": self.elapsed, "validating": self._validating, "last": self._last}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the state."""
        self.elapsed, self._validating, self._last = (
            state[key] for key in ("elapsed", "validating", "last")
        )


def _broadcast(trainer: L.Trainer, seconds: float) -> float:
    """Take the clock of the first process, so that all decide alike at every step."""
    if trainer.world_size == 1:
        return seconds
    return float(trainer.strategy.broadcast(seconds))
