"""What python -m segkit.predict does: from settings to written files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from segkit.config.settings import PredictSettings, parse_settings
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.files import make_folder
from segkit.inference.loading import load_from_settings
from segkit.inference.predictor import Predictor
from segkit.predict.fingerprints import content_hash
from segkit.predict.inputs import find_images, require_apart, require_extras_apart
from segkit.predict.outputs import ENDINGS, Outputs
from segkit.predict.pipeline import Pipeline
from segkit.predict.polygons import require_polygons
from segkit.predict.progress import Meter
from segkit.predict.record import Record, Unfinished
from segkit.predict.sharing import Share

SHOWN = 3
"""Finished files that are named where a run ends early."""
ELSEWHERE = ("checkpoint", "device", "batch_size", "plugins", "input", "output", "overwrite")
"""Keys that do not change what a mask holds; the checkpoint counts by what is in it."""


def predict(config: DictConfig) -> None:
    """Write the masks of images, and what else is asked for.

    An image that cannot be predicted does not keep the others from being written. What an earlier
    run has finished is left as it is.

    Raises:
        SegkitError: The config or the checkpoint cannot be used, nothing can be written, or files
            failed; all are named.
        KeyboardInterrupt: The user has ended it.
    """
    settings = parse_settings(PredictSettings, config)
    share = Share.join()
    console = Console(soft_wrap=True, markup=False, highlight=False, quiet=share.rank > 0)
    if settings.polygons is not None:
        require_polygons()
    found = find_images(settings.input, settings.output)
    for note in found.notes:
        console.print(f"  note: {note}")
    require_apart(found.files, settings.output, ENDINGS)
    make_folder(settings.output)
    settings.device = share.device(settings.device)
    predictor = load_from_settings(settings)
    folders = settings.folders(predictor.instances is not None)
    require_extras_apart(found.files, settings.output, folders)
    record = Record(settings.output, _identity(settings), ENDINGS, folders, share.rank)
    left = record.unfinished(share.of(found.files), settings.overwrite)
    for note in _notes(left):
        console.print(f"  note: {note}")
    try:
        result = _run(predictor, record, left, settings, console)
    except Exception as error:
        if share.rank > 0:  # else the first process would wait for this one
            with suppress(SegkitError):
                share.gather({"count": 0, "problems": [f"process {share.rank} has ended: {error}"]})
        raise
    results = share.gather(result)
    if share.rank > 0 and share.store is not None:
        return  # the first process says it
    count = len(found.files) if share.store is not None else result["count"] + left.finished
    problems = [problem for result in results for problem in result["problems"]]
    console.print(f"{count - len(problems)} of {count} masks are in {settings.output}")
    if problems:
        files = "1 file" if len(problems) == 1 else f"{len(problems)} files"
        raise all_at_once(f"{files} could not be predicted:", problems)


def _run(
    predictor: Predictor,
    record: Record,
    left: Unfinished,
    settings: PredictSettings,
    console: Console,
) -> dict[str, Any]:
    """Predict what is left; tell how many files that were, and what is wrong with them."""
    with_objects = predictor.instances is not None
    outputs = Outputs(record, settings, predictor.card, with_objects, settings.overwrite)

    def say(text: str) -> None:
        console.print(f"  note: {text}")

    with Meter(console, "predicting", len(left.files)) as meter:
        pipeline = Pipeline(predictor, outputs, meter.expect, meter.advance, say)
        try:
            pipeline.run(left.files)
        except KeyboardInterrupt:
            console.print(_ended_early(pipeline, left, settings.output))
            raise
        except SegkitError as error:
            raise SegkitError(
                f"{error}\n{_ended_early(pipeline, left, settings.output)}"
            ) from error
    outputs.finish()
    return {"count": len(left.files), "problems": list(pipeline.problems.values())}


def _identity(settings: PredictSettings) -> dict[str, Any]:
    """What the masks depend on, as plain data."""
    options = settings.model_dump(mode="json", exclude=set(ELSEWHERE))
    return {"checkpoint": content_hash(settings.checkpoint), **options}


def _notes(left: Unfinished) -> list[str]:
    notes = []
    if left.finished:
        notes.append(f"{left.finished} images are finished already (overwrite=true redoes them)")
    notes += [f"{count} images are done anew: {why}" for why, count in left.reasons.items()]
    return notes


def _ended_early(pipeline: Pipeline, left: Unfinished, output: Path) -> str:
    """What is done where a run ends before its end, and how to go on."""
    names = [file.stem.as_posix() for file in pipeline.finished]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    said = f" ({', '.join(names[:SHOWN])}{more})" if names else ""
    return (
        f"{len(names)} of {len(left.files)} masks were written to {output}{said}. They stay; the"
        " same command goes on with the rest."
    )
