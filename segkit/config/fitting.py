"""Check whether parts that are valid alone fit each other."""

from __future__ import annotations

from collections.abc import Sequence

from segkit.config.openings import fill_class_weights
from segkit.config.schema import OF_OBJECTS, Data, TrainConfig
from segkit.core.errors import SegkitError
from segkit.core.labels import Mode

QUERIES = "queries"
"""The head, its loss and its decoder."""
STAND_IN = [1.0, 1.0]
"""Class weights until the data are known, of the number that the binary head takes."""


def check_fit(config: TrainConfig, open_keys: Sequence[str]) -> list[str]:
    """List the parts of a config that are valid alone but not together.

    Args:
        config: The config, whose keys and options are right.
        open_keys: The keys that are left to the planner.
    """
    from segkit.models.necks import Neck

    problems = []
    if config.encoder.options.get("padding") == "valid" and config.neck.name != "unet":
        problems.append(
            f"encoder.padding=valid with neck={config.neck.name}: use neck=unet, which can"
            " follow an unpadded encoder"
        )
    neck = Neck.resolve(config.neck.name, {})[0]
    if config.auxiliary and neck.levels is Neck.levels:
        problems.append(
            f"auxiliary={config.auxiliary} with neck={config.neck.name}, which has no other"
            " levels for auxiliary heads: use neck=unet or neck=fpn"
        )
    problems += _check_target(config)
    problems += _check_queries(config)
    problems += _check_mixing(config)
    problems += _check_pseudo_labels(config, open_keys)
    problems += _check_teacher(config)
    if config.trainer.compile is True and config.trainer.recompute:
        problems.append(
            "trainer.recompute=true with trainer.compile=true: a compiled network decides itself"
            " what to recompute; leave one of them out"
        )
    endless = (
        config.trainer.epochs == -1
        and config.trainer.max_steps == -1
        and config.trainer.max_time is None
    )
    if endless and config.trainer.early_stopping is None:
        problems.append(
            "trainer has no end: give max_epochs, max_steps, max_time or early_stopping"
        )
    if endless and config.scheduler.name != "constant":
        problems.append(
            f"scheduler={config.scheduler.name} needs to know the end: give trainer.max_epochs,"
            " trainer.max_steps or trainer.max_time, or use scheduler=constant"
        )
    return problems


def _check_mixing(config: TrainConfig) -> list[str]:
    """Check what is put together from several crops."""
    from segkit.data.mixing.mixes import build_mixes

    problems = []
    for wanted in config.augment.mixes:
        try:
            build_mixes([wanted])
        except SegkitError as error:
            problems.append(f"augment.mixes: {error}")
    if config.augment.mixup is not None and config.data.batch_size == 1:
        problems.append(
            "augment.mixup with data.batch_size=1, where there is no other crop: use a batch of two"
            " or more"
        )
    if config.augment.mixup is not None and config.head.name == QUERIES:
        problems.append(
            "augment.mixup with head=queries, where each object has a mask of its own: leave it out"
        )
    if config.data.sampling == "hard" and config.head.name == QUERIES:
        problems.append(
            "data.sampling=hard with head=queries, whose loss is one of a batch: use"
            " data.sampling=classes"
        )
    if config.data.sampling == "hard" and config.trainer.compile is True:
        problems.append(
            "data.sampling=hard with trainer.compile=true, which sees the loss of each crop:"
            " leave one of them out"
        )
    return problems


def _check_pseudo_labels(config: TrainConfig, open_keys: Sequence[str]) -> list[str]:
    """Check that pixels without labels can be learned from."""
    problems, data = [], config.data
    key = "data.unlabeled" if data.unlabeled is not None else "pseudo=true"
    if data.unlabeled is None and not config.pseudo:
        keys = ("pseudo_threshold", "pseudo_weight")
        changed = [k for k in keys if getattr(config, k) != TrainConfig.model_fields[k].default]
        problems = [f"{k} without data.unlabeled or pseudo=true: give one of them" for k in changed]
    if data.unlabeled is None:
        if data.unlabeled_share != Data.model_fields["unlabeled_share"].default:
            problems.append("data.unlabeled_share without data.unlabeled: give its folder")
        if not config.pseudo:
            return problems
    elif not data.unlabeled.is_dir():
        problems.append(f"data.unlabeled: there is no folder {data.unlabeled.resolve()}")
    elif data.batch_size == 1:
        problems.append(
            "data.unlabeled with data.batch_size=1, which leaves no room for both kinds of images:"
            " use a batch of two or more"
        )
    if config.trainer.ema is None and "trainer.ema" not in open_keys:
        problems.append(f"{key} learns from the average of the weights: add trainer.ema=0.99")
    if config.head.name == QUERIES:
        problems.append(f"{key} with head=queries: use a head of pixels, such as head=multiclass")
    if config.encoder.options.get("padding") == "valid":
        problems.append(f"{key} with encoder.padding=valid: use encoder.padding=same")
    if data.cache == "features":
        problems.append(f"{key} with data.cache=features: leave one of them out")
    if config.trainer.compile is True:
        problems.append(
            f"{key} with trainer.compile=true, whose CUDA graphs hold the gradients: use auto"
        )
    if config.trainer.strategy == "fsdp":
        problems.append(f"{key} with trainer.strategy=fsdp, which has no average: use ddp")
    return problems


def _check_teacher(config: TrainConfig) -> list[str]:
    """Check that there is a teacher where one is described, and that nothing is in its way."""
    fields, problems = TrainConfig.model_fields, []
    if config.teacher is None:
        keys = ("teacher_weight", "teacher_temperature", "teacher_features")
        changed = [key for key in keys if getattr(config, key) != fields[key].default]
        return [f"{key} without a teacher: give teacher=CHECKPOINT" for key in changed]
    if config.trainer.compile is True:
        problems.append(
            "trainer.compile=true with a teacher, which is not compiled: leave one of them out"
        )
    if config.teacher_features and config.data.cache == "features":
        problems.append(
            "teacher_features with data.cache=features, where no encoder runs: leave one of them"
            " out"
        )
    if config.teacher_features and config.trainer.recompute:
        problems.append(
            "teacher_features with trainer.recompute=true, which does not keep the maps: leave one"
            " of them out"
        )
    return problems


def _check_queries(config: TrainConfig) -> list[str]:
    """Check that a head of queries has its loss and target, and that no other part needs it."""
    from segkit.losses.base import Loss
    from segkit.targets.base import Target

    problems, head, target = [], config.head.name, config.target.name
    takes = Loss.resolve(config.loss.name, {})[0].takes_queries
    tells = bool(config.head.options.get("objects"))
    if takes and head != QUERIES:
        problems.append(
            f"loss={config.loss.name} with head={head}, which has no queries: use head=queries, or"
            " another loss"
        )
    if head != QUERIES:
        if config.encoder.options.get("query_blocks"):
            problems.append(
                f"encoder.query_blocks with head={head}, which has no queries: use head=queries, or"
                " encoder.query_blocks=0"
            )
        return problems
    if not takes:
        problems.append(
            f"head=queries with loss={config.loss.name}, which takes logits of pixels: use"
            " loss=queries"
        )
    if config.auxiliary:
        problems.append(
            f"auxiliary={config.auxiliary} with head=queries, whose loss takes what each of its"
            " layers finds already: leave it out"
        )
    if config.encoder.options.get("padding") == "valid":
        problems.append(
            "encoder.padding=valid with head=queries, which look at whole maps: use"
            " encoder.padding=same"
        )
    if config.trainer.recompute and config.encoder.options.get("query_blocks"):
        problems.append(
            "trainer.recompute=true with encoder.query_blocks, whose blocks are not computed again:"
            " leave one of them out"
        )
    unused = [key for key in ("layers", "attention_heads") if config.head.options.get(key)]
    if unused and config.encoder.options.get("query_blocks"):
        problems.append(
            f"head.{' and head.'.join(unused)} with encoder.query_blocks, whose queries go through"
            " blocks of the encoder and no others: leave one of them out"
        )
    if config.trainer.compile is True:
        problems.append(
            "trainer.compile=true with head=queries, whose loss matches on the CPU: leave it out"
        )
    if tells != Target.resolve(target, {})[0].for_queries:
        problems.append(
            f"head.objects={str(tells).lower()} with target={target}: objects are told apart by"
            " head.objects=true with target=objects, and by another decoder with other targets"
        )
    return problems


def _check_target(config: TrainConfig) -> list[str]:
    """Check that head, loss, decoder and metrics fit the target."""
    from segkit.losses.base import Loss
    from segkit.models.heads import Head
    from segkit.targets.base import Target

    try:
        target = Target.build(config.target.name, **config.target.options)
        mode = Head.resolve(config.head.name, {})[0].mode
        options, open_weights = fill_class_weights(config.loss.options, STAND_IN)
        loss = Loss.build(config.loss.name, mode=mode, **options)
    except SegkitError:
        return []  # reported with the part
    name, problems = config.target.name, []
    if target.for_queries and config.head.name != QUERIES:
        problems.append(f"target={name} with head={config.head.name}: use head=queries")
    elif mode not in target.modes:
        problems.append(
            f"target={name} with head={config.head.name}: use"
            f" {' or '.join(f'head={m}' for m in target.modes)}"
        )
    if target.class_names is not None:  # how often its classes occur is not known
        problems += [
            f"loss.{key}=auto with target={name}, which draws classes of its own: give the weights"
            f" of {', '.join(target.class_names)}"
            for key in open_weights
        ]
    classes = config.head.options.get("num_classes")
    if target.num_classes is not None and classes not in (None, target.num_classes):
        problems.append(
            f"head.num_classes={classes} with target={name}, which has {target.num_classes}"
            " classes: leave it null"
        )
    if target.weight_map is not None and not loss.takes_weight:
        problems.append(
            f"target.weight_map with loss={config.loss.name}, which takes no weights of pixels: use"
            " loss=cross_entropy, loss=dice_ce or target.weight_map=null"
        )
    fit = [f"instances={decoder}" for decoder in target.decoders_for(mode)]
    remedy = " or ".join(fit) or "another target"
    if config.instances is not None and f"instances={config.instances}" not in fit:
        problems.append(
            f"instances={config.instances} with target={name} and head={config.head.name}: use"
            f" {remedy}"
        )
    if config.monitor in OF_OBJECTS and config.instances is None:
        problems.append(f"monitor={config.monitor} needs separate objects: give {remedy}")
    if config.min_size and config.instances is None:
        problems.append(
            f"min_size={config.min_size} drops small objects, but objects are not told apart: give"
            f" {remedy}, or leave min_size out"
        )
    problems += _check_folds(config)
    return problems + _check_metrics(config, mode, target.num_classes)


def _check_folds(config: TrainConfig) -> list[str]:
    if config.fold is None:
        alone = {"folds": config.folds != TrainConfig.model_fields["folds"].default}
        alone["data.groups"] = config.data.groups is not None
        return [f"{key} without fold: give the fold, fold=0" for key in alone if alone[key]]
    if config.fold >= config.folds:
        last = config.folds - 1
        return [f"fold={config.fold} of folds={config.folds}: give one from 0 to {last}"]
    return []


def _check_metrics(config: TrainConfig, mode: Mode, num_classes: int | None) -> list[str]:
    """Check the names of the metrics and that they fit the target."""
    from segkit.metrics.base import build_metrics
    from segkit.metrics.contract import check_metric

    problems = []
    for wanted in config.metrics:
        try:
            (metric,) = build_metrics([wanted], mode, num_classes or 2)
            if num_classes or mode != "multiclass":
                check_metric(metric)
        except SegkitError as error:
            problems.append(f"metrics: {error}")
            continue
        name = metric.name
        if metric.needs_labels and config.target.name != "labels":
            problems.append(f"metrics=[{name}] scores the classes of the masks: use target=labels")
        if name == "objects" and config.instances is None:
            problems.append("metrics=[objects] needs separate objects: give instances=DECODER")
    return problems
