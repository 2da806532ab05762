"""Encoders x necks x ways of upsampling, measured: a row for each, also for one that fails."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segkit.benchmarking.process import Measured, Spec, measure
from segkit.benchmarking.roofline import Rates, Work
from segkit.benchmarking.timing import ratio
from segkit.models.necks import Neck

AT_ONCE = 4
"""Processes that live at the same time and take turns: all of them are in memory."""
JOINS = {"unet": "concatenation", "fpn": "addition", "fcn": "addition"}
"""How a neck joins its levels."""
TIMES = {"predict ms": "inference", "train ms": "training"}
MEASURES = ("M param.", "GFLOPs", *TIMES, "predict MB", "train MB")


@dataclass(frozen=True)
class Combination:
    """What is measured.

    Attributes:
        encoder: Name and options.
        neck: Name and options, its way of upsampling among them.
        side: Height and width of the images.
    """

    encoder: Mapping[str, Any]
    neck: Mapping[str, Any]
    side: int

    @property
    def joins(self) -> str:
        """How the neck joins its levels: concatenation, addition, or nothing that is known."""
        return JOINS.get(str(self.neck["name"]), "")


@dataclass(frozen=True)
class Result:
    """What was found of a combination.

    Attributes:
        combination: It.
        batch: Images in a batch.
        inference: Probabilities of a batch.
        training: A training step.
        rates: The machine's.
    """

    combination: Combination
    batch: int
    inference: Measured
    training: Measured
    rates: Rates

    @property
    def failure(self) -> str:
        """Why something is missing; empty where nothing is."""
        both = {"inference": self.inference.failure, "training": self.training.failure}
        said = list(dict.fromkeys(text for text in both.values() if text))
        if len(said) == 1 and not all(both.values()):
            return f"{next(k for k, v in both.items() if v)}: {said[0]}"
        return "; ".join(said)

    def values(self) -> dict[str, float | None]:
        """The measures; None where there is none."""
        parameters = self._fact("parameters")
        flops = self.inference.facts.get("flops")
        return {
            "M param.": None if parameters is None else parameters / 1e6,
            "GFLOPs": None if flops is None else flops / self.batch / 1e9,
            "predict ms": _milliseconds(self.inference),
            "train ms": _milliseconds(self.training),
            "predict MB": self.inference.peak_mb,
            "train MB": self.training.peak_mb,
        }

    def floors(self) -> dict[str, float | None]:
        """Milliseconds that the times cannot be below, see :class:`Work`."""
        return {key: self._floor(getattr(self, of)) for key, of in TIMES.items()}

    def row(self, but: Sequence[str] = ()) -> dict[str, object]:
        """Its line of the table.

        Args:
            but: Options that are the same in all lines, and are not named.
        """
        values, floors = self.values(), self.floors()
        row: dict[str, object] = {
            "encoder": label(self.combination.encoder),
            "neck": label(self.combination.neck, but),
            "size": self.combination.side,
        }
        for key, value in values.items():
            row[key] = value
            if key in floors:
                row[key.replace("ms", "floor")] = floors[key]
        return row

    def raw(self) -> dict[str, object]:
        """All that is known of it, as plain data."""
        return {
            "encoder": dict(self.combination.encoder),
            "neck": dict(self.combination.neck),
            "size": self.combination.side,
            "inference": vars(self.inference),
            "training": vars(self.training),
            "failure": self.failure,
        }

    def _fact(self, name: str) -> Any:
        return self.training.facts.get(name, self.inference.facts.get(name))

    def _floor(self, measured: Measured) -> float | None:
        if "flops" not in measured.facts:
            return None
        work = Work(measured.facts["flops"], measured.facts["bytes"])
        return 1e3 * work.floor(self.rates)


def combine(
    encoders: Sequence[Mapping[str, Any]],
    necks: Sequence[Mapping[str, Any]],
    upsample: Sequence[str],
    sizes: Sequence[int],
) -> Iterator[list[Combination]]:
    """Everything with everything, in groups of one encoder and size that are to take turns.

    A neck that says itself how it upsamples, or cannot be told, is there once.

    Raises:
        SegkitError: There is no such neck.
    """
    made: list[Mapping[str, Any]] = []
    for neck in necks:
        takes = inspect.signature(Neck.resolve(neck["name"], {})[0]).parameters
        if "upsample" in neck or "upsample" not in takes:
            made.append(neck)
        else:
            made += [{**neck, "upsample": way} for way in upsample]
    for side in sizes:
        for encoder in encoders:
            group = [Combination(encoder, neck, side) for neck in made]
            for at in range(0, len(group), AT_ONCE):
                yield group[at : at + AT_ONCE]


def measure_group(
    group: Sequence[Combination],
    common: Mapping[str, Any],
    rates: Rates,
    *,
    rounds: int,
    warm_up: int,
    timeout: float,
    plugins: Sequence[str] = (),
    threads: int | None = None,
    said: Callable[[str], object] = lambda text: None,
) -> list[Result]:
    """Inference and training of combinations, which take turns.

    Args:
        group: What is measured.
        common: What :func:`segkit.benchmarking.networks.inference` and ``training`` take besides.
        rates: The machine's.
        rounds: Runs of each that count.
        warm_up: Runs before these.
        timeout: Seconds that a build or a run may take.
        plugins: Modules with encoders ... of the user.
        threads: Threads of each; None: the usual.
        said: Is told what is going on.
    """
    found: dict[str, list[Measured]] = {}
    for kind in TIMES.values():
        said(f"{label(group[0].encoder)}, {group[0].side} x {group[0].side}: {kind}")
        specs = {
            str(number): Spec(
                f"segkit.benchmarking.networks:{kind}",
                {
                    "encoder": dict(one.encoder),
                    "neck": dict(one.neck),
                    "side": one.side,
                    **common,
                },
                plugins,
                threads,
            )
            for number, one in enumerate(group)
        }
        found[kind] = list(measure(specs, rounds, warm_up, timeout).values())
    batch = common["batch"]
    return [
        Result(one, batch, inference, training, rates)
        for one, inference, training in zip(
            group, found["inference"], found["training"], strict=True
        )
    ]


def compare_joins(results: Sequence[Result]) -> list[dict[str, object]]:
    """What concatenation costs against addition: below 1 less, above 1 more.

    A row for each neck that concatenates and each that adds, with the median over the encoders,
    sizes and ways of upsampling in which both were measured.
    """
    pairs: dict[str, dict[str, list[float]]] = {}
    for ours in results:
        for theirs in results:
            a, b = ours.combination, theirs.combination
            alike = (a.encoder, a.side) == (b.encoder, b.side)
            alike &= a.neck.get("upsample") == b.neck.get("upsample")
            if not alike or (a.joins, b.joins) != ("concatenation", "addition"):
                continue
            name = " / ".join(label(c.neck, but=("upsample",)) for c in (a, b))
            for key in MEASURES:
                value = _quotient(key, ours, theirs)
                if value is not None:
                    pairs.setdefault(name, {}).setdefault(key, []).append(value)
    return [
        {"concatenation / addition": name}
        | {key: statistics.median(of[key]) if key in of else None for key in MEASURES}
        for name, of in pairs.items()
    ]


def shared(results: Sequence[Result]) -> tuple[str, ...]:
    """The options of necks that need no name, as all have the same way of upsampling."""
    ways = {result.combination.neck.get("upsample") for result in results}
    return ("upsample",) if len(ways) == 1 else ()


def label(part: Mapping[str, Any], but: Sequence[str] = ()) -> str:
    """A part in a few words: ``fpn width=64 upsample=nearest``."""
    said = [f"{key}={value}" for key, value in part.items() if key not in ("name", *but)]
    return " ".join([str(part["name"]), *said])


def _quotient(key: str, ours: Result, theirs: Result) -> float | None:
    if key in TIMES:
        a, b = (getattr(result, TIMES[key]) for result in (ours, theirs))
        if a.seconds and b.seconds and not (a.alone or b.alone):
            return ratio(a.seconds, b.seconds).median
    x, y = ours.values()[key], theirs.values()[key]
    return x / y if x is not None and y else None


def _milliseconds(measured: Measured) -> float | None:
    return 1e3 * statistics.median(measured.seconds) if measured.seconds else None
