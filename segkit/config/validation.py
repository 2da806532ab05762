"""Check a config: every problem at once, and whether the parts fit each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segkit.config.compose import resolve_values
from segkit.config.declarations import WIRED
from segkit.config.openings import OPENINGS, fill_class_weights, fill_in, find_open_keys
from segkit.config.schema import OF_OBJECTS, Data, Part, TrainConfig, describe_error
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.labels import Mode
from segkit.core.published import fetch, is_on_hub

QUERIES = "queries"
"""The head, its loss and its decoder."""
_STAND_IN = [1.0, 1.0]
"""Class weights until the data are known, of the number that the binary head takes."""


def validate(config: Any) -> TrainConfig:
    """Check a composed config: keys, types, names, options, and whether the parts fit each other.

    Args:
        config: What Hydra composed, or a mapping. Values that are left to the planner are listed in
            ``open_keys`` of the result.

    Raises:
        SegkitError: Every problem, with its key, its value and what is allowed.
    """
    values = resolve_values(config)
    open_keys = find_open_keys(values)
    stand_ins = OPENINGS | {"loss": QUERIES if _takes_queries(values) else OPENINGS["loss"]}
    fill_in(values, {key: stand_ins[key] for key in open_keys})
    problems: list[str] = []
    checked: TrainConfig | None = None
    try:
        checked = TrainConfig.model_validate(values)
    except ValidationError as error:
        problems += [describe_error(detail, TrainConfig) for detail in error.errors()]
    problems += _check_parts(values)
    problems += _check_loss(values)
    if checked is not None:
        problems += _check_fit(checked)
    if problems or checked is None:
        raise all_at_once("the config cannot be used:", problems)
    _fill_defaults(checked)
    checked._open_keys = tuple(open_keys)
    return checked


def _takes_queries(config: dict[str, Any]) -> bool:
    head = config.get("head")
    return isinstance(head, dict) and head.get("name") == QUERIES


def _fill_defaults(config: TrainConfig) -> None:
    """Add the options that a config leaves to the constructors, so that a run records them."""
    from segkit.core.registry import read_defaults

    for key, family in families().items():
        part: Part = getattr(config, key)
        member, _ = family.resolve(part.name, {})
        for option, default in read_defaults(member).items():
            if option not in WIRED.get(key, ()) and part.model_extra is not None:
                part.model_extra.setdefault(option, default)


def families() -> dict[str, type[Any]]:
    """The families of parts by their key in the config."""
    from segkit.data.sources.base import DataSource
    from segkit.losses.base import Loss
    from segkit.models.encoders import Encoder
    from segkit.models.heads import Head
    from segkit.models.necks import Neck
    from segkit.optim.optimizers import Optimizer
    from segkit.optim.schedules import Schedule
    from segkit.targets.base import Target

    return {
        "encoder": Encoder,
        "neck": Neck,
        "head": Head,
        "loss": Loss,
        "data": DataSource,
        "optimizer": Optimizer,
        "scheduler": Schedule,
        "target": Target,
    }


def _check_parts(config: dict[str, Any]) -> list[str]:
    """Check the names and options of the parts against the registries."""
    from segkit.core.registry import check_options
    from segkit.data.augment import check_augment

    problems = []
    for key, family in families().items():
        part = config.get(key) if key != "loss" else None  # depends on the head, see _check_loss
        if not isinstance(part, dict) or not isinstance(part.get("name"), str):
            continue  # the schema reports it
        own = set(Data.model_fields) if key == "data" else {"name"}
        options = {k: v for k, v in part.items() if k not in own}
        try:
            member, options = family.resolve(part["name"], options)
        except SegkitError as error:
            problems.append(f"{key}.name: {error}")
            continue
        filled = WIRED.get(key, set())
        options = {k: v for k, v in options.items() if k not in filled or v is not None}
        problems += [
            f"{key}.{k} cannot be chosen: it follows from the data and the other parts"
            for k in sorted(filled & options.keys())
            if (key, k) != ("head", "num_classes")
        ]
        problems += [f"{key}: {problem}" for problem in check_options(member, options, filled)[1]]
    encoder = config.get("encoder")
    weights = encoder.get("pretrained") if isinstance(encoder, dict) else None
    if isinstance(weights, str) and weights != "auto" and not Path(weights).is_file():
        problems.append(
            f"encoder.pretrained={weights!r}: there is no such file. Give true, false, auto or the"
            " path of a file"
        )
    init, trainer = config.get("init"), config.get("trainer")
    if init is not None and config.get("resume") is None:
        problems += _check_init(str(init))
        if isinstance(trainer, dict) and trainer.get("save_frozen") is False:
            problems.append(
                "trainer.save_frozen=false with init, whose weights are found in no cache: leave"
                " one of them out"
            )
    augment = config.get("augment")
    if isinstance(augment, dict) and isinstance(augment.get("transforms"), list):
        problems += check_augment([t for t in augment["transforms"] if isinstance(t, dict)])
    return problems


def _check_init(path: str) -> list[str]:
    """Check that there is a checkpoint to start from; a model of the hub is downloaded now."""
    if not is_on_hub(path):
        missing = f"init={path!r}: there is no such file. Give the best.ckpt of a run"
        return [] if Path(path).is_file() else [missing]
    try:
        fetch(path)
    except SegkitError as error:
        return [f"init: {str(error).removesuffix('.')}"]
    return []


def _check_loss(config: dict[str, Any]) -> list[str]:
    """Check that the loss can be built for the mode of the head."""
    from segkit.losses.base import Loss
    from segkit.models.heads import Head

    loss, head = config.get("loss"), config.get("head")
    if not isinstance(loss, dict) or not isinstance(head, dict) or "name" not in loss:
        return []  # the schema reports it
    try:
        mode = Head.resolve(str(head.get("name")), {})[0].mode
    except SegkitError:
        return []  # reported with the head
    options, _ = fill_class_weights({k: v for k, v in loss.items() if k != "name"}, _STAND_IN)
    wired = sorted(WIRED["loss"] & set(options))
    if wired:
        return [
            f"loss: {' and '.join(wired)} cannot be chosen: it is the same for loss, metrics, data"
        ]
    try:
        Loss.build(str(loss["name"]), mode=mode, **options)
    except SegkitError as error:
        return [f"loss: {error}"]
    return []


def _check_fit(config: TrainConfig) -> list[str]:
    """Find parts that are valid alone but not together."""
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
        options, open_weights = fill_class_weights(config.loss.options, _STAND_IN)
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
