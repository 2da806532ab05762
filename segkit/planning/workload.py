"""How long to train: how many crops in all, and into how many epochs they are divided."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segkit.config.schema import Trainer
from segkit.core.machine import Machine
from segkit.data.checks.checking import DataSummary
from segkit.planning.network import Network
from segkit.planning.rules import counted

PASSES = 60
"""How often each part of the images is seen, where neither steps nor time run out."""
STEPS = {True: (2000, 20_000), False: (500, 20_000)}
"""Fewest and most optimizer steps, with a GPU and without."""
PATIENCE = {True: 3600.0, False: 1800.0}
"""Seconds that a training takes at most, as far as can be foreseen, with a GPU and without."""
NEVERTHELESS = 300
"""Steps without which a training is none, however long they take."""
EPOCHS = 4, 30
"""Fewest and most epochs."""
VALIDATED = 0.1
"""Share of the training's time that all validations take at most, unless the epochs are few."""
SPENT_ON_TRAINING = 0.8
"""Share of the time; the rest is for validation and the like."""


@dataclass(frozen=True)
class Workload:
    """A training, divided.

    Attributes:
        crops: Crops in all.
        per_step: Crops of an optimizer step, over all devices and accumulated batches.
        per_pass: Crops that are as large as all images together.
        epochs: Epochs that they are best divided into.
        why: What limits the crops.
        bounded: Whether the user said when the training ends, in steps or in time.
    """

    crops: int
    per_step: int
    per_pass: float
    epochs: int
    why: str
    bounded: bool

    def samples_per_epoch(self) -> tuple[int, str]:
        """Whole steps."""
        steps = max(1, round(self.crops / self.epochs / self.per_step))
        return steps * self.per_step, f"about {self.crops} crops in {self.epochs} epochs"

    def max_epochs(self, samples_per_epoch: int) -> tuple[int | None, str]:
        """As many epochs of that size as come nearest to the crops."""
        if self.bounded:
            return None, self.why
        return max(1, round(self.crops / samples_per_epoch)), self.why

    def steps(self, trainer: Trainer, samples_per_epoch: int) -> float:
        """Optimizer steps that the training has; infinite where nothing but patience ends it."""
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
    """How many crops to train on.

    Args:
        summary: The data set.
        size: Height and width of a crop.
        batch: Crops of a batch.
        trainer: What the user says about the end of the training.
        network: What a crop costs.
        machine: How fast it is.
    """
    per_step = batch * trainer.accumulate_grad_batches * machine.devices
    cost = network.training_flops(size) / machine.speed  # seconds
    if trainer.max_steps != -1:
        steps, why = float(trainer.max_steps), f"trainer.max_steps={trainer.max_steps}"
    elif trainer.seconds is not None:
        steps = SPENT_ON_TRAINING * trainer.seconds / (cost * per_step)
        why = f"trainer.max_time={trainer.max_time}"
    else:
        steps, why = _enough(summary, size, per_step, cost, machine)
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


def _enough(
    summary: DataSummary, size: tuple[int, int], per_step: int, cost: float, machine: Machine
) -> tuple[float, str]:
    """The steps of a training whose end nobody gave, and why they are as many."""
    count = len(summary.splits["train"])
    in_image = max(1.0, math.prod(summary.measures.median) / math.prod(size))
    fewest, most = STEPS[machine.has_gpu]
    wanted = PASSES * count * in_image / per_step
    why = f"{PASSES} times {counted(count, 'image')}"
    if wanted < fewest:
        wanted, why = fewest, f"{counted(count, 'image')}, but at least {fewest} steps"
    elif wanted > most:
        wanted, why = most, f"{counted(count, 'image')}, but at most {most} steps"
    seconds = per_step * cost / SPENT_ON_TRAINING  # of a step
    affordable = PATIENCE[machine.has_gpu] / seconds
    if wanted > affordable:
        wanted = max(affordable, NEVERTHELESS)
        why = "what the time allows" if wanted > NEVERTHELESS else f"at least {NEVERTHELESS} steps"
    return wanted, f"{why}; very roughly {max(1, round(wanted * seconds / 60))} min here"
