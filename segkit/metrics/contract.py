"""Checks that a metric of a plugin keeps the contract, before a training ends in its error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from segkit.core.errors import SegkitError
from segkit.metrics.base import Metric, ScoredImage
from segkit.metrics.confusion import ConfusionMatrix, score_matrix

SIDE = 8
"""Height and width of the image without objects that the metric counts."""


def check_metric(metric: Metric) -> None:
    """Count an image and score sums with a metric from outside segkit, whose own are tested.

    Raises:
        SegkitError: It fails, its counts do not add up to scores, or a name of a score is taken.
    """
    if type(metric).__module__.startswith("segkit."):
        return
    who = f"metric '{metric.name}' ({type(metric).__qualname__})"
    with _naming(f"{who} fails in count()"):
        counts = np.asarray(metric.count(_make_empty_image(metric)))
    if counts.ndim == 0 or counts.dtype == object:
        raise SegkitError(
            f"{who}: count() must return an array of numbers (K,), of one shape for all images."
        )
    sums = np.arange(1.0, 1 + 2 * counts.size).reshape(2, *counts.shape)
    with _naming(f"{who} fails in score()"):
        one, many = metric.score(sums[0]), metric.score(sums)
        of_classes = metric.score_classes(sums)
    if not isinstance(one, Mapping) or not isinstance(many, Mapping):
        raise SegkitError(f"{who}: score() returns a {type(one).__name__}, not scores by name.")
    for name, value in one.items():
        found = np.asarray(many.get(name, 0))
        if np.shape(value) != () or found.shape != (2,) or not _is_close(value, found[0]):
            raise SegkitError(
                f"{who}: score() of one set of sums (K,) and of two (2, K) do not agree for"
                f" '{name}': index the last axis, as in sums[..., 0]."
            )
    reported = 1 if metric.mode == "binary" else metric.num_classes
    for name, value in of_classes.items():
        if np.shape(value) != (2, reported) or name not in one:
            raise SegkitError(
                f"{who}: score_classes() of two sums must give '{name}' the shape (2, {reported}),"
                f" one score per reported class, not {np.shape(value)}, and score() its mean."
            )
    names = tuple(f"class {i}" for i in range(metric.num_classes))
    matrix = ConfusionMatrix(metric.mode, metric.num_classes).matrix
    taken = sorted(one.keys() & score_matrix(matrix, metric.mode, names).mean.keys())
    if taken:
        raise SegkitError(
            f"{who} names a score {' and '.join(taken)}, as segkit does: name it otherwise."
        )


@contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        with np.errstate(all="ignore"):
            yield
    except Exception as error:  # a plugin may do anything
        raise SegkitError(
            f"{what}: {error!r}. Correct it; SEGKIT_DEBUG=1 shows the trace."
        ) from error


def _make_empty_image(metric: Metric) -> ScoredImage:
    plane = np.zeros((SIDE, SIDE), np.int32)
    layers = np.zeros((metric.num_classes, SIDE, SIDE), np.float32)
    labels = layers if metric.mode == "multilabel" else plane
    return ScoredImage(
        target=labels.astype(np.int64),
        labels=labels.astype(np.uint8),
        probabilities=layers[:1] if metric.mode == "binary" else layers,
        ids=plane,
        instances=plane,
    )


def _is_close(value: Any, other: Any) -> bool:
    return bool(np.isclose(value, other, equal_nan=True))
