"""What a search has done so far: one JSON file in its folder, so that it goes on after any end."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from segkit.core.errors import SegkitError
from segkit.core.files import write_whole

FILE = "search.json"


@dataclass
class Done:
    """The end of a training.

    Attributes:
        score: The monitored metric; None if it is undefined.
        seconds: From its start to its end, with reading and scoring.
        error: Why it failed, or empty.
    """

    score: float | None
    seconds: float
    error: str = ""


@dataclass
class Round:
    """A rung that has begun.

    Attributes:
        seconds: The time limit of each training.
        folds: How many folds each candidate is trained on.
        candidates: The numbers of the candidates.
        until: Seconds of the search after which it should be over.
    """

    seconds: int
    folds: int
    candidates: list[int]
    until: float


@dataclass
class Record:
    """A search.

    Attributes:
        command: What was typed.
        started_in: The folder in which relative paths of the command begin.
        options: Options that all trainings share.
        candidates: What differs from these in each candidate.
        monitor: The metric that decides.
        images: How many images the folds divide.
        seconds: What preparing took.
        overhead: What a training may take besides its time limit.
        trainings: The finished ones, by the path of their folder below that of the search.
        command_of_best: What trains the best candidate; empty until the search has ended.
    """

    command: list[str]
    started_in: str
    folds: int = 0
    budget: int = 0
    options: list[str] = field(default_factory=list)
    candidates: list[list[str]] = field(default_factory=list)
    monitor: str = ""
    images: int = 0
    seconds: float = 0.0
    overhead: float = 0.0
    rounds: list[Round] = field(default_factory=list)
    trainings: dict[str, Done] = field(default_factory=dict)
    command_of_best: str = ""

    @property
    def spent(self) -> float:
        """Seconds of the search so far; a training that was killed is not counted."""
        return self.seconds + sum(done.seconds for done in self.trainings.values())

    def measure_overhead(self) -> float:
        """Seconds that trainings took besides their time limit, typically; at first a guess."""
        besides = [
            max(0.0, done.seconds - each.seconds)
            for number, each in enumerate(self.rounds)
            for candidate in each.candidates
            for done in self.list_done(number, candidate)
            if not done.error
        ]
        return statistics.median(besides) if besides else self.overhead

    def name(self, number: int) -> str:
        """A candidate, as tables call it: what differs in it."""
        return " ".join(self.candidates[number]) or "the plan"

    def list_done(self, round_number: int, candidate: int) -> list[Done]:
        """The finished trainings of a candidate in a round, by fold."""
        folds = range(self.rounds[round_number].folds)
        names = (name_training(round_number, candidate, fold) for fold in folds)
        return [self.trainings[name] for name in names if name in self.trainings]

    def list_scores(self, round_number: int, candidate: int) -> list[float]:
        """Its scores by fold, more is better; none if a training failed."""
        done = self.list_done(round_number, candidate)
        if any(each.error for each in done):
            return []
        sign = -1 if self.monitor == "val/loss" else 1
        return [math.nan if each.score is None else sign * each.score for each in done]

    def trainings_of(self, candidate: int) -> list[Done]:
        """All finished trainings of a candidate."""
        return [d for n in range(len(self.rounds)) for d in self.list_done(n, candidate)]

    def save(self, folder: Path) -> None:
        """Write the file."""
        write_whole(folder / FILE, json.dumps(asdict(self), indent=1))


def name_training(round_number: int, candidate: int, fold: int) -> str:
    """The folder of a training below that of its search; rungs count from 1."""
    return f"rung{round_number + 1}/{candidate:02}_fold{fold}"


def read_record(folder: Path) -> Record:
    """Read the file.

    Raises:
        SegkitError: There is none, or it is damaged.
    """
    path = folder / FILE
    try:
        return TypeAdapter(Record).validate_json(path.read_bytes())
    except OSError as error:
        raise SegkitError(f"resume={folder}: there is no search: {path} cannot be read.") from error
    except ValidationError as error:
        raise SegkitError(f"{path} is damaged: put back the one that the search wrote.") from error


def find_unfinished(runs: Path, command: Sequence[str]) -> Path | None:
    """The newest search of the same command that has not ended, in the folders of a name."""
    for path in sorted(runs.glob(f"search_*/{FILE}"), reverse=True):
        with suppress(SegkitError):  # a damaged one
            record = read_record(path.parent)
            if record.command == list(command) and not record.command_of_best:
                return path.parent
    return None
