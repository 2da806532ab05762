"""Check a config: every problem at once, and whether the parts fit each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segkit.config.compose import resolve_values
from segkit.config.declarations import WIRED
from segkit.config.fitting import QUERIES, STAND_IN, check_fit
from segkit.config.openings import OPENINGS, fill_class_weights, fill_in, find_open_keys
from segkit.config.schema import Data, Part, TrainConfig, describe_error
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.published import fetch, is_on_hub


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
        problems += check_fit(checked, open_keys)
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
        problems += _check_checkpoint("init", str(init))
        if isinstance(trainer, dict) and trainer.get("save_frozen") is False:
            problems.append(
                "trainer.save_frozen=false with init, whose weights are found in no cache: leave"
                " one of them out"
            )
    teacher, augment = config.get("teacher"), config.get("augment")
    if teacher is not None and config.get("resume") is None:
        problems += _check_checkpoint("teacher", str(teacher))
    if isinstance(augment, dict) and isinstance(augment.get("transforms"), list):
        problems += check_augment([t for t in augment["transforms"] if isinstance(t, dict)])
    return problems


def _check_checkpoint(key: str, path: str) -> list[str]:
    """Check that there is a checkpoint to learn from; a model of the hub is downloaded now."""
    if not is_on_hub(path):
        missing = f"{key}={path!r}: there is no such file. Give the best.ckpt of a run"
        return [] if Path(path).is_file() else [missing]
    try:
        fetch(path)
    except SegkitError as error:
        return [f"{key}: {str(error).removesuffix('.')}"]
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
    options, _ = fill_class_weights({k: v for k, v in loss.items() if k != "name"}, STAND_IN)
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
