"""What a program that shows trainings must do, and what it is told about a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.config.schema import Logger
from segkit.report.table import Row

RUNS = "runs"
"""The folder of all run folders."""
Pictures = Mapping[str, NDArray[np.uint8]]
"""Name of an image to its picture, (H, W, 3)."""


@dataclass(frozen=True)
class LoggedRun:
    """A run as it is logged.

    Attributes:
        folder: Its folder.
        config: All options, with their sections.
        settings: Those of the loggers.
        known: What the loggers have kept of the run that is resumed, such as its number; empty at
            first.
    """

    folder: Path
    config: Mapping[str, Any]
    settings: Logger
    known: Mapping[str, str]

    @property
    def name(self) -> str:
        """That of the run folder below runs/."""
        parts = self.folder.absolute().parts
        if RUNS in parts[:-1]:
            return "/".join(parts[len(parts) - parts[::-1].index(RUNS) :])
        return self.folder.absolute().name

    @property
    def shelf(self) -> Path:
        """Where programs keep several runs together: runs/, or else the run folder."""
        above = self.folder.absolute().parents
        return next((path for path in above if path.name == RUNS), self.folder.absolute())

    def flatten(self) -> dict[str, bool | int | float | str]:
        """The options by their keys with dots: ``{"encoder.depth": 4}``."""
        found: dict[str, bool | int | float | str] = {}

        def add(key: str, value: Any) -> None:
            if isinstance(value, dict) and value:
                for below, each in value.items():
                    add(f"{key}.{below}" if key else str(below), each)
            else:
                found[key] = value if isinstance(value, bool | int | float | str) else str(value)

        add("", dict(self.config))
        return found


class RunLogger(ABC):
    """A program that shows trainings; the constructor begins a run or goes on with it.

    Its library is imported where it is needed. Any method may raise anything: the training goes on
    without the logger then.
    """

    @abstractmethod
    def __init__(self, run: LoggedRun) -> None: ...

    @property
    def key(self) -> str | None:
        """By what a resumed run finds itself, if not by its name and folder."""
        return None

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log finite numbers after so many optimizer steps."""

    @abstractmethod
    def show(self, pictures: Pictures, step: int) -> None:
        """Show predictions beside the truth after so many optimizer steps."""

    @abstractmethod
    def conclude(self, scores: Mapping[str, float], tables: Mapping[str, Sequence[Row]]) -> None:
        """Log the final scores, and tables by their names."""

    @abstractmethod
    def close(self, status: Literal["finished", "failed"]) -> None:
        """End the run, which may be resumed."""
