"""The benchmark command: one table of what encoders and necks cost on this machine."""

from __future__ import annotations

import inspect
import shlex
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from rich.console import Console

from segkit.benchmark.measuring import describe_machine, measure_in_process
from segkit.benchmark.results import Row, Section, write_results
from segkit.config.settings import BenchmarkSettings, parse_settings
from segkit.core import plugins
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.files import make_folder
from segkit.inference.runtimes.torch_network import choose_device
from segkit.models.encoders import Encoder
from segkit.models.necks import Neck
from segkit.training.record import list_overrides


class Combination(NamedTuple):
    """An encoder and a neck, each with name and options, and the side of the images."""

    encoder: dict[str, Any]
    neck: dict[str, Any]
    side: int

    def __str__(self) -> str:
        return f"{name_part(self.encoder)} + {name_part(self.neck)}, {self.side} x {self.side}"


def benchmark(config: DictConfig) -> Path:
    """Measure encoders x necks x sizes; write and print the table.

    Returns:
        The folder of the results.

    Raises:
        SegkitError: The config cannot be used, or no combination could be measured.
    """
    settings = parse_settings(BenchmarkSettings, config)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    _require_known_names(settings)
    device = str(choose_device(settings.device))
    make_folder(settings.output)
    common = settings.model_dump(
        include={"batch", "channels", "classes", "precision", "rounds", "warm_up", "threads"}
    )
    common |= {"device": device, "plugins": plugins.as_list(settings.plugins)}
    combinations = list(combine(settings))
    rows, failures = [], []
    for number, one in enumerate(combinations, start=1):
        console.print(f"[{number}/{len(combinations)}] {one}")
        found = measure_in_process({**one._asdict(), **common}, settings.timeout)
        rows.append(make_row(one, *found))
        reasons = dict.fromkeys(each["failure"] for each in found if "failure" in each)
        failures += [f"{one}: {'; '.join(reasons)}"] if reasons else []
    table = Section("", rows, failures)
    typed = [text for text in list_overrides() if not text.startswith("output=")]
    write_results(
        settings.output,
        "benchmark",
        title="What encoders and necks cost",
        command=" ".join(["python -m segkit.benchmark", *map(shlex.quote, typed)]),
        machine=describe_machine(device, settings.threads),
        settings=settings.model_dump(mode="json", exclude={"output"}),
        notes=[
            f"Milliseconds are for a batch of {settings.batch} with {settings.channels} channels,"
            f" medians of {settings.rounds} runs; each network runs in its own process. Megabytes"
            " are its peak memory above that after the imports. GFLOPs are for predicting one"
            " image, a multiply-add counts as two. A training step is forward, Dice +"
            " cross-entropy, backward and AdamW."
        ],
        sections=[table],
        data={"rows": rows, "failures": failures},
    )
    console.print(f"{table}\nsaved: {settings.output}/benchmark.md and benchmark.json")
    if all(row["predict ms"] is row["train ms"] is None for row in rows):
        raise SegkitError(f"no combination could be measured: {failures[0]}")
    return settings.output


def _require_known_names(settings: BenchmarkSettings) -> None:
    """Report all misspelt names at once; what cannot be built gets a row that says why."""
    problems = []
    families = (("encoders", Encoder, settings.encoders), ("necks", Neck, settings.necks))
    for key, family, parts in families:
        for part in parts:
            try:
                family.resolve(part.name, {})
            except SegkitError as error:
                problems.append(f"{key}: {error}")
    if problems:
        raise all_at_once("the config cannot be used:", problems)


def combine(settings: BenchmarkSettings) -> Iterator[Combination]:
    """Every size x encoder x neck x way of upsampling.

    A neck that sets its own ``upsample``, or has no such option, occurs once.
    """
    necks: list[dict[str, Any]] = []
    for neck in settings.necks:
        options = neck.as_dict()
        takes = inspect.signature(Neck.resolve(neck.name, {})[0]).parameters
        if "upsample" in options or "upsample" not in takes:
            necks.append(options)
        else:
            usual = takes["upsample"].default  # needs no mention
            necks += [
                options if way == usual else {**options, "upsample": way}
                for way in settings.upsample
            ]
    for side in settings.sizes:
        for encoder in settings.encoders:
            for options in necks:
                yield Combination(encoder.as_dict(), options, side)


def make_row(one: Combination, predict: Mapping[str, Any], train: Mapping[str, Any]) -> Row:
    """Make a row of the table from the results of :func:`measure_in_process`."""
    parameters = predict.get("parameters", train.get("parameters"))
    return {
        "encoder": name_part(one.encoder),
        "neck": name_part(one.neck),
        "size": one.side,
        "M param.": None if parameters is None else parameters / 1e6,
        "GFLOPs": predict.get("gflops"),
        "predict ms": _find_median_ms(predict),
        "train ms": _find_median_ms(train),
        "predict MB": predict.get("peak_mb"),
        "train MB": train.get("peak_mb"),
    }


def name_part(part: Mapping[str, Any]) -> str:
    """Name a part in a few words: ``fpn width=64 upsample=nearest``."""
    options = [f"{key}={value}" for key, value in part.items() if key != "name"]
    return " ".join([str(part["name"]), *options])


def _find_median_ms(found: Mapping[str, Any]) -> float | None:
    return 1e3 * statistics.median(found["seconds"]) if "seconds" in found else None
