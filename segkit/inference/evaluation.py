"""A model against the truth of whole images: one confusion matrix, and the scores of each image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.data.dataset import WholeDataset
from segkit.inference.predictor import Predictor
from segkit.metrics.confusion import ConfusionMatrix
from segkit.metrics.scores import Scores, scores


@dataclass(frozen=True)
class Evaluation:
    """Scores of a data set.

    Attributes:
        scores: Those of all images together, from one confusion matrix.
        confusion: The matrix, as ConfusionMatrix gives it.
        images: For each sample its number and its mean IoU (NaN where it has no class), worst
            first.
    """

    scores: Scores
    confusion: Tensor
    images: list[tuple[int, float]]


def evaluate(predictor: Predictor, dataset: WholeDataset, order: Iterable[int]) -> Evaluation:
    """Predict the samples of these numbers and compare them with their masks."""
    head, names = predictor.model.head, predictor.card.class_names
    total = ConfusionMatrix(head.mode, head.num_classes)
    images = []
    for index in order:
        _, labels, target = predict_item(predictor, dataset, index)
        one = ConfusionMatrix(head.mode, head.num_classes)
        truth, decided = torch.from_numpy(target)[None], torch.from_numpy(labels)[None]
        one.update(decided, truth)
        total.update(decided, truth)
        images.append((index, scores(one.compute(), head.mode, names).mean["iou"]))
    matrix = total.compute()
    images.sort(key=lambda item: (np.isnan(item[1]), item[1]))
    return Evaluation(scores(matrix, head.mode, names), matrix, images)


def predict_item(
    predictor: Predictor, dataset: WholeDataset, index: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The normalised image (C, H, W), the decided labels and the true ones of one sample."""
    item = dataset[index]
    with torch.inference_mode():
        x = item["image"][None].to(predictor.device)
        labels = predictor.model.head.decide(predictor.probabilities(x))[0]
    return item["image"].numpy(), labels.cpu().numpy(), item["target"].numpy()
