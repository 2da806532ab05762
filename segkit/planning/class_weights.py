"""Class weights of the loss that are ``auto``: from how often the classes occur."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console

from segkit.config.openings import fill_class_weights
from segkit.config.schema import TrainConfig
from segkit.core.errors import join_names
from segkit.data.checks.summary import DataSummary


def weigh_classes(settings: TrainConfig, summary: DataSummary, console: Console) -> TrainConfig:
    """Fill in the class weights that the loss of a config leaves ``auto``, and print them once.

    See :func:`choose_class_weights`. The weights become part of the config, so that a resumed run
    keeps them.
    """
    weights = choose_class_weights(summary.train_share)
    options, keys = fill_class_weights(settings.loss.options, weights)
    if not keys:
        return settings
    pairs = zip(summary.class_names, weights, strict=True)
    console.print(
        f"{', '.join(f'loss.{key}' for key in keys)}:"
        f" {', '.join(f'{name} {weight:g}' for name, weight in pairs)}; inverse square roots of the"
        " shares of the training pixels"
    )
    shares = zip(summary.class_names, summary.train_share, strict=True)
    if absent := [name for name, share in shares if not share]:
        console.print(f"  note: the weight of what no training mask has is 1: {join_names(absent)}")
    loss = type(settings.loss)(name=settings.loss.name, **options)
    return settings.model_copy(update={"loss": loss})


def choose_class_weights(shares: Sequence[float]) -> list[float]:
    """The inverse square root of the share of each class, with a mean of 1, to 4 digits.

    The root is between equal weights and inverse shares, which make the loss one of the rarest
    class (Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", 2019, compare
    them). A class without pixels has weight 1, and is not in the mean.

    Example:
        >>> choose_class_weights([0.8, 0.2, 0.0])
        [0.6667, 1.333, 1.0]
    """
    roots = [1 / math.sqrt(share) if share > 0 else None for share in shares]
    known = [root for root in roots if root is not None]
    mean = sum(known) / max(1, len(known))
    return [1.0 if root is None else float(f"{root / mean:.4g}") for root in roots]
