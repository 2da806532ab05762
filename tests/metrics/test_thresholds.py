"""The threshold sweep: by hand, against the head at each threshold, and torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch
import torchmetrics.functional.classification as peer
from metrics.conftest import random_probabilities

from segkit.core.errors import SegkitError
from segkit.metrics.confusion import ConfusionMatrix, score_matrix
from segkit.metrics.thresholds import THRESHOLDS, ThresholdCounts, sweep_thresholds
from segkit.models.heads import Head


def counted(mode: str, *batches, thresholds=THRESHOLDS) -> ThresholdCounts:
    metric = ThresholdCounts(mode, 2 if mode == "binary" else 3, thresholds)
    for each in batches:
        metric.update(*each)
    return metric


def test_by_hand():
    probabilities = torch.tensor([[[[0.1, 0.4, 0.6, 0.9, 0.7]]]])
    target = torch.tensor([[[0, 1, 0, 1, 255]]])
    metric = counted("binary", (probabilities, target), thresholds=[0.25, 0.5, 0.75])
    assert metric.compute().tolist() == [[[[1, 1], [0, 2]], [[1, 1], [1, 1]], [[2, 0], [1, 1]]]]
    sweep = sweep_thresholds(metric, ["background", "cell"])
    assert sweep.class_names == ("cell",)
    assert sweep.scores["iou"].tolist() == [[2 / 3, 1 / 3, 1 / 2]]
    assert sweep.best == {"cell": 0.25}
    columns = ["class", "threshold", "iou", "dice", "precision", "recall"]
    assert [list(row) for row in sweep.rows()] == [columns] * 3
    assert [tuple(row.values()) for row in sweep.rows()] == [
        ("cell", 0.25, 2 / 3, 4 / 5, 2 / 3, 1),
        ("cell", 0.5, 1 / 3, 1 / 2, 1 / 2, 1 / 2),
        ("cell", 0.75, 1 / 2, 2 / 3, 1, 1 / 2),
    ]


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
def test_equals_the_head_at_each_threshold(mode):
    """Also for probabilities exactly on a threshold, which do not exceed it."""
    probabilities, target = random_probabilities(mode)
    names = ["background", "cell"] if mode == "binary" else ["a", "b", "c"]
    metric = counted(mode, (probabilities, target))
    sweep = sweep_thresholds(metric, names)
    for t, threshold in enumerate(THRESHOLDS):
        head = Head.build(mode, in_channels=1, num_classes=len(names), threshold=threshold)
        confusion = ConfusionMatrix(mode, len(names))
        confusion.update(head.decide(probabilities), target)
        matrix = confusion.compute()
        expected = matrix[None] if mode == "binary" else matrix
        assert torch.equal(metric.compute()[:, t], expected)
        result = score_matrix(matrix, mode, names)
        assert sweep.scores["iou"][:, t].tolist() == list(result.iou)
        assert sweep.scores["precision"][:, t].tolist() == list(result.precision)


def test_equals_torchmetrics():
    generator = torch.Generator().manual_seed(3)
    probabilities = torch.rand((2, 1, 30, 30), generator=generator)
    target = (torch.rand((2, 30, 30), generator=generator) < probabilities[:, 0]).long()
    target[0, :4] = 255
    sweep = sweep_thresholds(counted("binary", (probabilities, target)), ["background", "cell"])
    precision, recall, _ = peer.binary_precision_recall_curve(
        probabilities[:, 0], target, thresholds=list(THRESHOLDS), ignore_index=255
    )
    torch.testing.assert_close(
        torch.from_numpy(sweep.scores["precision"][0]).float(), precision[:-1]
    )
    torch.testing.assert_close(torch.from_numpy(sweep.scores["recall"][0]).float(), recall[:-1])


@pytest.mark.parametrize(
    ("probabilities", "target", "best"),
    [([0.001, 0.999], [0, 1], 0.5), ([0.001, 0.22], [0, 1], 0.2), ([0.01, 0.01], [0, 0], math.nan)],
)
def test_among_equal_thresholds_the_best_is_the_nearest_to_one_half(probabilities, target, best):
    metric = counted("binary", (torch.tensor([[[probabilities]]]), torch.tensor([[target]])))
    sweep = sweep_thresholds(metric, ["no", "yes"])
    assert sweep.best == pytest.approx({"yes": best}, nan_ok=True)
    assert math.isnan(best) == all(math.isnan(row["iou"]) for row in sweep.rows())


def test_nan_exceeds_no_threshold_and_other_floats_are_accepted():
    probabilities = torch.tensor([[[[math.nan, 1.0]]]])
    counts = counted("binary", (probabilities, torch.tensor([[[1, 1]]]))).compute()
    assert torch.equal(counts, torch.tensor([[0, 0], [1, 1]]).expand(1, 19, 2, 2))
    probabilities, target = torch.tensor([[[[0.12, 0.88]]]]), torch.tensor([[[0, 1]]])
    expected = counted("binary", (probabilities, target)).compute()
    for dtype in (torch.float16, torch.float64):
        found = counted("binary", (probabilities.to(dtype), target)).compute()
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("multiclass", 3), "needs mode 'binary' or 'multilabel'"),
        (("binary", 3), "has 1 or 2"),
        (("multilabel", 0), "has 1 or more"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(SegkitError, match=message):
        ThresholdCounts(*arguments)


def test_wrong_inputs_are_refused():
    probabilities, target = random_probabilities("binary")
    metric = ThresholdCounts("binary", 2)
    for wrong_probabilities, wrong_target, message in (
        (probabilities[:, 0], target, r"takes \(B, 1, H, W\)"),
        (probabilities.long(), target, "not the decided labels"),
        (probabilities, target[..., 1:], "needs"),
        (probabilities, target + 1, "contains the label"),
    ):
        with pytest.raises(SegkitError, match=message):
            metric.update(wrong_probabilities, wrong_target)
