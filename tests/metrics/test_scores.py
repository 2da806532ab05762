"""Scores by hand, against torchmetrics, and their policy for absent classes."""

from __future__ import annotations

import dataclasses
import doctest
import math

import pytest
import torch
import torchmetrics.functional.classification as peer

import segkit.metrics.scores
from segkit.core.errors import SegkitError
from segkit.metrics import ConfusionMatrix
from segkit.metrics.scores import class_counts, mean_scores, scores

NAMES = ["sky", "road", "tree"]


def multiclass(*rows: list[int]):
    return scores(torch.tensor(rows), "multiclass", NAMES[: len(rows)])


def test_the_example_runs():
    result = doctest.testmod(segkit.metrics.scores)
    assert result.attempted > 0
    assert result.failed == 0


def test_by_hand():
    result = multiclass([5, 1, 0], [2, 6, 0], [0, 1, 9])
    assert result.class_names == ("sky", "road", "tree")
    assert result.iou == (5 / 8, 6 / 10, 9 / 10)
    assert result.dice == (10 / 13, 12 / 16, 18 / 19)
    assert result.precision == (5 / 7, 6 / 8, 1.0)
    assert result.recall == (5 / 6, 6 / 8, 9 / 10)
    assert result.specificity == (16 / 18, 14 / 16, 14 / 14)
    assert result.support == (6, 8, 10)
    assert result.accuracy == 20 / 24
    assert result.fw_iou == pytest.approx((6 * 5 / 8 + 8 * 6 / 10 + 10 * 9 / 10) / 24)
    assert result.mean == pytest.approx(
        {
            "iou": (5 / 8 + 6 / 10 + 9 / 10) / 3,
            "dice": (10 / 13 + 12 / 16 + 18 / 19) / 3,
            "precision": (5 / 7 + 6 / 8 + 1) / 3,
            "recall": (5 / 6 + 6 / 8 + 9 / 10) / 3,
            "specificity": (16 / 18 + 14 / 16 + 1) / 3,
            "accuracy": 20 / 24,
            "fw_iou": (6 * 5 / 8 + 8 * 6 / 10 + 10 * 9 / 10) / 24,
        }
    )


def test_a_perfect_prediction():
    result = multiclass([5, 0, 0], [0, 3, 0], [0, 0, 1])
    assert set(result.iou + result.dice + result.precision + result.recall) == {1.0}
    assert set(result.mean.values()) == {1.0}


def test_a_class_that_is_nowhere_has_no_value_and_leaves_the_mean():
    result = multiclass([4, 0, 0], [0, 4, 0], [0, 0, 0])
    for values in (result.iou, result.dice, result.precision, result.recall):
        assert math.isnan(values[2])
    assert result.support[2] == 0
    assert set(result.mean.values()) == {1.0}


def test_a_class_that_is_only_predicted_has_an_iou_of_zero_that_counts():
    result = multiclass([3, 0, 1], [0, 4, 0], [0, 0, 0])
    assert result.iou == (3 / 4, 1.0, 0.0)
    assert result.dice[2] == 0
    assert result.precision[2] == 0
    assert math.isnan(result.recall[2])
    assert result.specificity[2] == 7 / 8
    assert result.fw_iou == (4 * 3 / 4 + 4) / 8  # it has no weight
    assert result.mean["iou"] == pytest.approx((3 / 4 + 1) / 3)
    assert result.mean["recall"] == pytest.approx((3 / 4 + 1) / 2)


def test_a_class_that_is_never_predicted_has_no_precision():
    result = multiclass([4, 0, 0], [0, 4, 0], [2, 0, 0])
    assert result.iou[2] == 0
    assert result.recall[2] == 0
    assert math.isnan(result.precision[2])
    assert result.specificity[2] == 1
    assert result.fw_iou == pytest.approx((4 * 4 / 6 + 4) / 10)  # its IoU of 0 has weight


def test_a_class_that_is_everywhere_has_no_specificity():
    result = multiclass([4, 1], [0, 0])
    assert math.isnan(result.specificity[0])
    assert result.specificity[1] == 4 / 5
    assert result.mean["specificity"] == 4 / 5


def test_nothing_counted_has_no_value_at_all():
    result = multiclass([0, 0], [0, 0])
    assert all(math.isnan(value) for value in result.mean.values())
    assert [row["iou"] for row in result.rows()] == ["-", "-", "-"]


def test_binary_reports_the_foreground():
    result = scores(torch.tensor([[90, 4], [2, 4]]), "binary", ["background", "cell"])
    assert result.class_names == ("cell",)
    assert result.iou == (4 / 10,)
    assert result.dice == (8 / 14,)
    assert result.precision == (4 / 8,)
    assert result.recall == (4 / 6,)
    assert result.support == (6,)
    assert result.specificity == (90 / 94,)
    assert result.accuracy == 94 / 100
    assert result.fw_iou == pytest.approx(0.94 * 90 / 96 + 0.06 * 4 / 10)  # of both classes
    assert result.mean["iou"] == 4 / 10


def test_multilabel_reports_all_classes():
    matrix = torch.tensor([[[5, 1], [2, 2]], [[10, 0], [0, 0]]])
    result = scores(matrix, "multilabel", ["a", "b"])
    assert result.iou[0] == 2 / 5
    assert math.isnan(result.iou[1])
    assert result.precision[0] == 2 / 3
    assert result.recall[0] == 2 / 4
    assert result.specificity == (5 / 6, 1.0)
    assert result.support == (4, 0)
    assert result.accuracy == 17 / 20
    assert result.fw_iou == 2 / 5
    assert result.mean["iou"] == 2 / 5


def test_equals_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (3, 9, 9), generator=generator)
    target = torch.randint(4, (3, 9, 9), generator=generator)
    target[0, :3] = 255
    metric = ConfusionMatrix("multiclass", 4)
    metric.update(labels, target)
    result = scores(metric.compute(), "multiclass", "abcd")
    for ours, theirs in [
        (result.iou, peer.multiclass_jaccard_index),
        (result.dice, peer.multiclass_f1_score),
        (result.precision, peer.multiclass_precision),
        (result.recall, peer.multiclass_recall),
        (result.specificity, peer.multiclass_specificity),
    ]:
        expected = theirs(labels, target, num_classes=4, average=None, ignore_index=255)
        torch.testing.assert_close(torch.tensor(ours), expected)
    accuracy = peer.multiclass_accuracy(labels, target, 4, average="micro", ignore_index=255)
    assert result.accuracy == pytest.approx(accuracy.item())
    weighted = peer.multiclass_jaccard_index(labels, target, 4, "weighted", ignore_index=255)
    assert result.fw_iou == pytest.approx(weighted.item())


def test_multilabel_equals_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (3, 4, 9, 9), generator=generator)
    target = torch.randint(2, (3, 4, 9, 9), generator=generator)
    target[0, 1, :5] = 255
    target[:, 2] *= torch.rand(target[:, 2].shape, generator=generator) < 0.1  # a rare class
    metric = ConfusionMatrix("multilabel", 4)
    metric.update(labels, target)
    result = scores(metric.compute(), "multilabel", "abcd")
    for ours, theirs in [
        (result.iou, peer.multilabel_jaccard_index),
        (result.specificity, peer.multilabel_specificity),
    ]:
        expected = theirs(labels, target, num_labels=4, average=None, ignore_index=255)
        torch.testing.assert_close(torch.tensor(ours), expected)
    weighted = peer.multilabel_jaccard_index(labels, target, 4, 0.5, "weighted", ignore_index=255)
    assert result.fw_iou == pytest.approx(weighted.item())


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_many_sums_at_once_score_like_single_ones(mode):
    """What a bootstrap calls: (S, N, 2, 2) gives S of each mean."""
    N = 2 if mode == "binary" else 3
    shape = (5, N, 2, 2) if mode == "multilabel" else (5, N, N)
    matrices = torch.randint(9, shape, generator=torch.Generator().manual_seed(0))
    matrices[3] = 0
    many = mean_scores(class_counts(matrices, mode), mode)
    for index, matrix in enumerate(matrices):
        one = scores(matrix, mode, NAMES[:N]).mean
        assert {key: values[index] for key, values in many.items()} == pytest.approx(
            one, nan_ok=True
        )


def test_counts_of_classes_add_up_as_matrices_do():
    matrices = torch.randint(9, (4, 3, 3), generator=torch.Generator().manual_seed(0))
    summed = class_counts(matrices, "multiclass").sum(0)
    assert (summed == class_counts(matrices.sum(0), "multiclass")).all()
    assert (summed.sum((1, 2)) == matrices.sum().item()).all()  # each class counts every pixel


def test_rows_are_a_table():
    result = multiclass([3, 0, 1], [0, 4, 0], [0, 0, 0])
    rows = result.rows()
    assert [row["class"] for row in rows] == ["sky", "road", "tree", "mean"]
    assert {tuple(row) for row in rows} == {
        ("class", "iou", "dice", "precision", "recall", "specificity", "support")
    }
    assert rows[2] == {
        "class": "tree",
        "iou": 0.0,
        "dice": 0.0,
        "precision": 0.0,
        "recall": "-",
        "specificity": 7 / 8,
        "support": 0,
    }
    assert rows[3]["iou"] == result.mean["iou"]
    assert rows[3]["support"] == 8


def test_values_are_python_floats():
    result = multiclass([3, 0], [1, 4])
    assert {type(value) for value in result.mean.values()} == {float}
    assert {type(value) for value in result.iou} == {float}
    assert {type(value) for value in result.support} == {int}


def test_is_frozen():
    result = multiclass([3, 0], [1, 4])
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.accuracy = 1.0


def test_is_exact_for_more_pixels_than_float64_can_count():
    result = multiclass([2**60, 1], [0, 2**60])
    assert result.support == (2**60 + 1, 2**60)


@pytest.mark.parametrize(
    ("shape", "mode", "names", "message"),
    [
        ((3, 3), "multiclass", ["a", "b"], "2 names and a .3, 3."),
        ((2, 2), "multilabel", ["a", "b"], "needs a .2, 2, 2."),
        ((3, 3), "binary", ["a", "b", "c"], "background, foreground"),
        ((2, 2), "binary", ["cell"], "background, foreground"),
        ((2, 2), "multi", ["a", "b"], "not known"),
    ],
)
def test_what_does_not_go_together_is_refused(shape, mode, names, message):
    with pytest.raises(SegkitError, match=message):
        scores(torch.zeros(shape, dtype=torch.int64), mode, names)


def test_a_normalised_matrix_is_refused():
    with pytest.raises(SegkitError, match="do not normalise"):
        scores(torch.eye(2), "binary", ["background", "cell"])
