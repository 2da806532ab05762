"""The predict command, from settings to written files."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from functools import partial
from itertools import chain

from omegaconf import DictConfig
from rich.console import Console

from segkit.config.settings import PredictSettings, parse_settings
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.interrupts import StopSignals
from segkit.core.memory import limit_pixels
from segkit.core.owners import hold_folder
from segkit.core.sharing import Share
from segkit.inference.predictor import Predictor, load_from_settings
from segkit.predict.inputs import ImageFile, find_images, require_apart
from segkit.predict.outputs import Outputs
from segkit.predict.pipeline import Pipeline
from segkit.predict.polygons import require_polygons
from segkit.predict.progress import Meter
from segkit.predict.record import Record, hash_content

SHOWN = 3
"""Finished files that are named if a run ends early."""
WITHOUT_EFFECT = (
    *("checkpoint", "device", "batch_size", "precision", "plugins"),
    *("input", "output", "overwrite", "max_pixels"),
)
"""Keys that change a mask by rounding at most; the checkpoint counts by its content."""


def predict(config: DictConfig) -> None:
    """Write the masks of images, and what else is asked for.

    An image that cannot be predicted does not stop the others. Images that an earlier run has
    finished are skipped.

    Raises:
        SegkitError: The config or the checkpoint cannot be used, nothing can be written, or files
            failed; all of them are listed.
        KeyboardInterrupt: The user has interrupted it.
    """
    settings = parse_settings(PredictSettings, config)
    limit_pixels(settings.max_pixels)
    share = Share.join()
    console = Console(soft_wrap=True, markup=False, highlight=False, quiet=share.rank > 0)

    if settings.polygons is not None:
        require_polygons()
    settings.device = share.choose_device(settings.device)
    share.connect()
    predictor = load_from_settings(settings)
    predictor.watch.warn = partial(_note, console)
    card = predictor.card
    found = find_images(settings.input, settings.output, card.channel_files, card.image_pattern)
    for text in found.notes:
        _note(console, text)
    # one of the processes that share a folder holds it
    with nullcontext() if share.rank else hold_folder(settings.output, "predict"):
        _predict_images(settings, predictor, found.files, share, console)


def _predict_images(
    settings: PredictSettings,
    predictor: Predictor,
    files: list[ImageFile],
    share: Share,
    console: Console,
) -> None:
    with_objects = predictor.instances is not None
    folders = settings.folders(with_objects)
    require_apart(files, settings.output, folders)
    options = settings.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))
    identity = {"checkpoint": hash_content(settings.checkpoint), **options}
    record = Record(settings.output, identity, folders, share.rank)
    left = record.find_unfinished(share.pick(files), settings.overwrite)
    if left.finished:
        _note(console, f"{left.finished} images are already finished (overwrite=true redoes them)")
    for why, count in left.reasons.items():
        _note(console, f"{count} images are redone: {why}")
    try:
        with Meter(console, "predicting", len(left.files)) as meter, StopSignals() as stop:
            outputs = Outputs(record, settings, predictor.card, with_objects)
            pipeline = Pipeline(predictor, outputs, meter, stop)
            try:
                pipeline.run(left.files)
                outputs.finish()
            except KeyboardInterrupt:
                console.print(_report_end(pipeline, len(left.files)))
                raise
            except SegkitError as error:
                raise SegkitError(f"{error}\n{_report_end(pipeline, len(left.files))}") from error
    except Exception as error:
        if share.rank > 0:  # else the first process would wait for this one
            with suppress(SegkitError):
                share.gather([f"process {share.rank} has ended: {error}"])
        raise
    problems = [*chain.from_iterable(share.gather(list(pipeline.problems.values())))]
    if share.rank > 0 and share.store is not None:
        return  # the first process reports
    count = len(files) if share.store is not None else len(left.files) + left.finished
    console.print(f"{count - len(problems)} of {count} masks are in {settings.output}")
    if problems:
        failed = "1 file" if len(problems) == 1 else f"{len(problems)} files"
        raise all_at_once(f"{failed} could not be predicted:", problems)


def _note(console: Console, text: str) -> None:
    console.print(f"note: {text}")


def _report_end(pipeline: Pipeline, count: int) -> str:
    """Say what is finished of a run that ends early."""
    names = [file.stem.as_posix() for file in pipeline.finished]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    listed = f" ({', '.join(names[:SHOWN])}{more})" if names else ""
    return (
        f"{len(names)} of {count} masks were written to {pipeline.outputs.record.output}{listed}."
        " They stay; the same command continues with the rest."
    )
