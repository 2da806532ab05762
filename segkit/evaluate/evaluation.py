"""Scoring a model on whole images, with intervals and the scores of each image."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.core.errors import SegkitError, join_names
from segkit.data.layout.blocks import take_part
from segkit.data.loading import WholeDataset
from segkit.data.sources.base import Sample
from segkit.images.reading import ImageReader
from segkit.inference.background import THREADS, map_ahead
from segkit.inference.bit_depth import Extremes
from segkit.inference.predictor import Prediction, Predictor
from segkit.metrics.base import Metric, ScoredImage, build_metrics
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
        of_classes: Scores of the reported classes besides those of ``scores``, by name, (C,).
        sums: What each metric counted in all images, by its name.
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
    of_classes: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    totals: frozenset[str] = frozenset()
    kept: dict[int, Prediction] = field(default_factory=dict)

    def class_rows(self) -> list[dict[str, str | int | float]]:
        """Return the scores of each class as a table, and a last row of their means."""
        rows = self.scores.rows()
        for name, values in self.of_classes.items():
            for row, value in zip(rows, [*values.tolist(), self.means[name]], strict=True):
                row[name] = value
        return rows

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


@dataclass(frozen=True)
class ImageCounts:
    """What is counted of one image: pixels by class, and what each metric counts."""

    index: int
    scores: dict[str, float]
    classes: NDArray[np.int64]
    of_metrics: list[NDArray[np.float64]]


@dataclass
class Counts:
    """What is counted of samples; that of several processes adds up.

    Attributes:
        confusion: The confusion matrix.
        sweep: Counts at other thresholds, if the head has one.
        kept: Score, index and prediction of the worst and the best; see :class:`Evaluation`.
    """

    confusion: Tensor
    sweep: ThresholdCounts | None
    images: list[ImageCounts] = field(default_factory=list)
    kept: list[tuple[float, int, Prediction]] = field(default_factory=list)


def evaluate(
    predictor: Predictor,
    dataset: WholeDataset,
    order: Iterable[int],
    metrics: Sequence[Metric] = (),
) -> Evaluation:
    """Predict samples and compare them with their masks; see :func:`count_samples`."""
    return summarize(predictor, metrics, [count_samples(predictor, dataset, order, metrics)])


def count_samples(
    predictor: Predictor,
    dataset: WholeDataset,
    order: Iterable[int],
    metrics: Sequence[Metric],
    keep: Callable[[int, Prediction], None] | None = None,
) -> Counts:
    """Predict samples and count where they agree with their masks.

    Args:
        dataset: The samples, with ids of objects if a metric needs them.
        order: Indices of the samples to score.
        metrics: Scores besides those of the confusion matrix; see :func:`make_metrics`.
        keep: Is given each index and its prediction; then no image is predicted by parts.

    Raises:
        SegkitError: An image cannot be predicted, or a metric does not fit it.
    """
    card, names = predictor.card, predictor.card.class_names
    sweep = None if card.mode == "multiclass" else ThresholdCounts(card.mode, card.num_classes)
    counts = Counts(ConfusionMatrix(card.mode, card.num_classes).matrix, sweep)
    first, kept = _name_score(predictor), counts.kept
    # Objects and other metrics need whole maps.
    has_parts = predictor.instances is None and not metrics and not dataset.target.from_ids
    has_parts = has_parts and keep is None
    has_maps = sweep is not None or bool(metrics)
    for index, prediction in _predictions(predictor, dataset, order, has_parts, has_maps):
        one = ConfusionMatrix(card.mode, card.num_classes)
        found: list[NDArray[np.float64]] = []
        if prediction is None:
            _count_parts(predictor, dataset, index, one, sweep)
        else:
            if keep is not None:
                keep(index, prediction)
            truth = dataset.truth(index)
            one.update(torch.from_numpy(prediction.labels)[None].long(), truth["target"][None])
            if sweep is not None:
                maps = torch.from_numpy(prediction.probabilities)[None]
                sweep.update(maps, truth["target"][None])
            if metrics:
                sample, size = dataset.samples[index], None
                if any(metric.needs_pixel_size for metric in metrics):
                    size = read_pixel_size(sample, card.is_upright)
                image = ScoredImage(
                    truth["target"].numpy(),
                    prediction.labels,
                    prediction.probabilities,
                    truth["ids"].numpy() if "ids" in truth else None,
                    truth["markers"].numpy() if "markers" in truth else None,
                    prediction.instances,
                    size,
                )
                found = [metric.count(image) for metric in metrics]
        matrix = one.matrix  # compute() would ask the other processes
        counts.confusion = counts.confusion + matrix
        own = dict(score_matrix(matrix, card.mode, names).mean)
        for metric, counted in zip(metrics, found, strict=True):
            own |= {key: float(value) for key, value in metric.score(counted).items()}
        counts.images.append(ImageCounts(index, own, count_classes(matrix, card.mode), found))
        if prediction is not None and not np.isnan(own[first]):
            kept.append((own[first], index, replace(prediction, maps=None)))
            keep_extremes(kept)
    return counts


def keep_extremes(kept: list[tuple[float, int, Prediction]]) -> None:
    """Leave the worst and the best predictions, in place."""
    kept.sort(key=lambda entry: entry[0])
    del kept[KEPT:-KEPT]


def merge(parts: Sequence[Counts]) -> Counts:
    """What was counted of different samples, put together."""
    first, *others = parts
    for part in others:
        first.confusion = first.confusion + part.confusion
        if first.sweep is not None and part.sweep is not None:
            first.sweep.histogram = first.sweep.histogram + part.sweep.histogram
        first.images += part.images
        first.kept += part.kept
        keep_extremes(first.kept)
    return first


def summarize(
    predictor: Predictor, metrics: Sequence[Metric], counts: Sequence[Counts]
) -> Evaluation:
    """Score what one process or several have counted; of several, the first one's are kept."""
    card, names = predictor.card, predictor.card.class_names
    confusion = torch.stack([part.confusion for part in counts]).sum(0)
    counted = sorted((image for part in counts for image in part.images), key=lambda i: i.index)
    total = score_matrix(confusion, card.mode, names)
    means = dict(total.mean)
    score = partial(score_counts, mode=card.mode, class_names=total.class_names)
    known = estimate_intervals(np.stack([image.classes for image in counted]), score)
    of_classes: dict[str, NDArray[np.float64]] = {}
    sums: dict[str, NDArray[np.float64]] = {}
    for number, metric in enumerate(metrics):
        stacked = np.stack([image.of_metrics[number] for image in counted])
        sums[metric.name] = stacked.sum(0)
        means |= {key: float(value) for key, value in metric.score(sums[metric.name]).items()}
        of_classes |= metric.score_classes(sums[metric.name])
        known |= estimate_intervals(stacked, partial(_score_all, metric, total.class_names))
    images = [ImageScores(image.index, image.scores) for image in counted]
    first = _name_score(predictor)
    images.sort(key=lambda image: (np.isnan(image.scores[first]), image.scores[first]))
    sweeps, swept = [part.sweep for part in counts if part.sweep is not None], None
    if sweeps:
        sweeps[0].histogram = torch.stack([sweep.histogram for sweep in sweeps]).sum(0)
        swept = sweep_thresholds(sweeps[0], names)
    totals = frozenset(name for metric in metrics for name in metric.totals)
    predictions = {index: prediction for _, index, prediction in counts[0].kept}
    return Evaluation(
        total, confusion, means, known, images, swept, of_classes, sums, totals, predictions
    )


def _score_all(
    metric: Metric, class_names: Sequence[str], sums: NDArray[np.float64]
) -> Mapping[str, NDArray[np.float64]]:
    """The scores of a metric, and those of the classes as ``surface_dice/road``."""
    named = {
        f"{name}/{label}": values[..., c]
        for name, values in metric.score_classes(sums).items()
        for c, label in enumerate(class_names)
    }
    return {**metric.score(sums), **named}


def read_pixel_size(sample: Sample, upright: bool = True) -> tuple[float, float] | None:
    """Height and width in micrometres of the pixels of a sample; None if its file tells neither."""
    if sample.image is None:
        return None
    with ImageReader(sample.image, upright) as reader:
        place = reader.read_place(sample.page)
    return None if place is None else place.pixel_size


def require_pixel_sizes(metrics: Iterable[Metric], samples: Sequence[Sample]) -> None:
    """Raise SegkitError if a metric needs sizes of pixels that the files of samples do not tell."""
    needing = [metric.name for metric in metrics if metric.needs_pixel_size]
    unknown = [s.name for s in samples if needing and read_pixel_size(s) is None]
    if unknown:
        raise SegkitError(
            f"metrics=[{', '.join(needing)}] needs the size of the pixels, which {len(unknown)} of"
            f" {len(samples)} images do not tell: {join_names(unknown)}. Measure in pixels, unit:"
            " px."
        )


def _name_score(predictor: Predictor) -> str:
    """The score by which images are sorted."""
    return "iou" if predictor.instances is None else "seg"


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
            yield from predict_samples(predictor, dataset, group, has_maps)


def predict_samples(
    predictor: Predictor, dataset: WholeDataset, order: Iterable[int], has_maps: bool
) -> Iterator[tuple[int, Prediction]]:
    """Predict whole samples one after another, with their probabilities if ``has_maps``."""
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


def make_metrics(wanted: Iterable[str | Mapping[str, Any]], predictor: Predictor) -> list[Metric]:
    """Build the requested metrics, and that of objects if the model separates them.

    Raises:
        SegkitError: A metric is unknown or does not fit the model.
    """
    card = predictor.card
    objects = ["objects"] if predictor.instances else []
    return build_metrics([*objects, *wanted], card.mode, card.num_classes)
