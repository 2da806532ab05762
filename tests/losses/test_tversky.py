"""Tversky, focal Tversky and Jaccard: by hand, against plain sums, and as each other's cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

from segkit.core.errors import SegkitError
from segkit.losses import Loss

REGION_LOSSES = ["dice", "jaccard", "tversky"]


@pytest.fixture
def logits():
    return torch.randn(3, 4, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    target = torch.randint(4, (3, 9, 7), generator=torch.Generator().manual_seed(1))
    target[target == 3] = 2  # class 3 is nowhere
    target[0, 1:4, 2:6] = 255
    return target


def sure(labels, classes):
    """Logits that decide for the labels with certainty, (B, C, H, W)."""
    return torch.stack([torch.where(labels == c, 100.0, -100.0) for c in range(classes)], dim=1)


def plain_tversky(logits, labels, alpha, beta, gamma, smooth, per_image, weights):
    """The formula in float64, class by class and with lists of pixels."""
    p = logits.double().softmax(1).numpy()
    labels = labels.numpy()
    groups = [[b] for b in range(len(p))] if per_image else [list(range(len(p)))]
    losses, divisor = 0.0, 0.0
    for images in groups:
        for c in range(p.shape[1]):
            kept = labels[images] != 255
            q = p[images, c][kept]
            t = (labels[images] == c)[kept]
            tp, fp, fn = q[t].sum(), q[~t].sum(), (1 - q[t]).sum()
            index = (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)
            losses += weights[c] * (1 - index) ** gamma
            divisor += weights[c]
    return losses / divisor


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("weights", [None, [0.0, 1.0, 2.5, 0.5]])
@pytest.mark.parametrize(
    ("alpha", "beta", "gamma", "smooth"),
    [(0.3, 0.7, 1.0, 1.0), (0.3, 0.7, 0.75, 0.1), (1.0, 1.0, 1.0, 2.0), (2.0, 0.1, 2.0, 1e-3)],
)
def test_follows_the_formula(logits, labels, alpha, beta, gamma, smooth, per_image, weights):
    options = {"alpha": alpha, "beta": beta, "gamma": gamma, "smooth": smooth}
    loss = Loss.build(
        "tversky", mode="multiclass", per_image=per_image, class_weights=weights, **options
    )
    expected = plain_tversky(
        logits, labels, per_image=per_image, weights=weights or [1.0] * 4, **options
    )
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(("name", "half", "share"), [("dice", 0.5, 0.5), ("jaccard", 1.0, 1.0)])
def test_dice_and_jaccard_are_cases_of_it(logits, labels, mode, per_image, name, half, share):
    if mode == "binary":
        logits, labels = logits[:, :1], torch.where(labels == 255, 255, labels.clamp(max=1))
    options = {"mode": mode, "per_image": per_image}
    case = Loss.build(name, smooth=0.8, **options)
    tversky = Loss.build("tversky", alpha=half, beta=half, smooth=0.8 * share, **options)
    torch.testing.assert_close(case(logits, labels), tversky(logits, labels))


def test_by_hand():
    # p = (1/2, 1/2, 3/4, 1/4), t = (1, 0, 1, 0): TP 5/4, FP 3/4, FN 3/4.
    logits = torch.tensor([0.5, 0.5, 0.75, 0.25]).logit().view(1, 1, 2, 2)
    target = torch.tensor([[[1, 0], [1, 0]]])
    options = {"mode": "binary", "smooth": 0.5}
    jaccard = Loss.build("jaccard", **options)(logits, target)
    assert jaccard.item() == pytest.approx(1 - 1.75 / 3.25, rel=1e-6)
    tversky = Loss.build("tversky", alpha=0.2, beta=0.6, **options)(logits, target)
    assert tversky.item() == pytest.approx(1 - 1.75 / 2.35, rel=1e-6)
    focal = Loss.build("tversky", alpha=0.2, beta=0.6, gamma=0.75, **options)(logits, target)
    assert focal.item() == pytest.approx((1 - 1.75 / 2.35) ** 0.75, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "score"), [("jaccard", multiclass_jaccard_index), ("dice", multiclass_f1_score)]
)
def test_sure_predictions_score_as_torchmetrics_says(logits, labels, name, score):
    """Without a smooth to speak of: the classes that are there, or are predicted."""
    decided = logits.argmax(1)
    expected = 1 - score(decided, labels, num_classes=4, average="none", ignore_index=255)
    value = Loss.build(name, mode="multiclass", smooth=1e-6)(sure(decided, 4), labels)
    torch.testing.assert_close(value, expected.mean())


@pytest.mark.parametrize("name", REGION_LOSSES)
@pytest.mark.parametrize("count", [1, 10, 60])
def test_false_positives_on_an_empty_mask_cost_their_share(name, count):
    options = {"tversky": {"alpha": 0.3, "gamma": 0.75}}.get(name, {})
    decided = torch.zeros(64, dtype=torch.int64)
    decided[:count] = 1
    logits = torch.where(decided == 1, 100.0, -100.0).view(1, 1, 8, 8)
    loss = Loss.build(name, mode="binary", smooth=2.0, **options)
    value = loss(logits, torch.zeros(1, 8, 8, dtype=torch.int64))
    expected = {
        "dice": count / (count + 2),
        "jaccard": count / (count + 2),
        "tversky": (0.3 * count / (0.3 * count + 2)) ** 0.75,
    }
    assert value.item() == pytest.approx(expected[name], rel=1e-5)


@pytest.mark.parametrize("name", REGION_LOSSES)
def test_a_perfect_prediction_costs_nothing_whatever_the_weights(name, labels):
    """Absent classes and weights leave the divisor right: not 1 / C, and not NaN."""
    loss = Loss.build(name, mode="multiclass", class_weights=[0.1, 3.0, 1.0, 7.0])
    assert loss(sure(labels, 4), labels) == 0


@pytest.mark.parametrize("name", [*REGION_LOSSES, "lovasz", "cldice"])
@pytest.mark.parametrize("per_image", [False, True])
def test_a_weight_of_zero_leaves_a_class_out(name, per_image, logits, labels):
    options = {"mode": "multilabel", "per_image": per_image}
    stack = torch.randint(2, logits.shape, generator=torch.Generator().manual_seed(2))
    loss = Loss.build(name, class_weights=[0.0, 1.0, 1.0, 1.0], **options)
    expected = Loss.build(name, **options)(logits[:, 1:], stack[:, 1:])
    torch.testing.assert_close(loss(logits, stack), expected)


@pytest.mark.parametrize("name", [*REGION_LOSSES, "lovasz", "cldice"])
def test_class_weights_are_a_weighted_mean_over_the_classes(name, logits):
    stack = torch.randint(2, logits.shape, generator=torch.Generator().manual_seed(2))
    weights = [0.5, 2.0, 1.0, 0.0]
    plain = Loss.build(name, mode="multilabel")
    each = [plain(logits[:, c : c + 1], stack[:, c : c + 1]).item() for c in range(4)]
    loss = Loss.build(name, mode="multilabel", class_weights=weights)
    assert loss(logits, stack).item() == pytest.approx(np.average(each, weights=weights), rel=1e-5)
    torch.testing.assert_close(loss.bfloat16()(logits, stack), loss(logits, stack))


@pytest.mark.parametrize("name", [*REGION_LOSSES, "lovasz", "cldice"])
def test_class_weights_that_do_not_fit_are_refused(name, logits, labels):
    with pytest.raises(SegkitError, match=r"2 weight.*4 are needed"):
        Loss.build(name, mode="multiclass", class_weights=[1.0, 2.0])(logits, labels)
    with pytest.raises(SegkitError, match="above zero"):
        Loss.build(name, mode="multiclass", class_weights=[0.0, 0.0])
    with pytest.raises(SegkitError, match="'binary' has one class"):
        Loss.build(name, mode="binary", class_weights=[1.0, 2.0])


@pytest.mark.parametrize("gamma", [0.1, 0.75, 3.0])
@pytest.mark.parametrize("scale", [5.0, 50.0, 1e4])
def test_the_power_has_a_finite_slope_where_all_is_right(gamma, scale):
    """x^0.75 has an infinite one at 0."""
    target = torch.tensor([[[0, 1], [1, 0]]])
    logits = torch.where(target == 1, scale, -scale).unsqueeze(1).requires_grad_()
    value = Loss.build("tversky", mode="binary", gamma=gamma)(logits, target)
    value.backward()
    assert value < 0.02 ** min(gamma, 1.0)
    assert logits.grad.isfinite().all()
    assert (logits.grad != 0).any() == (scale == 5.0)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gamma_below_one_stresses_the_nearly_right_classes(logits, labels, gamma):
    """The share of the gradient that goes to an image that is nearly right."""
    mixed = torch.stack([sure(labels, 4)[0] / 40, logits[1]]).requires_grad_()
    shares = []
    for power in (1.0, gamma):
        loss = Loss.build("tversky", mode="multiclass", gamma=power, per_image=True)
        (gradient,) = torch.autograd.grad(loss(mixed, labels[:2]), mixed)
        shares.append((gradient[0].norm() / gradient.norm()).item())
    assert (shares[1] > shares[0]) == (gamma < 1)


@pytest.mark.parametrize("option", ["alpha", "beta", "gamma", "smooth"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_options_are_above_zero(option, value):
    with pytest.raises(SegkitError, match=option):
        Loss.build("tversky", mode="binary", **{option: value})


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_smooth_of_jaccard_is_above_zero(value):
    with pytest.raises(SegkitError, match="smooth"):
        Loss.build("jaccard", mode="binary", smooth=value)
