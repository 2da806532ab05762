"""From a config with openings, a data set and a machine to a config without: the planner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from rich.box import ROUNDED
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segkit.config.openings import filled, is_open, open_keys, valued, with_stand_ins
from segkit.config.schema import TrainConfig
from segkit.config.validation import validate
from segkit.core.machine import Machine, find_machine
from segkit.data.augment.transforms import TURNS
from segkit.data.checks.checking import DataSummary
from segkit.planning import rules
from segkit.planning.network import Network, measure_network
from segkit.planning.workload import find_workload


@dataclass(frozen=True)
class Choice:
    """What was chosen for a key.

    Attributes:
        key: The key, as the command line has it.
        value: The value, or the name of the preset of a group.
        why: The reason.
    """

    key: str
    value: Any
    why: str

    def as_row(self) -> dict[str, object]:
        """For a table; the value as the command line would give it."""
        value = self.value
        if value is None:
            text = "null"
        else:
            text = f"[{value[0]}, {value[1]}]" if isinstance(value, tuple) else str(value)
        return {"key": self.key, "value": text, "why": self.why}


def plan(
    config: DictConfig, summary: DataSummary, machine: Machine, network: Network
) -> tuple[DictConfig, list[Choice]]:
    """Choose what is ``auto`` in a config; what is not stays as it is, and is reckoned with.

    Args:
        config: A composed config that is right but for its openings.
        summary: The checked data set.
        machine: What it is to be trained on.
        network: What the network costs.

    Returns:
        The config with all values, and what was chosen, in the order of the table.
    """
    planning = _Planning(config)
    settle = planning.settle

    turned = any(t.get("name") in TURNS for t in planning.settings.augment.transforms)
    if is_open(config, "augment"):
        turned = not rules.has_an_up(summary)[0]
    settle("data.crop_size", rules.crop_size(summary.measures, network, machine, turned))
    crop = planning.settings.data.crop_size
    settle("data.batch_size", rules.batch_size(crop, network, machine))
    settle("data.val_batch_size", rules.val_batch_size(summary.measures, network, machine))
    weights = planning.settings.encoder.options.get("pretrained", False)
    settle("data.normalize", rules.normalization(summary, weights is not False))
    settle("data.foreground_share", rules.foreground_share(summary, crop))
    settle("loss", rules.loss(summary))

    data, trainer = planning.settings.data, planning.settings.trainer
    work = find_workload(summary, crop, data.batch_size, trainer, network, machine)
    settle("data.samples_per_epoch", work.samples_per_epoch())
    per_epoch = planning.settings.data.samples_per_epoch or len(summary.splits["train"])
    settle("trainer.max_epochs", work.max_epochs(per_epoch))
    steps = work.steps(planning.settings.trainer, per_epoch)
    settle("augment", rules.augmentation(summary, work.passes(steps)))
    optimizer = planning.settings.optimizer.name
    settle("optimizer.lr", rules.learning_rate(optimizer, work.per_step, network))
    settle("scheduler", rules.schedule(steps))
    settle("trainer.ema", rules.averaging(steps))
    return planning.config, planning.choices


def planned(
    config: DictConfig, summary: DataSummary, num_classes: int, console: Console
) -> tuple[DictConfig, list[Choice]]:
    """The config without openings, and what was chosen for this machine, which is shown.

    Args:
        config: A composed config that is right but for its openings, if it has any.
        summary: The checked data set.
        num_classes: Number of classes that the network tells apart.
        console: Where to show it.

    Raises:
        SegkitError: The network cannot be built.
    """
    if not open_keys(config):
        return config, []
    settings = validate(with_stand_ins(config))
    machine = find_machine(settings.trainer.accelerator, settings.trainer.devices)
    network = measure_network(settings, summary.in_channels, num_classes)
    config, choices = plan(config, summary, machine, network)
    console.print(show(choices, machine), soft_wrap=False)
    return config, choices


def show(choices: Sequence[Choice], machine: Machine) -> Table:
    """What was chosen and why, for the terminal."""
    title = f"planned for {machine}; every value can be given instead, as KEY=VALUE"
    table = Table(title=Text(title), title_justify="left", header_style="bold", box=ROUNDED)
    table.add_column("Key", no_wrap=True)
    table.add_column("Value", no_wrap=True)
    table.add_column("Why")
    for choice in choices:
        table.add_row(*(Text(str(cell)) for cell in choice.as_row().values()))
    return table


class _Planning:
    """A config that is being filled in, and what was chosen so far."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.settings: TrainConfig = validate(with_stand_ins(config))
        self.choices: list[Choice] = []

    def settle(self, key: str, choice: tuple[Any, str]) -> None:
        """Take a choice if it is asked for."""
        if is_open(self.config, key):
            value, why = choice
            self.config = filled(self.config, {key: valued(key, value)})
            self.settings = validate(with_stand_ins(self.config))
            self.choices.append(Choice(key, value, why))
