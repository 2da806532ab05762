"""The confusion matrix and its scores: by hand, against torchmetrics, and for absent classes."""

from __future__ import annotations

import math

import pytest
import torch
import torchmetrics.functional.classification as peer
from metrics.conftest import CLASSES, random_labels

from segkit.core.errors import SegkitError
from segkit.metrics.confusion import ConfusionMatrix, count_classes, score_counts, score_matrix

NAMES = ["sky", "road", "tree"]
every_mode = pytest.mark.parametrize("mode", CLASSES)


def count(mode: str, labels, target, classes: int | None = None) -> torch.Tensor:
    metric = ConfusionMatrix(mode, classes or CLASSES[mode])
    metric.update(torch.as_tensor(labels), torch.as_tensor(target))
    return metric.compute()


def multiclass(*rows: list[int]):
    return score_matrix(torch.tensor(rows), "multiclass", NAMES[: len(rows)])


@every_mode
def test_matrices_equal_torchmetrics(mode):
    labels, target = random_labels(mode)
    theirs = getattr(peer, f"{mode}_confusion_matrix")
    sizes = {"multiclass": {"num_classes": 4}, "multilabel": {"num_labels": 3}}.get(mode, {})
    expected = theirs(labels, target, ignore_index=255, **sizes)
    assert torch.equal(count(mode, labels, target), expected)
    for dtype in (torch.uint8, torch.int16):
        assert torch.equal(count(mode, labels.to(dtype), target.to(dtype)), expected)
    assert count(mode, labels, torch.full_like(target, 255)).sum() == 0
    if mode == "binary":
        assert torch.equal(count(mode, labels, target, classes=1), expected)
        known = torch.where(target == 255, 0, target)
        assert torch.equal(count(mode, labels.bool(), known.bool()), count(mode, labels, known))


@every_mode
def test_invalid_inputs_of_the_matrix_are_refused(mode):
    metric = ConfusionMatrix(mode, CLASSES[mode])
    labels, target = random_labels(mode)
    counted = target != 255
    for wrong_labels, wrong_target, message in (
        (labels[0], target, "decided labels"),
        (labels.float(), target, "decide them first"),
        (labels, target[..., :3], "needs"),
        (labels[:1], target, "needs"),
        (labels, target.float(), r"target\.long\(\)"),
        (labels, target.masked_fill(counted, 9), "the target contains the label"),
        (torch.full_like(labels, 9), target, "the prediction contains the label"),
    ):
        with pytest.raises(SegkitError, match=message):
            metric.update(wrong_labels, wrong_target)
    metric.update(labels.masked_fill(~counted, 9), target)  # what is ignored may be anything
    assert torch.equal(metric.compute(), count(mode, labels, target))


@pytest.mark.parametrize(
    ("mode", "classes", "message"),
    [
        ("binary", 3, "is 3"),
        ("multiclass", 1, "is 1"),
        ("multilabel", 0, "is 0"),
        ("multi", 3, "binary, multiclass, multilabel"),
    ],
)
def test_the_number_of_classes_fits_the_mode(mode, classes, message):
    with pytest.raises(SegkitError, match=message):
        ConfusionMatrix(mode, classes)


def test_scores_by_hand():
    result = multiclass([5, 1, 0], [2, 6, 0], [0, 1, 9])
    assert result.class_names == ("sky", "road", "tree")
    assert result.iou == (5 / 8, 6 / 10, 9 / 10)
    assert result.support == (6, 8, 10)
    expected = {
        "iou": (5 / 8 + 6 / 10 + 9 / 10) / 3,
        "dice": (10 / 13 + 12 / 16 + 18 / 19) / 3,
        "precision": (5 / 7 + 6 / 8 + 1) / 3,
        "recall": (5 / 6 + 6 / 8 + 9 / 10) / 3,
        "specificity": (16 / 18 + 14 / 16 + 1) / 3,
        "accuracy": 20 / 24,
        "fw_iou": (6 * 5 / 8 + 8 * 6 / 10 + 10 * 9 / 10) / 24,
    }
    assert result.mean == pytest.approx(expected)
    assert {type(value) for value in (*result.mean.values(), *result.iou)} == {float}
    assert {type(value) for value in result.support} == {int}
    exact = multiclass([2**60, 1], [0, 2**60])  # more pixels than float64 can count
    assert exact.support == (2**60 + 1, 2**60)


def test_scores_without_a_value_leave_the_mean():
    result = multiclass([4, 0, 0], [0, 4, 0], [0, 0, 0])  # the third is nowhere
    for values in (result.iou, result.dice, result.precision, result.recall):
        assert math.isnan(values[2])
    assert result.support[2] == 0
    assert set(result.mean.values()) == {1.0}
    result = multiclass([4, 0, 0], [0, 4, 0], [2, 0, 0])  # the third is never predicted
    assert result.iou[2] == result.recall[2] == 0
    assert math.isnan(result.precision[2])
    assert result.fw_iou == pytest.approx((4 * 4 / 6 + 4) / 10)  # its IoU of 0 has weight
    result = multiclass([4, 1], [0, 0])  # the first is everywhere
    assert math.isnan(result.specificity[0])
    assert result.specificity[1] == result.mean["specificity"] == 4 / 5
    result = multiclass([0, 0], [0, 0])
    assert all(math.isnan(value) for value in result.mean.values())
    assert all(math.isnan(row["iou"]) for row in result.rows())


def test_a_class_that_is_only_predicted_has_an_iou_of_zero_that_counts():
    result = multiclass([3, 0, 1], [0, 4, 0], [0, 0, 0])
    assert result.iou == (3 / 4, 1.0, 0.0)
    assert result.dice[2] == result.precision[2] == 0
    assert result.fw_iou == (4 * 3 / 4 + 4) / 8  # it has no weight
    assert result.mean["iou"] == pytest.approx((3 / 4 + 1) / 3)
    assert result.mean["recall"] == pytest.approx((3 / 4 + 1) / 2)
    rows = result.rows()
    assert [row["class"] for row in rows] == ["sky", "road", "tree", "mean"]
    assert math.isnan(rows[2].pop("recall"))
    assert rows[2] == {
        **{"class": "tree", "iou": 0.0, "dice": 0.0, "precision": 0.0},
        **{"specificity": 7 / 8, "support": 0},
    }
    assert (rows[3]["iou"], rows[3]["support"]) == (result.mean["iou"], 8)


def test_binary_reports_the_foreground():
    result = score_matrix(torch.tensor([[90, 4], [2, 4]]), "binary", ["background", "cell"])
    assert result.class_names == ("cell",)
    assert (result.iou, result.dice) == ((4 / 10,), (8 / 14,))
    assert (result.precision, result.recall) == ((4 / 8,), (4 / 6,))
    assert (result.specificity, result.support) == ((90 / 94,), (6,))
    assert result.accuracy == 94 / 100
    assert result.fw_iou == pytest.approx(0.94 * 90 / 96 + 0.06 * 4 / 10)  # of both classes
    assert result.mean["iou"] == 4 / 10


def test_multilabel_reports_all_classes():
    matrix = torch.tensor([[[5, 1], [2, 2]], [[10, 0], [0, 0]]])
    result = score_matrix(matrix, "multilabel", ["a", "b"])
    assert (result.iou[0], result.precision[0], result.recall[0]) == (2 / 5, 2 / 3, 2 / 4)
    assert math.isnan(result.iou[1])
    assert (result.specificity, result.support) == ((5 / 6, 1.0), (4, 0))
    assert result.accuracy == 17 / 20
    assert result.fw_iou == result.mean["iou"] == 2 / 5


def test_scores_equal_torchmetrics():
    labels, target = random_labels("multiclass")
    result = score_matrix(count("multiclass", labels, target), "multiclass", "abcd")
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


@every_mode
def test_many_sums_at_once_score_like_single_ones(mode):
    """As a bootstrap calls it: (S, N, 2, 2) gives S of each mean."""
    N = 2 if mode == "binary" else 3
    shape = (5, N, 2, 2) if mode == "multilabel" else (5, N, N)
    matrices = torch.randint(9, shape, generator=torch.Generator().manual_seed(0))
    matrices[3] = 0
    many = score_counts(count_classes(matrices, mode), mode, ())
    for index, matrix in enumerate(matrices):
        one = score_matrix(matrix, mode, NAMES[:N]).mean
        found = {key: values[index] for key, values in many.items()}
        assert found == pytest.approx(one, nan_ok=True)
    summed = count_classes(matrices, mode).sum(0)
    assert (summed == count_classes(matrices.sum(0), mode)).all()


@pytest.mark.parametrize(
    ("shape", "mode", "names", "message"),
    [
        ((3, 3), "multiclass", ["a", "b"], r"not a \(3, 3\) matrix and 2 names"),
        ((2, 2), "multilabel", ["a", "b"], "needs a .2, 2, 2."),
        ((3, 3), "binary", ["a", "b", "c"], "is 3, but mode 'binary' has 1 or 2"),
        ((2, 2), "binary", ["cell"], "background, foreground"),
        ((2, 2), "multi", ["a", "b"], "unknown"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(shape, mode, names, message):
    with pytest.raises(SegkitError, match=message):
        score_matrix(torch.zeros(shape, dtype=torch.int64), mode, names)
    with pytest.raises(SegkitError, match="do not normalise"):
        score_matrix(torch.eye(2), "binary", ["background", "cell"])
