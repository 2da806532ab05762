from __future__ import annotations

import numpy as np
import pytest

from segkit.core.errors import SegkitError
from segkit.metrics.base import Metric
from segkit.metrics.contract import check_metric


def make_metric(count, score):
    class Mine(Metric, name="of_this_test"):
        pass

    Mine.count, Mine.score, Mine.__abstractmethods__ = count, score, frozenset()
    del Metric._members["of_this_test"]
    return Mine


def count_labels(metric, image):
    return np.array([image.labels.sum(), image.target.size], float)


def take_share(metric, sums):
    return {"share": sums[..., 0] / sums[..., 1]}


@pytest.mark.parametrize(
    ("count", "score", "message"),
    [
        (lambda m, image: image.prediction, take_share, r"fails in count\(\): AttributeError"),
        (lambda m, image: 3.0, take_share, r"count\(\) must return an array"),
        (lambda m, image: {"a": 1}, take_share, r"count\(\) must return an array"),
        (count_labels, lambda m, sums: 1 / 0, r"fails in score\(\): ZeroDivisionError"),
        (count_labels, lambda m, sums: 0.5, r"score\(\) returns a float, not scores by name"),
        (count_labels, lambda m, sums: {"a": sums[0] / sums[1]}, "index the last axis"),
        (count_labels, lambda m, sums: {"iou": sums[..., 0]}, "names a score iou, as segkit does"),
    ],
)
def test_a_metric_that_breaks_the_contract_is_named(count, score, message):
    metric = make_metric(count, score)(mode="binary", num_classes=2)
    with pytest.raises(SegkitError, match=rf"metric 'of_this_test' \(.*Mine\).*{message}"):
        check_metric(metric)


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_a_metric_that_keeps_the_contract_passes(mode):
    check_metric(make_metric(count_labels, take_share)(mode=mode, num_classes=2))


def test_scores_of_classes_have_one_for_each_reported_class():
    mine = make_metric(count_labels, take_share)
    mine.score_classes = lambda metric, sums: {"share": np.stack([sums[..., 0]] * 3, -1)}
    check_metric(mine(mode="multiclass", num_classes=3))
    with pytest.raises(SegkitError, match=r"'share' the shape \(2, 1\).* not \(2, 3\)"):
        check_metric(mine(mode="binary", num_classes=2))
    mine.score_classes = lambda metric, sums: {"other": sums[..., :1]}
    with pytest.raises(SegkitError, match=r"and score\(\) its mean"):
        check_metric(mine(mode="binary", num_classes=2))
