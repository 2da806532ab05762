"""Open the data set that a command names, with the head that is to learn it."""

from __future__ import annotations

from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from segkit.config.settings import DataSettings, Settings, parse_settings
from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, MODES, Mode
from segkit.core.memory import limit_pixels
from segkit.data.checks.classes import decide_classes
from segkit.data.checks.facts import Facts, scan
from segkit.data.checks.parts import count_values
from segkit.data.checks.summary import list_splits
from segkit.data.sources.base import DataSource, Sample, Split

LOOKED_AT = 64
"""Masks that are read to tell whether there are more than two labels, before all are read."""


class DataSet(NamedTuple):
    """A data set that was read.

    Attributes:
        source: Where it comes from.
        mode: The mode of the head that is to learn it.
        num_classes: What the head says of the number of classes.
        splits: Its samples.
        facts: What was read of them.
    """

    source: DataSource
    mode: Mode
    num_classes: int | None
    splits: dict[Split, list[Sample]]
    facts: list[Facts]


def parse_data_settings(schema: type[Settings], config: DictConfig) -> Settings:
    """Check the config of a command, in which ``root`` is short for ``data.root``.

    Raises:
        SegkitError: Values are missing or wrong.
    """
    root = config.get("root")
    if root is not None:
        if "root" not in config.data:
            raise SegkitError(
                f"root={root}: the data set '{config.data.name}' has no folder. Leave root out, or"
                " use data=folder."
            )
        OmegaConf.update(config, "data.root", root)
    return parse_settings(schema, config)


def open_data_set(settings: DataSettings) -> DataSet:
    """Read every sample of a data set, and choose the head if none is given.

    Raises:
        SegkitError: The samples cannot be listed, or the options are wrong.
    """
    limit_pixels(settings.max_pixels)
    if settings.head is not None:
        if settings.head.name not in MODES:
            raise SegkitError(
                f"head={settings.head.name}: masks are checked for {', '.join(MODES)}, or auto."
                " Give the one that is like it."
            )
        mode: Mode = settings.head.name
        count = settings.head.options.get("num_classes")
        return _read(_build(settings, mode), mode, count)
    try:
        source = _build(settings, "multiclass")
    except SegkitError:  # options that only fit two classes
        return _read(_build(settings, "binary"), "binary", None)
    if _has_two_labels(source):
        found = _read(_build(settings, "binary"), "binary", None)
        if len(_list_labels(found.source, found.facts)) <= 2:
            return found
    return _read(source, "multiclass", None)


def _build(settings: DataSettings, mode: Mode) -> DataSource:
    return DataSource.build(settings.data.name, mode=mode, **settings.data.options)


def _read(source: DataSource, mode: Mode, num_classes: int | None) -> DataSet:
    splits = list_splits(source)
    return DataSet(source, mode, num_classes, splits, scan(source, splits))


def _has_two_labels(source: DataSource) -> bool:
    """Whether some masks, spread over the set, have at most two labels, as a binary head needs."""
    samples = [sample for part in list_splits(source).values() for sample in part]
    facts = []
    for sample in samples[:: -(-len(samples) // LOOKED_AT) or 1]:
        found = Facts(sample, "train")
        try:
            mask = source.read_mask(sample)
            found.mask_shape, found.layers = mask.shape, [count_values(mask)]
        except Exception:  # the check reports what cannot be read
            continue
        facts.append(found)
    return len(_list_labels(source, facts)) <= 2 and len(source.class_names or ()) <= 2


def _list_labels(source: DataSource, facts: list[Facts]) -> set[int]:
    """The labels in masks, without "not labelled"."""
    readable = [each for each in facts if not each.errors]
    classes, _, _ = decide_classes(source, "multiclass", None, readable)
    values = {value for each in readable for value in each.values}
    return {classes.coding.label_of(value) for value in values} - {IGNORE_INDEX}
