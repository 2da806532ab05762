"""Dice, Jaccard and Tversky: by hand, against plain sums, and what absent classes cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

from segkit.core.errors import SegkitError
from segkit.losses import Loss

REGIONS = ["dice", "jaccard", "tversky", "lovasz", "cldice"]
assert_close = torch.testing.assert_close


@pytest.fixture
def logits():
    return torch.randn(3, 4, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    target = torch.randint(4, (3, 9, 7), generator=torch.Generator().manual_seed(1))
    target[target == 3] = 2  # class 3 is absent
    target[0, 1:4, 2:6] = 255
    return target


def certain(labels: Tensor, classes: int) -> Tensor:
    """Logits that decide for the labels with certainty, (B, C, H, W)."""
    numbers = [1] if classes == 1 else range(classes)
    return torch.where(torch.stack([labels == c for c in numbers], 1), 100.0, -100.0)


def plain_tversky(logits, labels, alpha, beta, gamma, smooth, per_image, weights):
    """The formula in float64, class by class and with lists of pixels."""
    p = logits.double().softmax(1).numpy()
    labels = labels.numpy()
    groups = [[b] for b in range(len(p))] if per_image else [list(range(len(p)))]
    losses, divisor = 0.0, 0.0
    for images in groups:
        for c in range(p.shape[1]):
            kept = labels[images] != 255
            q, t = p[images, c][kept], (labels[images] == c)[kept]
            tp, fp, fn = q[t].sum(), q[~t].sum(), (1 - q[t]).sum()
            index = (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)
            losses += weights[c] * (1 - index) ** gamma
            divisor += weights[c]
    return losses / divisor


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("weights", [None, [0.0, 1.0, 2.5, 0.5]])
@pytest.mark.parametrize(
    ("alpha", "beta", "gamma", "smooth"), [(0.3, 0.7, 0.75, 0.1), (2.0, 0.1, 2.0, 1e-3)]
)
def test_tversky_follows_the_formula(
    logits, labels, alpha, beta, gamma, smooth, per_image, weights
):
    options = {"alpha": alpha, "beta": beta, "gamma": gamma, "smooth": smooth}
    loss = Loss.build(
        "tversky", mode="multiclass", per_image=per_image, class_weights=weights, **options
    )
    expected = plain_tversky(
        logits, labels, per_image=per_image, weights=weights or [1.0] * 4, **options
    )
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_the_gradient_is_that_of_the_plain_sums(logits, labels, mode, per_image):
    classes = 1 if mode == "binary" else 4
    x = logits[:, :classes].double().requires_grad_()
    labels = torch.where((labels > 1) & (labels < 255), 1, labels) if mode == "binary" else labels
    valid = (labels != 255).unsqueeze(1)
    numbers = [1] if mode == "binary" else range(4)
    t = torch.stack([labels == c for c in numbers], 1).double()
    p = (x.softmax(1) if mode == "multiclass" else x.sigmoid()) * valid
    dims = (2, 3) if per_image else (0, 2, 3)
    tp, fp, fn = (p * t).sum(dims), (p * (1 - t)).sum(dims), ((1 - p) * t).sum(dims)
    ((0.3 * fp + 0.7 * fn) / (tp + 0.3 * fp + 0.7 * fn + 1)).mean().backward()
    own = logits[:, :classes].clone().requires_grad_()
    Loss.build("tversky", mode=mode, per_image=per_image)(own, labels).backward()
    assert_close(own.grad, x.grad.float(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize(("name", "half", "smooth"), [("dice", 0.5, 0.4), ("jaccard", 1.0, 0.8)])
def test_dice_and_jaccard_are_cases_of_tversky(logits, labels, mode, name, half, smooth):
    if mode == "binary":
        logits, labels = logits[:, :1], torch.where(labels == 255, 255, labels.clamp(max=1))
    for per_image in (False, True):
        options = {"mode": mode, "per_image": per_image}
        case = Loss.build(name, smooth=0.8, **options)
        tversky = Loss.build("tversky", alpha=half, beta=half, smooth=smooth, **options)
        assert_close(case(logits, labels), tversky(logits, labels))


@pytest.mark.parametrize(
    ("name", "score"), [("jaccard", multiclass_jaccard_index), ("dice", multiclass_f1_score)]
)
def test_certain_predictions_score_as_in_torchmetrics(logits, labels, name, score):
    """With hardly any smooth: the classes that are there, or are predicted."""
    decided = logits.argmax(1)
    expected = 1 - score(decided, labels, num_classes=4, average="none", ignore_index=255)
    value = Loss.build(name, mode="multiclass", smooth=1e-6)(certain(decided, 4), labels)
    assert_close(value, expected.mean())


@pytest.mark.parametrize("name", REGIONS)
def test_per_image_is_the_mean_of_the_images_that_count(name, logits):
    stack = (logits.roll(1, -1) > 0).long()
    whole = Loss.build(name, mode="multilabel")
    each = torch.stack([whole(logits[i : i + 1], stack[i : i + 1]) for i in range(3)])
    per_image = Loss.build(name, mode="multilabel", per_image=True)
    assert_close(per_image(logits, stack), each.mean())
    assert not torch.isclose(whole(logits, stack), each.mean(), rtol=1e-5)
    stack[2] = 255
    assert_close(per_image(logits, stack), each[:2].mean())


@pytest.mark.parametrize("name", REGIONS)
def test_class_weights_are_a_weighted_mean_over_the_classes(name, logits):
    stack = (logits.roll(1, -1) > 0).long()
    weights = [0.5, 2.0, 1.0, 0.0]
    for per_image in (False, True):
        plain = Loss.build(name, mode="multilabel", per_image=per_image)
        each = [plain(logits[:, c : c + 1], stack[:, c : c + 1]).item() for c in range(4)]
        loss = Loss.build(name, mode="multilabel", per_image=per_image, class_weights=weights)
        expected = np.average(each, weights=weights)
        assert loss(logits, stack).item() == pytest.approx(expected, rel=1e-5)
    assert_close(loss.bfloat16()(logits, stack), loss(logits, stack))


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize(
    ("mode", "weights", "message"),
    [
        ("multiclass", [1.0, 2.0], "2 weight.*4 are needed"),
        ("multiclass", [0.0, 0.0], "above zero"),
        ("binary", [1.0, 2.0], "'binary' has one class"),
    ],
)
def test_class_weights_that_do_not_fit_are_refused(name, logits, labels, mode, weights, message):
    with pytest.raises(SegkitError, match=message):
        Loss.build(name, mode=mode, class_weights=weights)(logits, labels)


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


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *(("tversky", option) for option in ("alpha", "beta", "gamma", "smooth")),
        *((name, "smooth") for name in ("dice", "jaccard", "cldice")),
        ("cldice", "iterations"),
    ],
)
def test_options_are_above_zero(name, option):
    for value in (0.0, float("nan"), float("inf")):
        with pytest.raises(SegkitError, match=option):
            Loss.build(name, mode="binary", **{option: value})


def test_few_pixels_are_not_lost_among_many():
    """Float32 sums of a million numbers near 1, one of which is off by 1e-3."""
    target = torch.ones(1, 1024, 1024, dtype=torch.int64)
    logits = torch.full((1, 1, 1024, 1024), 30.0)
    logits[0, 0, 5, 5] = 6.9067547786  # p = 0.999
    value = Loss.build("tversky", mode="binary", alpha=1.0, beta=1.0)(logits, target)
    assert value.item() == pytest.approx(1e-3 / 1024**2, rel=1e-3)
