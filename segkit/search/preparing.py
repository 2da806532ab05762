"""What a search does before its first training: look at the data, and make the candidates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from segkit.config.compose import compose
from segkit.config.schema import OF_OBJECTS, Part, TrainConfig
from segkit.config.settings import DataSettings, SearchSettings
from segkit.config.validation import validate
from segkit.core import plugins
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.labels import MODES
from segkit.core.machine import find_machine
from segkit.data.checks.classes import decide_classes
from segkit.data.checks.folds import Fold, divide
from segkit.data.checks.summary import DataSummary, summarize
from segkit.inspection.opening import DataSet, open_data_set
from segkit.models.heads import Head
from segkit.planning.network import measure_network
from segkit.planning.plan import plan
from segkit.search.candidates import find_weights, propose, read_candidates, require_different
from segkit.search.command_line import find_config_dir, list_typed, name_key, put_over, split_axes
from segkit.search.halving import SHORTEST, count_affordable
from segkit.search.record import Record
from segkit.targets.base import Target

STARTING = 15.0
"""Seconds that a training takes to start and to score, until the first ones have shown it."""
OWN = ("fold", "folds", "trainer.max_time", "resume")
"""Options of a training that a search sets."""
TASK = {"head", "target", "experiment"}
"""Options that say what is to be learned."""


def compose_training(options: Sequence[str], candidate: Sequence[str] = ()) -> TrainConfig:
    """The checked config of a candidate.

    Raises:
        SegkitError: Options are the search's own, or do not go together.
    """
    given = put_over(options, candidate)
    owned = [f"{text}: the search sets it" for text in given if name_key(text) in OWN]
    if owned:
        raise all_at_once("a search is limited by budget= and folds=:", owned)
    config = compose(given, config_dir=find_config_dir())
    plugins.load_named(plugins.as_list(config.get("plugins")))
    return validate(config)


def prepare(settings: SearchSettings, console: Console) -> Record:
    """Read the data, make the candidates, and see for how many there is time.

    Raises:
        SegkitError: The data cannot be used, there is nothing to compare, or no time for it.
    """
    began = time.monotonic()
    fixed, candidates = split_axes(settings.training)
    if settings.candidates is not None:
        candidates = read_candidates(settings.candidates)
    typed = {name_key(text) for text in [*fixed, *(candidates[0] if candidates else [])]}
    options = fixed if "plan" in typed else ["plan=auto", *fixed]
    base = compose_training(options, candidates[0] if candidates else ())
    before_data = time.monotonic()
    data = _open_data(base, typed)
    reading = time.monotonic() - before_data
    options = _choose_task(options, data, typed)
    known = [f for f in data.facts if f.split in ("train", "val")]
    summary = summarize(data.source, data.mode, data.facts, data.splits, data.num_classes, ())
    classes = decide_classes(data.source, data.mode, data.num_classes, known)[0]
    base = compose_training(options, candidates[0] if candidates else ())
    divide(known, classes, Fold(0, settings.folds, base.data.groups))  # whether it can be
    if candidates:
        monitors = {compose_training(options, each).monitor for each in candidates}
        if len(monitors) > 1:
            raise SegkitError(
                f"candidates are compared by one score, not by {' and '.join(sorted(monitors))}."
            )
    else:
        candidates = _propose(options, base, summary, typed)
    require_different(candidates)
    record = Record(
        command=list_typed(),
        started_in=str(Path.cwd()),
        folds=settings.folds,
        budget=settings.seconds,
        options=options,
        candidates=candidates,
        monitor=base.monitor,
        images=len(known),
        seconds=time.monotonic() - began,
        overhead=STARTING + reading,
    )
    _fit_budget(record, console)
    return record


def _open_data(base: TrainConfig, typed: set[str]) -> DataSet:
    """Read the data for the head that is set, or for the one that the masks suggest."""
    head: Part | None = base.head
    if Target.build(base.target.name, **base.target.options).from_ids:
        head = Part(name="binary")
    elif not typed & TASK:
        head = None
    elif base.head.name not in MODES:
        head = Part(name=Head.resolve(base.head.name, {})[0].mode)
    return open_data_set(DataSettings(data=base.data, head=head, max_pixels=base.max_pixels))


def _choose_task(options: Sequence[str], data: DataSet, typed: set[str]) -> list[str]:
    """Add the head that the masks need or, if they hold ids, a target that separates objects."""
    added = []
    if not typed & TASK:
        if data.source.instances:
            added.append("target=border_core")
        elif data.mode != "binary":
            added.append(f"head={data.mode}")
    if data.source.instances and not typed & {"monitor", "experiment"}:
        is_for_objects = compose_training([*options, *added]).instances is not None
        added += [f"monitor={OF_OBJECTS[0]}"] if is_for_objects else []
    return [*options, *added]


def _propose(
    options: Sequence[str], base: TrainConfig, summary: DataSummary, typed: set[str]
) -> list[list[str]]:
    """The candidates that suit the data and the machine, without those that do not compose."""
    t = base.trainer
    machine = find_machine(t.accelerator, t.devices, t.num_nodes)
    target = Target.build(base.target.name, **base.target.options)
    outputs = target.num_classes or summary.num_classes
    network = measure_network(base, summary.in_channels, outputs)
    planned, choices = plan(base, summary, machine, network)
    chosen = {choice.key: choice.value for choice in choices}
    found = []
    for each in propose(planned, chosen, summary, network, machine, typed, find_weights):
        try:
            compose_training(options, each)
        except SegkitError:  # the rest of what the user has set does not go with it
            continue
        found.append(each)
    return found


def _fit_budget(record: Record, console: Console) -> None:
    """Leave out the last candidates if there is no time for all.

    Raises:
        SegkitError: There is no time for two.
    """
    besides, left = record.overhead, record.budget - record.seconds
    count = count_affordable(len(record.candidates), left, record.folds, besides)
    if not count:
        least = 2 * record.folds * (SHORTEST + besides) + record.seconds
        raise SegkitError(
            f"budget: {record.budget} s are too short to compare anything on {record.folds} folds."
            f" For two candidates give {least / 60 + 0.5:.0f} minutes."
        )
    left_out = [record.name(n) for n in range(count, len(record.candidates))]
    if left_out:
        console.print(
            f"the time is enough for {count} of {len(record.candidates)} candidates; left out:"
            f" {'; '.join(left_out)}"
        )
    record.candidates = record.candidates[:count]
