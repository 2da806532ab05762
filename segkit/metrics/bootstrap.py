"""How far a score could have been otherwise with other images: bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.metrics.scores import Counts, class_scores, mean_scores, reported

SAMPLES = 1000
LEVEL = 0.95

_WEIGHTS_AT_ONCE = 10_000_000  # 80 MB


@dataclass(frozen=True)
class Interval:
    """Where a score lies with a given confidence; NaN where there is no interval."""

    low: float
    high: float


def interval(
    statistics: NDArray[Any],
    score: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """The interval of one score; see :func:`intervals`.

    Args:
        statistics: (images, ...).
        score: From sums (samples, ...) to a score of each, (samples,).
        samples: How often images are drawn.
        level: The confidence.
        seed: Of the draws.

    Example:
        >>> right, pixels = [90, 80, 95, 60], [100, 100, 100, 100]
        >>> interval(np.stack([right, pixels], 1), lambda sums: sums[:, 0] / sums[:, 1])
        Interval(low=0.6875, high=0.925)
    """
    return intervals(statistics, lambda sums: {"": score(sums)}, samples, level, seed)[""]


def intervals(
    statistics: NDArray[Any],
    scores: Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]],
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of scores that are made from sums over images.

    As many images as there are are drawn with replacement, their statistics summed, the score taken
    of the sum; the interval holds the middle ``level`` of the scores of all such samples (Efron and
    Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13).

    The images are taken as independent of each other. Slices of one volume, tiles of one slide and
    frames of one video are not, and their interval comes out too narrow: sum their statistics
    first, and give one row for each volume, slide or video.

    Samples in which a score has no value (NaN), say without the one image of a rare class, are left
    out. A single image tells nothing of others: it has no interval. That of few images is rather
    too narrow than too wide: with 10 of them, one of 95 % holds the truth in about 90 % of cases.

    Args:
        statistics: (images, ...): of each image what is summed, such as counts.
        scores: From sums (samples, ...) in float64 to the scores of each, (samples,) by name.
        samples: How often images are drawn.
        level: The confidence, between 0 and 1.
        seed: Of the draws. The same seed gives the same intervals.

    Raises:
        SegkitError: There is no image, or ``samples`` or ``level`` is out of its range.
    """
    if not len(statistics):
        raise SegkitError("there is no image to draw from: give the statistics of one or more.")
    if samples < 1:
        raise SegkitError(f"samples is {samples}: give how often images are drawn, such as 1000.")
    if not 0 < level < 1:
        raise SegkitError(f"level is {level}: give a confidence between 0 and 1, such as 0.95.")
    drawn = [dict(scores(sums)) for sums in _sums(statistics, samples, seed)]
    tails = [(1 - level) / 2, (1 + level) / 2]
    found = {}
    for name in drawn[0]:
        values = np.concatenate([part[name] for part in drawn])  # (samples,)
        values = values[~np.isnan(values)]
        if len(statistics) < 2 or not len(values):
            found[name] = Interval(np.nan, np.nan)
            continue
        # Without interpolation, which infinite scores do not survive.
        low, high = np.quantile(values, tails, method="inverted_cdf").tolist()
        found[name] = Interval(low, high)
    return found


def score_intervals(
    counts: Counts,
    mode: Mode,
    class_names: Sequence[str],
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """The intervals of all that :class:`segkit.metrics.Scores` tells.

    Args:
        counts: (images, N, 2, 2), what :func:`segkit.metrics.scores.class_counts` makes of the
            confusion matrix of each image.
        mode: The mode in which they were counted.
        class_names: The reported classes, :attr:`segkit.metrics.Scores.class_names`.
        samples: How often images are drawn.
        level: The confidence.
        seed: Of the draws.

    Returns:
        For each key of :attr:`Scores.mean`, such as ``iou``, and of each class, such as
        ``iou/road``.
    """

    def scores(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        named = {
            f"{key}/{name}": values[:, c]
            for key, values in class_scores(reported(sums, mode)).items()
            for c, name in enumerate(class_names)
        }
        return mean_scores(sums, mode) | named

    return intervals(counts, scores, samples, level, seed)


def _sums(statistics: NDArray[Any], samples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """The sums over the images of each sample, (part of samples, ...)."""
    generator = np.random.default_rng(seed)
    images = len(statistics)
    flat = np.asarray(statistics, dtype=np.float64).reshape(images, -1)
    step = max(1, _WEIGHTS_AT_ONCE // images)
    for start in range(0, samples, step):
        count = min(step, samples - start)
        # How often each image is drawn; with it, one product of matrices is all the summing.
        weights = generator.multinomial(images, np.full(images, 1 / images), size=count)
        yield (weights @ flat).reshape(count, *statistics.shape[1:])
