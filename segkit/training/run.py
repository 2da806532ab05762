"""The train command: from a config to a run folder with checkpoints, metrics and a report."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from segkit.checkpoint.warm_start import Taken, take_weights
from segkit.config.schema import OF_OBJECTS, TrainConfig
from segkit.config.validation import validate
from segkit.core import plugins
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.files import write_whole
from segkit.core.labels import GUESS
from segkit.core.memory import limit_pixels
from segkit.core.owners import hold_folder
from segkit.core.sharing import Share
from segkit.data.augment import MIRRORS, TrainTransform
from segkit.data.checks.folds import Fold
from segkit.data.checks.summary import DataSummary, check
from segkit.data.mixing.mixes import build_mixes
from segkit.data.sources.base import DataSource
from segkit.data.unlabeled import UnlabeledImages
from segkit.evaluate.evaluation import require_pixel_sizes
from segkit.inference.objects.instances import decode
from segkit.inference.runtimes.network import is_out_of_memory
from segkit.losses.base import Loss
from segkit.metrics.base import build_metrics
from segkit.models.contract import find_unused
from segkit.models.encoders.weights import PretrainedWarning
from segkit.models.heads import Head
from segkit.models.segmenter import Segmenter, create_model
from segkit.models.sizes import valid_input, valid_output
from segkit.optim.optimizers import Optimizer
from segkit.optim.schedules import Schedule
from segkit.planning.class_weights import weigh_classes
from segkit.planning.plan import plan_for_this_machine
from segkit.report.table import write_csv
from segkit.targets.base import Target
from segkit.training.added_classes import add_classes
from segkit.training.datamodule import SegmentationData
from segkit.training.features import find_obstacles
from segkit.training.folder import choose_folder
from segkit.training.loggers.together import Loggers, require_loggers
from segkit.training.module import SegmentationModule
from segkit.training.pseudo_labels import PseudoLabels
from segkit.training.record import (
    Run,
    conclude,
    describe_command,
    list_overrides,
    make_card,
    write_environment,
)
from segkit.training.requeue import resume_after_requeue
from segkit.training.resume import (
    find_end,
    is_concluded,
    is_sweep_job,
    last_checkpoint,
    read_environment,
    read_result,
    read_resumed_config,
    require_new,
)
from segkit.training.teacher import Teacher
from segkit.training.trainer import fit, follow_launcher, make_trainer, silence_libraries


def run_job(config: DictConfig) -> float:
    """The command: a training, which may be a job of a sweep that was stopped and goes on.

    Returns:
        The monitored score, by which a sweeper such as Optuna's chooses; NaN if it is undefined.
    """
    if is_sweep_job():
        folder = Path(HydraConfig.get().runtime.output_dir)
        if is_concluded(folder) and read_result(folder).get("overrides") == list_overrides():
            print(f"{folder} is finished")
            return _read_score(folder)
        command = read_environment(folder).get("command")
        if command == describe_command() and last_checkpoint(folder).is_file():
            OmegaConf.update(config, "resume", str(folder))
    return _read_score(train(config).folder)


def _read_score(folder: Path) -> float:
    result = read_result(folder)
    value = result.get(result["monitor"])
    return math.nan if value is None else float(value)


def train(config: DictConfig, folder: Path | str | None = None) -> Run:
    """Train a model.

    Args:
        config: A config of :func:`segkit.compose` or of the command line.
        folder: The run folder; None: that of the command, or a new one below ``runs/``.

    Raises:
        SegkitError: The config or the data cannot be used, or another process trains in the
            folder; all problems are listed.
    """
    share = Share.join(needs_others=True)
    # Lightning starts processes too
    is_first = share.rank == 0 and os.environ.get("LOCAL_RANK", "0") == "0"
    # paths are not wrapped, so that they can be copied; names with brackets are not markup
    console = Console(soft_wrap=True, markup=False, highlight=False, quiet=not is_first)
    plugins.load_named(plugins.as_list(config.get("plugins")))
    is_same_command = is_sweep_job() or resume_after_requeue(config, console)
    changes: list[str] = []
    if config.get("resume"):
        settings, changes = read_resumed_config(config, is_same_command)
    else:
        full = add_classes(config)
        if full is not config:
            numbered = (f"{number} {name}" for number, name in enumerate(full.data.class_names))
            console.print(f"classes by their numbers in the masks: {', '.join(numbered)}")
        settings = validate(full)
    limit_pixels(settings.max_pixels)
    require_loggers(settings.logger)
    settings = follow_launcher(settings, share)
    folder = choose_folder(settings, folder)
    for change in changes:
        console.print(f"note: {change}")
    # one of the processes of a training holds its folder
    with hold_folder(folder, "a training") if is_first else nullcontext():
        return _train_in(folder, settings, console)


def _train_in(folder: Path, settings: TrainConfig, console: Console) -> Run:
    end = ""
    if settings.resume is None:
        require_new(folder)
    else:
        end = find_end(folder, settings.trainer)
        if end and is_concluded(folder):
            raise SegkitError(f"resume={folder}: the run has finished, {end}")
    silence_libraries()
    L.seed_everything(settings.seed, workers=True, verbose=False)

    mode = Head.resolve(settings.head.name, {})[0].mode
    target = Target.build(settings.target.name, **settings.target.options)
    # a target drawn from objects needs masks of objects and background only
    masks = "binary" if target.from_ids else mode
    source = DataSource.build(settings.data.name, mode=masks, **settings.data.options)
    num_classes = None if target.from_ids else settings.head.options.get("num_classes")
    fold = None
    if settings.fold is not None:
        fold = Fold(settings.fold, settings.folds, settings.data.groups)
    summary = check(source, masks, num_classes, fold=fold, val_names=settings.data.val_names)
    _print_data(console, settings, summary)
    if fold is not None:  # a resumed run and evaluations have the same
        names = {"val_names": [sample.name for sample in summary.splits["val"]]}
        settings = settings.model_copy(update={"data": settings.data.model_copy(update=names)})
    if source.channel_files:  # predictions put files together in the same way
        channels = {"channel_files": list(source.channel_files)}
        settings = settings.model_copy(update={"data": settings.data.model_copy(update=channels)})
    outputs = target.num_classes or summary.num_classes
    # refused before the training, not after it
    metrics = build_metrics(settings.metrics, mode, outputs)
    require_pixel_sizes(metrics, summary.splits["val"])
    settings, choices = plan_for_this_machine(settings, summary, outputs, console)
    settings = weigh_classes(settings, summary, console)

    with _explain_memory(
        f"the network of encoder={settings.encoder.name} with {settings.encoder.options} and"
        f" neck={settings.neck.name}"
    ):
        model, notes = _build_model(settings, summary, outputs)
    if settings.data.cache == "features":
        obstacles = find_obstacles(settings, summary, model)
        if obstacles:
            raise all_at_once("data.cache=features cannot be used:", obstacles)
    for note in [*notes, *_describe_mirrors(settings, summary)]:
        console.print(f"warning: {note}", style="yellow")
    card = make_card(settings, summary, source, target, model)
    taken: list[Taken] = []
    if settings.init is not None and settings.resume is None:
        taken, card = take_weights(model, card, settings.init)
        for part in taken:
            console.print(f"init: {part}")
    decoder = None
    scores_objects = settings.monitor in OF_OBJECTS  # only then: this takes time
    if settings.instances is not None and scores_objects:
        decoder = partial(
            decode, settings.instances, mode=mode, gap=target.gap, min_size=settings.min_size
        )
    teacher = None
    if settings.teacher is not None and not end:
        teacher = Teacher(
            settings.teacher,
            card,
            settings.data.crop_size,
            settings.teacher_weight,
            settings.teacher_temperature,
            settings.teacher_features,
        )
    pseudo, unlabeled = None, None
    if settings.data.unlabeled is not None:
        root = settings.data.unlabeled
        unlabeled = UnlabeledImages(root, card.normalization, card.is_upright)
        console.print(f"unlabeled: {len(unlabeled.samples)} images of {root}")
    if unlabeled is not None or settings.pseudo:
        if not target.from_ids and outputs > GUESS["uint8"]:
            raise SegkitError(
                f"{outputs} classes leave no mark for pixels without a label: pseudo-labels need at"
                f" most {GUESS['uint8']}."
            )
        weight = settings.pseudo_weight
        pseudo = PseudoLabels(settings.pseudo_threshold, weight, settings.pseudo)
    module = SegmentationModule(
        model,
        card,
        Loss.build(settings.loss.name, mode=mode, **settings.loss.options),
        Optimizer.build(settings.optimizer.name, **settings.optimizer.options),
        Schedule.build(settings.scheduler.name, **settings.scheduler.options),
        settings.auxiliary,
        settings.trainer,
        settings.monitor,
        decoder,
        settings.augment.mixup,
        settings.data.sampling == "hard",
        teacher,
        pseudo,
    )
    transform = _build_transform(settings, model, card.background)
    dtype = np.uint8 if card.normalization.dtype == "uint8" else np.float32
    with _explain_memory(f"crops of data.crop_size={list(settings.data.crop_size)}"):
        unfit = transform.find_unsuitable(summary.in_channels, dtype)
    if unfit:
        raise all_at_once("the augmentation does not fit the images:", unfit)
    data = SegmentationData(
        source,
        summary,
        card.normalization,
        transform,
        target,
        settings.data,
        settings.seed,
        scores_objects,
        build_mixes(settings.augment.mixes),
        unlabeled,
    )
    loggers = Loggers(settings, folder)
    learned = [*summary.splits["train"], *([] if unlabeled is None else unlabeled.samples)]
    trainer = make_trainer(settings, folder, [sample.name for sample in learned], loggers)
    if trainer.world_size > 1:
        for parameter in find_unused(model):  # whose gradients the other processes would wait for
            parameter.requires_grad = False
    parameters = sum(p.numel() for p in model.parameters())
    console.print(
        f"{settings.encoder.name} + {settings.neck.name} + {settings.head.name}:"
        f" {parameters:,} parameters, on {trainer.strategy.root_device} in {trainer.precision}, to"
        f" {folder}"
    )
    if trainer.is_global_zero:
        plain = OmegaConf.create(settings.to_plain())
        write_whole(folder / "config.yaml", OmegaConf.to_yaml(plain))
        if choices:
            write_csv(folder / "plan.csv", [choice.as_row() for choice in choices])
        if taken:
            write_csv(folder / "init.csv", [part.as_row() for part in taken])
        device = str(trainer.strategy.root_device)
        write_environment(folder, card, settings, device, trainer.precision, notes)
    if end:
        console.print("the training is done; its scores are not, they follow")
    else:
        fit(trainer, module, data, folder, console, resume=settings.resume is not None)
    if trainer.world_size > 1:  # the first process scores and writes alone
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if not trainer.is_global_zero:
            sys.exit()

    try:
        return conclude(settings, folder, data, parameters, notes, console, loggers)
    except SegkitError as error:
        raise SegkitError(
            f"{error} The training itself is done, its checkpoints are in"
            f" {folder / 'checkpoints'}: python -m segkit.evaluate checkpoint=PATH scores one."
        ) from error
    finally:
        loggers.close("failed")  # if it has not been finished


def _print_data(console: Console, settings: TrainConfig, summary: DataSummary) -> None:
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in summary.splits.items())
    shares = ", ".join(
        f"{name} {share:.1%}"
        for name, share in zip(summary.class_names, summary.class_share, strict=False)
    )
    channels = "1 channel" if summary.in_channels == 1 else f"{summary.in_channels} channels"
    console.print(
        f"{settings.data.name}: {counts}; {channels}, {summary.normalization.dtype}; {shares}"
    )
    for note in summary.notes:
        console.print(f"  note: {note}")


def _describe_mirrors(settings: TrainConfig, summary: DataSummary) -> list[str]:
    """A warning if augmentation mirrors images whose classes differ by their side."""
    side = summary.measures.sides.get("left of")
    mirrors = sorted({str(t.get("name")) for t in settings.augment.transforms} & MIRRORS)
    if side is None or not mirrors:
        return []
    return [
        f"{side} in nearly all images, and {mirrors[0]} mirrors them, so that only their looks tell"
        " these classes apart: augment=oriented mirrors nothing."
    ]


@contextmanager
def _explain_memory(what: str) -> Iterator[None]:
    """Raise a SegkitError if the memory is not enough for something."""
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        if not is_out_of_memory(error):
            raise
        raise SegkitError(
            f"the memory is not enough for {what}: choose something smaller."
        ) from error


def _build_model(
    settings: TrainConfig, summary: DataSummary, num_classes: int
) -> tuple[Segmenter, list[str]]:
    """Build the network; also return notes on its pretrained weights."""
    encoder = settings.encoder.as_dict()
    if settings.init is not None and encoder.get("pretrained") == "auto":
        encoder["pretrained"] = False  # those of the checkpoint come
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PretrainedWarning)
        model = create_model(
            encoder,
            settings.neck.as_dict(),
            {k: v for k, v in settings.head.as_dict().items() if k != "num_classes"},
            num_classes=num_classes,
            in_channels=summary.in_channels,
            auxiliary=len(settings.auxiliary),
            img_size=max(settings.data.crop_size),
        )
    notes = []
    for w in caught:
        if issubclass(w.category, PretrainedWarning):
            notes.append(str(w.message))
        else:
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    return model, notes


def _build_transform(
    settings: TrainConfig, model: Segmenter, background: int | None
) -> TrainTransform:
    crop, context = settings.data.crop_size, 0
    if model.encoder.padding == "valid":
        depth = len(model.encoder.strides)
        inputs = [valid_input(side, depth) for side in crop]
        outputs = [valid_output(side, depth) or 0 for side in inputs]
        crop, context = (outputs[0], outputs[1]), (inputs[0] - outputs[0]) // 2
    share = settings.data.foreground_share
    transforms, guesses = settings.augment.transforms, settings.pseudo
    return TrainTransform(crop, transforms, context, share, background, guesses)
