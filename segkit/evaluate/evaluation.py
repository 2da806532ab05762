"""Scoring a model on whole images, with intervals and the scores of each image."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.data.layout.blocks import take_part
from segkit.data.loading import WholeDataset
from segkit.data.sources.base import Sample
from segkit.inference.background import THREADS, map_ahead
from segkit.inference.bit_depth import Extremes
from segkit.inference.predictor import Prediction, Predictor
from segkit.metrics.base import Metric, ScoredImage
from segkit.metrics.bootstrap import Interval, estimate_intervals
from segkit.metrics.confusion import (
    ConfusionMatrix,
    Scores,
    count_classes,
    score_counts,
    score_matrix,
)
from segkit.metrics.thresholds import ThresholdCounts, ThresholdSweep, sweep_thresholds

KEPT = 4
"""Number of the worst and of the best predictions that are kept to be shown."""


@dataclass(frozen=True)
class ImageScores:
    """The scores of one image.

    Attributes:
        index: Its position in the data set.
        scores: Scores by name; NaN if undefined.
    """

    index: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Scores of a data set.

    Attributes:
        scores: Scores of the classes over all images.
        confusion: The confusion matrix.
        means: Scores over all images by name: means over classes, and those of the metrics.
        intervals: 95 % bootstrap intervals over images, of ``means`` and classes (``iou/road``).
        images: Scores of each image, worst first: by SEG if objects are separated, else by IoU.
        thresholds: Scores at other thresholds, if the head has one.
        totals: Entries of ``means`` that are counts and have no interval.
        kept: The worst and the best predictions, without probabilities, by the index of the sample;
            but none of images that were predicted by parts.
    """

    scores: Scores
    confusion: Tensor
    means: dict[str, float]
    intervals: dict[str, Interval]
    images: list[ImageScores]
    thresholds: ThresholdSweep | None
    totals: frozenset[str] = frozenset()
    kept: dict[int, Prediction] = field(default_factory=dict)

    def rows(self) -> list[dict[str, str | float]]:
        """Return ``means`` with their intervals as a table; counts have none."""
        rows: list[dict[str, str | float]] = []
        for name, value in self.means.items():
            if name in self.totals:
                rows.append({"score": name, "value": int(value)})
            else:
                bounds = self.intervals[name]
                rows.append({"score": name, "value": value, "low": bounds.low, "high": bounds.high})
        return rows


def evaluate(
    predictor: Predictor,
    dataset: WholeDataset,
    order: Iterable[int],
    metrics: Sequence[Metric] = (),
) -> Evaluation:
    """Predict samples and compare them with their masks.

    Args:
        dataset: The samples, with ids of objects if a metric needs them.
        order: Indices of the samples to score.
        metrics: Scores besides those of the confusion matrix; see :func:`make_metrics`.

    Raises:
        SegkitError: An image cannot be predicted, or a metric does not fit it.
    """
    card, names = predictor.card, predictor.card.class_names
    sweep = None if card.mode == "multiclass" else ThresholdCounts(card.mode, card.num_classes)
    confusion = ConfusionMatrix(card.mode, card.num_classes)
    classes: list[NDArray[np.int64]] = []
    counted: list[list[NDArray[np.float64]]] = [[] for _ in metrics]
    images = []
    kept: list[tuple[float, int, Prediction]] = []
    first = "iou" if predictor.instances is None else "seg"
    # Objects and other metrics need whole maps.
    has_parts = predictor.instances is None and not metrics and not dataset.target.from_ids

    def count(matrix: Tensor) -> dict[str, float]:
        """Add the counts of an image; return its scores."""
        confusion.matrix = confusion.matrix + matrix
        classes.append(count_classes(matrix, card.mode))
        return dict(score_matrix(matrix, card.mode, names).mean)

    has_maps = sweep is not None or bool(metrics)
    for index, prediction in _predictions(predictor, dataset, order, has_parts, has_maps):
        one = ConfusionMatrix(card.mode, card.num_classes)
        if prediction is None:
            _count_parts(predictor, dataset, index, one, sweep)
            images.append(ImageScores(index, count(one.compute())))
            continue
        truth = dataset.truth(index)
        one.update(torch.from_numpy(prediction.labels)[None].long(), truth["target"][None])
        own = count(one.compute())
        if sweep is not None:
            sweep.update(torch.from_numpy(prediction.probabilities)[None], truth["target"][None])
        for metric, of_images in zip(metrics, counted, strict=True):
            found = metric.count(
                ScoredImage(
                    truth["target"].numpy(),
                    prediction.labels,
                    prediction.probabilities,
                    truth["ids"].numpy() if "ids" in truth else None,
                    truth["markers"].numpy() if "markers" in truth else None,
                    prediction.instances,
                )
            )
            of_images.append(found)
            own |= {key: float(value) for key, value in metric.score(found).items()}
        images.append(ImageScores(index, own))
        if not np.isnan(own[first]):
            kept.append((own[first], index, replace(prediction, maps=None)))
            kept.sort(key=lambda entry: entry[0])
            del kept[KEPT:-KEPT]
    total = score_matrix(confusion.matrix, card.mode, names)
    means = dict(total.mean)
    score = partial(score_counts, mode=card.mode, class_names=total.class_names)
    known = estimate_intervals(np.stack(classes), score)
    for metric, of_images in zip(metrics, counted, strict=True):
        stacked = np.stack(of_images)
        means |= {key: float(value) for key, value in metric.score(stacked.sum(0)).items()}
        known |= estimate_intervals(stacked, metric.score)
    images.sort(key=lambda image: (np.isnan(image.scores[first]), image.scores[first]))
    swept = None if sweep is None else sweep_thresholds(sweep, names)
    totals = frozenset(name for metric in metrics for name in metric.totals)
    predictions = {index: prediction for _, index, prediction in kept}
    return Evaluation(total, confusion.matrix, means, known, images, swept, totals, predictions)


def _predictions(
    predictor: Predictor,
    dataset: WholeDataset,
    order: Iterable[int],
    has_parts: bool,
    has_maps: bool,
) -> Iterator[tuple[int, Prediction | None]]:
    """Predict samples one after another; None for large ones, which are predicted by parts."""

    def goes_by_parts(index: int) -> bool:
        return has_parts and dataset.source.measure_large(dataset.samples[index]) is not None

    for by_parts, group in groupby(order, goes_by_parts):
        if by_parts:
            yield from ((index, None) for index in group)
        else:
            yield from _predict_whole(predictor, dataset, group, has_maps)


def _predict_whole(
    predictor: Predictor, dataset: WholeDataset, order: Iterable[int], has_maps: bool
) -> Iterator[tuple[int, Prediction]]:
    asked: deque[int] = deque()

    def read(index: int) -> NDArray[Any]:
        return dataset.source.read_image(dataset.samples[index])

    def images() -> Iterator[NDArray[Any]]:
        for index, image in map_ahead(read, order, THREADS):
            asked.append(index)
            predictor.watch.check_image(dataset.samples[index].name, image)
            yield image

    for result in predictor.try_stream(images(), probabilities=has_maps):
        index = asked.popleft()
        if isinstance(result, SegkitError):
            raise SegkitError(f"{dataset.samples[index].name}: {result}")
        yield index, result


def _count_parts(
    predictor: Predictor,
    dataset: WholeDataset,
    index: int,
    confusion: ConfusionMatrix,
    sweep: ThresholdCounts | None,
) -> None:
    """Predict a large sample and compare it with its mask, block by block.

    The prediction is that of the whole image; neither it nor the mask is ever in memory whole.
    """
    sample, truth = dataset.samples[index], torch.empty(0)
    parts = _Parts(dataset, sample)
    image = Extremes(parts)

    def compare(top: int, left: int, labels: NDArray[np.uint8]) -> None:
        nonlocal truth
        block = top, left, *labels.shape[-2:]
        truth = dataset.take_part(index, block).truth(0)["target"][None]
        confusion.update(torch.from_numpy(labels)[None].long(), truth)

    def compare_thresholds(top: int, left: int, block: NDArray[np.float32]) -> None:
        assert sweep is not None
        sweep.update(torch.from_numpy(block)[None], truth)  # of the same pixels as the labels

    try:
        predictor.predict_windows(image, compare, compare_thresholds if sweep else None)
    except SegkitError as error:
        raise SegkitError(f"{sample.name}: {error}") from error
    predictor.watch.check_range(sample.name, parts.dtype, image.values)


class _Parts:
    """A large sample that is read by windows."""

    def __init__(self, dataset: WholeDataset, sample: Sample) -> None:
        large = dataset.source.measure_large(sample)
        assert large is not None
        self.shape, self.dtype = large.shape, large.dtype
        self._source, self._sample = dataset.source, sample

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        return self._source.read_image(take_part(self._sample, (top, left, height, width)))


def make_metrics(names: Iterable[str], predictor: Predictor) -> list[Metric]:
    """Build the requested metrics, and that of objects if the model separates them.

    Raises:
        SegkitError: A metric is unknown or does not fit the model.
    """
    card = predictor.card
    wanted = dict.fromkeys([*(["objects"] if predictor.instances else []), *names])
    return [Metric.build(name, mode=card.mode, num_classes=card.num_classes) for name in wanted]
