"""Scoring a model on whole images, with intervals and the scores of each image."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX
from segkit.data.loading.dataset import Truth, WholeDataset
from segkit.inference.predictor import Prediction, Predictor
from segkit.metrics.bootstrap import Interval, intervals, score_intervals
from segkit.metrics.borders import border_counts, border_scores
from segkit.metrics.boundary import boundary_counts, boundary_scores
from segkit.metrics.confusion import ConfusionMatrix
from segkit.metrics.instances import instance_scores, object_counts
from segkit.metrics.scores import Scores, class_counts, scores
from segkit.metrics.thresholds import ThresholdCounts, ThresholdSweep, threshold_sweep

NUMBERS = ("objects", "predicted_objects", "hd95_missed")
"""Entries that are counts, not scores."""
Sums = NDArray[np.float64]
Means = Mapping[str, NDArray[np.float64]]


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
        means: Scores over all images by name: means over classes, and those of objects, boundaries
            and membranes if requested.
        intervals: 95 % bootstrap intervals over images, of ``means`` and classes (``iou/road``).
        images: Scores of each image, worst first: by SEG if objects are separated, else by IoU.
        thresholds: Scores at other thresholds, if the head has one.
    """

    scores: Scores
    confusion: Tensor
    means: dict[str, float]
    intervals: dict[str, Interval]
    images: list[ImageScores]
    thresholds: ThresholdSweep | None

    def rows(self) -> list[dict[str, str | float]]:
        """Return ``means`` with their intervals as a table; counts have none."""
        rows: list[dict[str, str | float]] = []
        for name, value in self.means.items():
            if name in NUMBERS:
                rows.append({"score": name, "value": int(value)})
            else:
                bounds = self.intervals[name]
                rows.append({"score": name, "value": value, "low": bounds.low, "high": bounds.high})
        return rows


def evaluate(
    predictor: Predictor,
    dataset: WholeDataset,
    order: Iterable[int],
    metrics: Collection[str] = (),
    see: Callable[[str, NDArray[Any]], None] | None = None,
) -> Evaluation:
    """Predict samples and compare them with their masks.

    Args:
        predictor: The model; if it separates objects, they are scored too.
        dataset: The samples, with ids of objects if objects or membranes are scored.
        order: Indices of the samples to score.
        metrics: Further scores: ``boundary``, ``membranes``.
        see: Called with name and pixels of each image.

    Raises:
        SegkitError: The metrics do not fit the model.
    """
    card, names = predictor.card, predictor.card.class_names
    wanted = _wanted(predictor, metrics)
    sweep = None if card.mode == "multiclass" else ThresholdCounts(card.mode, card.num_classes)
    confusion = ConfusionMatrix(card.mode, card.num_classes)
    classes: list[NDArray[np.int64]] = []
    counted: dict[str, list[Sums]] = {name: [] for name in wanted}
    images = []
    for index, prediction in _predictions(predictor, dataset, order, see):
        truth = dataset.truth(index)
        one = ConfusionMatrix(card.mode, card.num_classes)
        one.update(torch.from_numpy(prediction.labels)[None].long(), truth["target"][None])
        matrix = one.compute()
        confusion.matrix = confusion.matrix + matrix
        if sweep is not None:
            sweep.update(torch.from_numpy(prediction.probabilities)[None], truth["target"][None])
        classes.append(class_counts(matrix, card.mode))
        own = dict(scores(matrix, card.mode, names).mean)
        for name, (count, score) in wanted.items():
            counts = count(truth, prediction)
            counted[name].append(counts)
            own |= {key: float(value) for key, value in score(counts).items()}
        images.append(ImageScores(index, own))
    total = scores(confusion.matrix, card.mode, names)
    means = dict(total.mean)
    known = score_intervals(np.stack(classes), card.mode, total.class_names)
    for name, (_, score) in wanted.items():
        stacked = np.stack(counted[name])
        means |= {key: float(value) for key, value in score(stacked.sum(0)).items()}
        known |= intervals(stacked, score)
    first = "iou" if predictor.instances is None else "seg"
    images.sort(key=lambda image: (np.isnan(image.scores[first]), image.scores[first]))
    swept = None if sweep is None else threshold_sweep(sweep, names)
    return Evaluation(total, confusion.matrix, means, known, images, swept)


def _predictions(
    predictor: Predictor,
    dataset: WholeDataset,
    order: Iterable[int],
    see: Callable[[str, NDArray[Any]], None] | None,
) -> Iterator[tuple[int, Prediction]]:
    """Predict samples one after another."""
    asked: deque[int] = deque()

    def images() -> Iterator[NDArray[Any]]:
        for index in order:
            asked.append(index)
            sample = dataset.samples[index]
            image = dataset.source.read_image(sample)
            if see is not None:
                see(sample.name, image)
            yield image

    for result in predictor.try_stream(images()):
        index = asked.popleft()
        if isinstance(result, SegkitError):
            raise SegkitError(f"{dataset.samples[index].name}: {result}")
        yield index, result


Count = Callable[[Truth, Prediction], Sums]


def _wanted(
    predictor: Predictor, metrics: Collection[str]
) -> dict[str, tuple[Count, Callable[[Sums], Means]]]:
    """Choose counts per image besides pixels, each with the scores of their sums."""
    card = predictor.card

    def boundary(truth: Truth, found: Prediction) -> Sums:
        target = truth["target"].numpy()
        return boundary_counts(found.labels, target, card.mode, card.num_classes)

    def membranes(truth: Truth, found: Prediction) -> Sums:
        # the probability of the last class: that of being inside a cell
        return border_counts(truth["ids"].numpy(), found.probabilities[-1])

    def objects(truth: Truth, found: Prediction) -> Sums:
        assert found.instances is not None
        markers = truth["markers"].numpy() if "markers" in truth else None
        return object_counts(truth["ids"].numpy(), found.instances, markers, IGNORE_INDEX)

    wanted: dict[str, tuple[Count, Callable[[Sums], Means]]] = {}
    if predictor.instances is not None:
        wanted["objects"] = objects, instance_scores
    if "boundary" in metrics:
        wanted["boundary"] = boundary, lambda sums: boundary_scores(sums).mean
    if "membranes" in metrics:
        if card.mode == "multilabel" or card.num_classes != 2:
            raise SegkitError(
                "metrics=[membranes] scores cells against the membranes between them: it needs a"
                f" model of two classes, not head={card.head['name']} of {card.num_classes}."
            )
        wanted["membranes"] = membranes, border_scores
    return wanted
