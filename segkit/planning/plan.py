"""The planner: chooses the values of a config that are ``auto`` for a data set and a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import ROUNDED
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segkit.config.openings import AUTO, read_preset
from segkit.config.schema import TrainConfig
from segkit.core.machine import Machine, find_machine
from segkit.data.augment import TURNS
from segkit.data.checks.summary import DataSummary
from segkit.planning import rules
from segkit.planning.measuring import measure_steps
from segkit.planning.network import Network, measure_network
from segkit.planning.workload import find_workload


@dataclass(frozen=True)
class Choice:
    """A chosen value.

    Attributes:
        key: The key, as on the command line.
        value: For a group, the name of a preset.
    """

    key: str
    value: Any
    why: str

    def as_row(self) -> dict[str, object]:
        """A row of a table, with the value as the command line takes it."""
        text = "null" if self.value is None else str(self.value)
        if isinstance(self.value, tuple):
            text = f"[{self.value[0]}, {self.value[1]}]"
        return {"key": self.key, "value": text, "why": self.why}


def plan(
    settings: TrainConfig, summary: DataSummary, machine: Machine, network: Network
) -> tuple[TrainConfig, list[Choice]]:
    """Choose what a config leaves open, taking the values that are given into account.

    Returns:
        The config with all values, and the choices in the order of the table.
    """
    settings = settings.model_copy(deep=True)
    normalize = ("data.normalize",) if settings.data.normalize == AUTO else ()
    open_keys, choices = {*settings.open_keys, *normalize}, []

    def settle(key: str, choice: tuple[Any, str]) -> None:
        """Take a choice if the key is open."""
        if key not in open_keys:
            return
        value, why = choice
        choices.append(Choice(key, value, why))
        section, _, name = key.partition(".")
        current = getattr(settings, section)
        if name:
            setattr(current, name, value)
        elif section == "augment":
            current.transforms = read_preset(section, value)["transforms"]
        else:
            setattr(settings, section, type(current)(**read_preset(section, value)))

    turned = any(t.get("name") in TURNS for t in settings.augment.transforms)
    if "augment" in open_keys:
        turned = not summary.measures.sides and not rules.has_an_up(summary)[0]
    settle("data.crop_size", rules.choose_crop_size(summary.measures, network, machine, turned))
    crop = settings.data.crop_size
    settle("data.batch_size", rules.choose_batch_size(crop, network, machine))
    settle("data.val_batch_size", rules.choose_val_batch_size(summary.measures, network, machine))
    weights = settings.encoder.options.get("pretrained", False)
    settle("data.normalize", rules.choose_normalization(summary, weights is not False))
    settle("data.foreground_share", rules.choose_foreground_share(summary, crop))
    settle("loss", rules.choose_loss(summary, settings.head.name))

    data, trainer = settings.data, settings.trainer
    work = find_workload(summary, crop, data.batch_size, trainer, network, machine)
    settle("data.samples_per_epoch", work.samples_per_epoch())
    per_epoch = data.samples_per_epoch or len(summary.splits["train"])
    settle("trainer.max_epochs", work.max_epochs(per_epoch))
    steps = work.steps(trainer, per_epoch)
    settle("augment", rules.choose_augmentation(summary, work.passes(steps)))
    settle(
        "optimizer.lr", rules.choose_learning_rate(settings.optimizer.name, work.per_step, network)
    )
    settle("scheduler", rules.choose_schedule(steps))
    settle("trainer.ema", rules.choose_averaging(steps, trainer.strategy))
    settings._open_keys = ()
    return settings, choices


def plan_for_this_machine(
    settings: TrainConfig, summary: DataSummary, num_classes: int, console: Console
) -> tuple[TrainConfig, list[Choice]]:
    """Plan a training on this machine and print the choices; nothing if the config is complete.

    Raises:
        SegkitError: The network cannot be built.
    """
    if not settings.open_keys:
        return settings, []
    trainer = settings.trainer
    machine = find_machine(trainer.accelerator, trainer.devices, trainer.num_nodes)
    shape = summary.in_channels, num_classes
    network = measure_network(settings, *shape)
    planned, choices = plan(settings, summary, machine, network)
    is_timed = machine.device == "cpu" and trainer.seconds is not None
    if machine.devices == 1 and (machine.device == "cuda" or is_timed):
        # several processes must plan alike; and on a CPU, where a training can be repeated to the
        # bit, its plan must not depend on a measurement, unless its length does so anyway
        size = planned.data.crop_size
        most = max(rules.FEWEST_CROPS, rules.count_useful_crops(size))
        number = trainer.devices[0] if isinstance(trainer.devices, list) else 0
        device = "cpu" if is_timed else f"cuda:{number}"
        network = measure_steps(network, planned, *shape, size, most, device)
        planned, choices = plan(settings, summary, machine, network)
    console.print(draw_table(choices, machine), soft_wrap=False)
    if network.seconds_per_pixel is not None:
        data = planned.data
        hours = network.time_step(data.crop_size, data.batch_size, machine) / 3.6
        if is_timed:
            console.print(f"measured: 1000 steps take {60 * hours:.2g} minutes here")
        else:
            console.print(f"measured: 1000 steps take {hours:.2g} GPU hours")
    return planned, choices


def draw_table(choices: Sequence[Choice], machine: Machine) -> Table:
    """The choices and their reasons, for the terminal."""
    title = f"planned for {machine}; set any value yourself with KEY=VALUE"
    table = Table(title=Text(title), title_justify="left", header_style="bold", box=ROUNDED)
    table.add_column("Key", no_wrap=True)
    table.add_column("Value", no_wrap=True)
    table.add_column("Why")
    for choice in choices:
        table.add_row(*(Text(str(cell)) for cell in choice.as_row().values()))
    return table
