"""The search command: it reads from top to bottom."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import datetime
from itertools import chain
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from segkit.config.quoting import quote_option
from segkit.config.resumed import find_changes
from segkit.config.settings import SearchSettings, parse_settings
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.files import write_whole
from segkit.core.machine import find_machine
from segkit.core.owners import hold_folder
from segkit.core.sharing import Share
from segkit.planning.workload import PATIENCE
from segkit.search.command_line import (
    list_typed,
    name_key,
    put_over,
    spell,
    spell_config_dir,
    split_axes,
)
from segkit.search.halving import (
    FINALISTS,
    SHORTEST,
    choose_survivors,
    plan_rungs,
    share_time,
    spell_time,
)
from segkit.search.jobs import train
from segkit.search.preparing import compose_training, prepare
from segkit.search.record import FILE, Record, Round, find_unfinished, name_training, read_record
from segkit.search.results import COMMAND, PICTURE, TABLE, explain, show, write_ensembles
from segkit.training.folder import claim_folder

LONGER = 3
"""How much longer than a finalist the best is to be trained, if the plan's own length is not."""


def search(config: DictConfig) -> Path:
    """Find the best of several configurations; return the folder of the search.

    Raises:
        SegkitError: The options or the data cannot be used, there is too little time, or every
            candidate fails.
    """
    settings = parse_settings(SearchSettings, config)
    if Share.join().count > 1:
        raise SegkitError(
            "a search is started once, not by torchrun or srun; trainer.devices=N trains on several"
            " devices."
        )
    console = Console(soft_wrap=True, markup=False, highlight=False)
    folder = _choose_folder(settings, console)
    try:
        with hold_folder(folder, "a search"):
            if (folder / FILE).is_file():
                record = read_record(folder)
                _require_same(settings, folder, record)
            else:
                record = prepare(settings, console)
                record.save(folder)
            ranking = _run_rungs(record, folder, console)
            _report(record, folder, ranking, console)
    except KeyboardInterrupt:
        if (folder / FILE).is_file():
            with suppress(OSError):  # the terminal may be closed
                typed = quote_option("resume", str(folder))
                print(f"to go on: python -m segkit.search {typed}", file=sys.stderr)
        raise
    finally:
        made = [each for each in (folder, *folder.parents) if each.parts[:1] == ("runs",)]
        with suppress(OSError):  # those that an error has left empty
            for each in made:
                each.rmdir()
    return folder


def _choose_folder(settings: SearchSettings, console: Console) -> Path:
    """The folder to go on with, or a new one."""
    if settings.resume is not None:
        read_record(settings.resume)  # before it is held, and made
        return settings.resume
    if settings.budget is None:
        raise SegkitError("budget is missing: give the time of the search, as budget=4h")
    fixed, combinations = split_axes(settings.training)
    name = compose_training(fixed, combinations[0] if combinations else ()).name
    if settings.output is not None:
        return settings.output
    found = find_unfinished(Path("runs", name), list_typed())
    if found is not None:
        console.print(f"this goes on with {found}; with output=FOLDER it begins anew")
        return found
    return claim_folder(Path("runs", name, datetime.now().strftime("search_%Y-%m-%d_%H-%M-%S")))


def _require_same(settings: SearchSettings, folder: Path, record: Record) -> None:
    """Refuse to go on with a search that is not the one that was typed.

    Raises:
        SegkitError: It is another one, or it names code that was not typed.
    """
    if settings.resume is None:
        if record.command != list_typed():
            raise SegkitError(f"{folder} holds another search: name another folder.")
        return
    others = [text for text in list_typed() if name_key(text) not in ("resume", "training")]
    stored = [*record.options, *chain.from_iterable(record.candidates)]
    problems = find_changes([*others, *settings.training], stored, "search")
    problems += [f"{text} is no option" for text in stored if text.startswith("-")]
    if record.started_in != str(Path.cwd()):  # never from the file: Python runs what lies there
        problems.append(f"type it in {record.started_in}, where the paths of its options begin")
    if problems:
        raise all_at_once(f"resume={folder} goes on with a search as it was started:", problems)


def _run_rungs(record: Record, folder: Path, console: Console) -> list[int]:
    """Run what is left of the rungs; return the candidates of the last one, best first.

    Survivors are trained anew. A resumed training would keep the plan and the draws of its short
    time and warm up a second time, so it would say less about a long one, and the folds of the last
    rung could not be compared. It costs less than a third of the time.
    """
    rungs = plan_rungs(len(record.candidates), record.folds)
    ranking = list(range(len(record.candidates)))
    for number, rung in enumerate(rungs):
        if number == len(record.rounds):
            left, besides = record.budget - record.spent, record.measure_overhead()
            seconds = int(share_time(left, rungs, number, besides))
            if seconds < SHORTEST and number > 0:
                console.print(f"there is no time left for rung {number + 1}")
                break
            seconds, chosen = max(seconds, SHORTEST), ranking[: rung.candidates]
            until = record.spent + len(chosen) * rung.folds * (seconds + besides)
            record.rounds.append(Round(seconds, rung.folds, chosen, until))
            record.save(folder)
        this = record.rounds[number]
        console.print(
            f"rung {number + 1} of {len(rungs)}: {len(this.candidates)} candidates, {this.seconds}"
            f" s each on {'one fold' if this.folds == 1 else f'{this.folds} folds'}"
        )
        _run_rung(record, folder, number, console)
        scores = {each: record.list_scores(number, each) for each in this.candidates}
        ranking = choose_survivors(scores, len(scores))
        show(record, folder, console, f"after rung {number + 1}, best first")
        if not ranking:
            raise SegkitError(
                f"every candidate of rung {number + 1} has failed; {folder / f'rung{number + 1}'}"
                " holds what they said."
            )
    return ranking


def _run_rung(record: Record, folder: Path, number: int, console: Console) -> None:
    """Train all candidates of a rung on all of its folds, fold by fold.

    What takes much longer than planned is cut off at the end: the last candidates of a rung of one
    fold, but for two, or the last folds.
    """
    this = record.rounds[number]
    for fold in range(this.folds):
        for place, candidate in enumerate(this.candidates):
            rest = [name_training(number, each, fold) for each in this.candidates[place:]]
            is_past = any(name in record.trainings for name in rest)  # decided before a stop
            is_late = record.spent + this.seconds > this.until and not is_past
            if is_late and (place >= FINALISTS if fold == 0 else place == 0):
                cut = [record.name(each) for each in this.candidates[place:]]
                what = f"the folds from {fold} on" if fold else "; ".join(cut)
                console.print(f"trainings take longer than planned; left out: {what}")
                this.folds, this.candidates = fold or 1, this.candidates[: place or None]
                record.save(folder)
                return
            _train(record, folder, number, candidate, fold, console)


def _train(
    record: Record, folder: Path, number: int, candidate: int, fold: int, console: Console
) -> None:
    """Train a candidate on a fold, unless that is done, or one of its folds has failed."""
    name, this = name_training(number, candidate, fold), record.rounds[number]
    has_failed = any(done.error for done in record.list_done(number, candidate))
    if name in record.trainings or has_failed:
        return
    options = put_over(record.options, record.candidates[candidate])
    limits = [f"fold={fold}", f"folds={record.folds}"]
    limits.append(f"trainer.max_time={spell_time(this.seconds)}")
    flags = spell_config_dir()
    done = train(folder / name, [*options, *limits], flags, console)
    record.trainings[name] = done
    record.save(folder)
    score = "undefined" if done.score is None else f"{done.score:.4f}"
    said = f"FAILED, {done.error}" if done.error else f"{record.monitor} {score}"
    console.print(f"  {candidate} ({record.name(candidate)}), fold {fold}: {said}")


def _report(record: Record, folder: Path, ranking: list[int], console: Console) -> None:
    """Write and print the result, and end the search."""
    options = put_over(record.options, record.candidates[ranking[0]])
    settings = compose_training(options)
    t, seconds = settings.trainer, LONGER * record.rounds[-1].seconds
    has_gpu = find_machine(t.accelerator, t.devices, t.num_nodes).has_gpu
    if "trainer.max_epochs" in settings.open_keys and seconds > PATIENCE[has_gpu]:
        options.append(f"trainer.max_time={spell_time(seconds)}")
    record.command_of_best = spell("train", [*spell_config_dir(), *options])
    write_whole(folder / COMMAND, f"{record.command_of_best}\n")
    ensembles = write_ensembles(record, folder, ranking)
    record.save(folder)
    for line in explain(record, folder, ranking):
        console.print(line)
    for path in (folder / TABLE, folder / PICTURE, folder / COMMAND, *ensembles):
        console.print(f"saved: {path}")
    if ensembles and record.rounds[-1].folds == record.folds:
        given = [quote_option("checkpoint", str(ensembles[0])), "split=folds", "masks=true"]
        console.print(f"scores of all images: python -m segkit.evaluate {' '.join(given)}")
    console.print(f"To train the best, {record.name(ranking[0])}:\n  {record.command_of_best}")
