"""The length of a training: how many crops, in how many epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segkit.config.schema import Trainer
from segkit.core.machine import Machine
from segkit.data.checks.summary import DataSummary
from segkit.planning.network import Network
from segkit.planning.rules import format_count

PASSES = 60
"""How often to see each part of the images, unless steps or time run out."""
STEPS = {True: (2000, 20_000), False: (500, 20_000)}
"""Fewest and most optimizer steps, with a GPU and without."""
PATIENCE = {True: 3600.0, False: 1800.0}
"""Longest estimated training in seconds, with a GPU and without."""
FEWEST_STEPS = 300
"""Fewest steps of a training, however long they take."""
EPOCHS = 4, 30
"""Fewest and most epochs."""
VALIDATED = 0.1
"""Largest share of the time for all validations, unless there are few epochs."""
SPENT_ON_TRAINING = 0.8
"""Share of the time; validation and the like take the rest."""


@dataclass(frozen=True)
class Workload:
    """The length of a training.

    Attributes:
        per_step: Crops per optimizer step, over all devices and accumulated batches.
        per_pass: Crops that cover as many pixels as all images together.
        epochs: Best number of epochs.
        why: What limits the number of crops.
        bounded: Whether the user limits the training in steps or in time.
    """

    crops: int
    per_step: int
    per_pass: float
    epochs: int
    why: str
    bounded: bool

    def samples_per_epoch(self) -> tuple[int, str]:
        """The crops of an epoch, in whole steps."""
        steps = max(1, round(self.crops / self.epochs / self.per_step))
        return steps * self.per_step, f"about {self.crops} crops in {self.epochs} epochs"

    def max_epochs(self, samples_per_epoch: int) -> tuple[int | None, str]:
        """The number of epochs of that size that comes nearest to the number of crops."""
        if self.bounded:
            return None, self.why
        return max(1, round(self.crops / samples_per_epoch)), self.why

    def steps(self, trainer: Trainer, samples_per_epoch: int) -> float:
        """The optimizer steps of the training; infinite if only early stopping ends it."""
        if trainer.max_time is not None and trainer.epochs == -1:
            steps = self.crops / self.per_step
        else:
            steps = math.inf if trainer.epochs == -1 else trainer.epochs * samples_per_epoch
            steps = steps / self.per_step
        return min(steps, trainer.max_steps) if trainer.max_steps != -1 else steps

    def passes(self, steps: float) -> float:
        """How often that many steps see each part of the images."""
        return steps * self.per_step / self.per_pass


def find_workload(
    summary: DataSummary,
    size: tuple[int, int],
    batch: int,
    trainer: Trainer,
    network: Network,
    machine: Machine,
) -> Workload:
    """Choose how many crops of this size to train on, within the limits that the user sets."""
    per_step = batch * trainer.accumulate_grad_batches * machine.devices
    step = network.time_step(size, per_step, machine)
    if trainer.max_steps != -1:
        steps, why = float(trainer.max_steps), f"trainer.max_steps={trainer.max_steps}"
    elif trainer.seconds is not None:
        steps = SPENT_ON_TRAINING * trainer.seconds / step
        why = f"trainer.max_time={trainer.max_time}"
    else:
        steps, why = _choose_steps(summary, size, per_step, step, machine)
    crops = max(1, round(steps)) * per_step
    in_image = math.prod(summary.measures.median) / math.prod(size)
    # an image of the validation costs a third of one of the training
    affordable = VALIDATED * crops / max(len(summary.splits["val"]) * in_image / 3, 1e-9)
    fewest, most = EPOCHS
    return Workload(
        crops,
        per_step,
        per_pass=len(summary.splits["train"]) * max(1.0, in_image),
        epochs=int(max(fewest, min(most, affordable))),
        why=why,
        bounded=trainer.max_steps != -1 or trainer.seconds is not None,
    )


def _choose_steps(
    summary: DataSummary, size: tuple[int, int], per_step: int, step: float, machine: Machine
) -> tuple[float, str]:
    """The steps of a training without a limit, and the reason."""
    images = len(summary.splits["train"])
    in_image = max(1.0, math.prod(summary.measures.median) / math.prod(size))
    fewest, most = STEPS[machine.has_gpu]
    wanted = PASSES * images * in_image / per_step
    why = f"{PASSES} times {format_count(images, 'image')}"
    if wanted < fewest:
        wanted, why = fewest, f"{format_count(images, 'image')}, but at least {fewest} steps"
    elif wanted > most:
        wanted, why = most, f"{format_count(images, 'image')}, but at most {most} steps"
    seconds = step / SPENT_ON_TRAINING
    affordable = PATIENCE[machine.has_gpu] / seconds
    if wanted > affordable:
        wanted = max(affordable, FEWEST_STEPS)
        why = "what the time allows" if wanted > FEWEST_STEPS else f"at least {FEWEST_STEPS} steps"
    return wanted, f"{why}; very roughly {max(1, round(wanted * seconds / 60))} min here"
