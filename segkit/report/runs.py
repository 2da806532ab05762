"""Read what run folders hold, also those of trainings that were stopped or are damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segkit.core.errors import SegkitError, all_at_once
from segkit.core.yaml_files import read_yaml_text
from segkit.report.page import list_pictures
from segkit.report.table import is_missing, read_csv

PAGE = "report.html"
_SIGNS = ("config.yaml", "result.json", "scores.csv", "metrics.csv")
"""Files of which a run or an evaluation has one at least."""
LESS_IS_BETTER = ("loss", "hd95", "hd95_missed", "ece", "pixel_error")

Table = list[dict[str, object]]


@dataclass
class RunRecord:
    """What the folder of a run, or of an evaluation, tells; empty where it tells nothing.

    Attributes:
        label: A short name that no other of the runs has.
        options: The config, by keys with dots.
        environment: Versions, device and the like.
        result: What result.json holds: parameters, seconds, the monitored metric.
        history: A row per epoch.
        scores: Value and interval of each score over all images.
        classes: A row of scores per class.
        images: The scores of each image by its name.
        pictures: Panels of the report, by the stem of an image's name.
        problems: What is missing or damaged.
    """

    folder: Path
    label: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    history: Table = field(default_factory=list)
    scores: dict[str, dict[str, object]] = field(default_factory=dict)
    classes: Table = field(default_factory=list)
    images: dict[str, dict[str, object]] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def monitor(self) -> str:
        """The metric that selects the best checkpoint."""
        return str(self.result.get("monitor") or self.options.get("monitor") or "val/iou")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The scored classes."""
        return tuple(str(row["class"]) for row in self.classes if row is not self.classes[-1])

    @property
    def first_score(self) -> str:
        """The score by which single images are compared."""
        name = self.monitor.removeprefix("val/")
        columns = next(iter(self.images.values()), {})
        return next((each for each in (name, "seg", "iou") if each in columns), "iou")

    def find_best_epoch(self) -> tuple[int, float] | None:
        """The epoch with the best monitored value, and the value; None if none was validated."""
        rows = [row for row in self.history if not is_missing(row.get(self.monitor))]
        if not rows:
            return None
        choose = min if is_less_better(self.monitor) else max
        best = choose(rows, key=lambda row: float(str(row[self.monitor])))
        return int(str(best["epoch"])), float(str(best[self.monitor]))


def is_less_better(score: str) -> bool:
    """Whether smaller values of a score are better."""
    return score.removeprefix("val/").partition("/")[0] in LESS_IS_BETTER


def find_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Read the runs in folders: each is one, or holds several as a sweep does.

    Raises:
        SegkitError: A folder is not there, or holds no run; all of them are listed.
    """
    found: dict[Path, Path] = {}
    problems = []
    for folder in folders:
        if not folder.is_dir():
            what = "is a file: give the folder of its run" if folder.exists() else "is not there"
            problems.append(f"{folder} {what}")
            continue
        inside = [folder] if _is_run(folder) else sorted(_list_inside(folder), key=_order)
        if not inside:
            problems.append(
                f"{folder} holds no run: it has none of {', '.join(_SIGNS)}, nor have the folders"
                " in it"
            )
        for each in inside:
            found.setdefault(each.resolve(), each)
    if problems:
        raise all_at_once("the runs cannot be compared:", problems)
    records = [read_run(folder) for folder in found.values()]
    for record, label in zip(records, _label(list(found)), strict=True):
        record.label = label
    return records


def read_run(folder: Path) -> RunRecord:
    """Read the folder of a run; what cannot be read is among its problems."""
    run = RunRecord(folder)

    def read(reader: Callable[[Path], Any], name: str) -> Any:
        """What a file holds; empty if it is not there or damaged."""
        path = folder / name
        try:
            if path.is_file():
                return reader(path)
        except SegkitError as error:
            run.problems.append(str(error))
        return [] if reader is read_csv else {}

    run.options = _flatten(read(_read_yaml, "config.yaml"))
    run.environment = read(_read_json, "environment.json")
    run.result = read(_read_json, "result.json")
    if not (folder / "config.yaml").is_file():  # an evaluation
        held = read(_read_json, "metrics.json")
        run.options = _flatten({**held.get("settings", {}), "checkpoint": held.get("checkpoint")})
    history = read(read_csv, "metrics.csv")
    run.history = [row for row in history if isinstance(row.get("epoch"), int)]
    run.scores = {str(row.get("score")): row for row in read(read_csv, "scores.csv")}
    run.classes = [row for row in read(read_csv, "classes.csv") if "class" in row]
    run.images = {str(row.get("image")): row for row in read(read_csv, "images.csv")}
    for name, file in list_pictures(folder / PAGE).items():
        run.pictures.setdefault(name.split("-", 2)[2], file)
    if "error" in run.result:
        run.problems.append(" ".join(str(run.result["error"]).split())[:300])
    elif not run.scores and not run.problems:
        best = run.find_best_epoch()
        so_far = "" if best is None else f", best {run.monitor} {best[1]:.4f} in epoch {best[0]}"
        count = len(run.history)
        run.problems.append(f"has not finished: {count} epoch{'s' * (count != 1)}{so_far}")
    return run


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _SIGNS)


def _list_inside(folder: Path) -> Iterable[Path]:
    return (each for each in folder.iterdir() if each.is_dir() and _is_run(each))


def _order(folder: Path) -> tuple[bool, int, str]:
    """Jobs of a sweep by their numbers, then others by name."""
    number = int(folder.name) if folder.name.isdecimal() else 0
    return (not folder.name.isdecimal(), number, folder.name)


def _label(folders: Sequence[Path]) -> list[str]:
    """The parts of paths in which they differ, from the first to the last."""
    parts = [folder.parts for folder in folders]
    shared = 0
    while len(parts) > 1 and all(
        p[shared : shared + 1] == parts[0][shared : shared + 1] != () for p in parts
    ):
        shared += 1
    shared = min(shared, *(len(p) - 1 for p in parts)) if len(parts) > 1 else len(parts[0]) - 1
    return ["/".join(p[shared:]) for p in parts]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SegkitError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
    return held if isinstance(held, dict) else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        held = yaml.safe_load(read_yaml_text(path))
    except yaml.YAMLError as error:
        raise SegkitError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
    return held if isinstance(held, dict) else {}


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Options by their keys with dots; lists as text."""
    found: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict) and value:
            found |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | dict):
            found[f"{prefix}{key}"] = json.dumps(value, default=str)
        else:
            found[f"{prefix}{key}"] = value
    return found
