"""Soft Dice by hand, and its policy for absent classes."""

from __future__ import annotations

import pytest
import torch

from segkit.core.errors import SegkitError
from segkit.losses import Loss


def sure(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits that decide for the labels with certainty, (B, C, H, W)."""
    if classes == 1:
        return torch.where(labels.unsqueeze(1) == 1, 100.0, -100.0)
    return torch.stack([torch.where(labels == c, 100.0, -100.0) for c in range(classes)], dim=1)


def test_by_hand_binary():
    # p = (1/2, 1/2, 3/4, 1/4), t = (1, 0, 1, 0): overlap 5/4, masses 2 and 2.
    logits = torch.tensor([0.5, 0.5, 0.75, 0.25]).logit().view(1, 1, 2, 2)
    target = torch.tensor([[[1, 0], [1, 0]]])
    value = Loss.build("dice", mode="binary", smooth=0.5)(logits, target)
    assert value.item() == pytest.approx(1 - (2.5 + 0.5) / (4 + 0.5), rel=1e-6)


def test_by_hand_multiclass():
    # Truth 0 0 1 2, decided 0 1 1 1: overlaps 1 1 0, truths 2 1 1, decided 1 3 0.
    target = torch.tensor([[[0, 0, 1, 2]]])
    logits = sure(torch.tensor([[[0, 1, 1, 1]]]), 3)
    value = Loss.build("dice", mode="multiclass", smooth=1.0)(logits, target)
    expected = 1 - (3 / 4 + 3 / 5 + 1 / 2) / 3
    assert value.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("per_image", [False, True])
def test_a_perfect_prediction_that_lacks_classes_costs_nothing(mode, per_image):
    target = torch.zeros(2, 16, 16, dtype=torch.int64)
    if mode != "binary":
        target[0, :5] = 2  # classes 1 and 3 are nowhere, class 2 only in the first image
    logits = sure(target, 1 if mode == "binary" else 4)
    assert Loss.build("dice", mode=mode, per_image=per_image)(logits, target).item() < 1e-6


@pytest.mark.parametrize("false_positives", [1, 9, 99])
@pytest.mark.parametrize("smooth", [1.0, 0.5])
def test_false_positives_on_an_empty_mask_cost_their_share(false_positives, smooth):
    target = torch.zeros(1, 16, 16, dtype=torch.int64)
    decided = torch.zeros(256, dtype=torch.int64)
    decided[:false_positives] = 1
    logits = sure(decided.view(1, 16, 16), 1)
    value = Loss.build("dice", mode="binary", smooth=smooth)(logits, target)
    assert value.item() == pytest.approx(false_positives / (false_positives + smooth), rel=1e-5)


def test_an_empty_mask_has_a_gradient_against_false_positives():
    logits = torch.zeros(1, 1, 8, 8, requires_grad=True)
    Loss.build("dice", mode="binary")(logits, torch.zeros(1, 8, 8, dtype=torch.int64)).backward()
    assert (logits.grad > 0).all()


def test_false_positives_of_an_absent_class_cost_in_multiclass():
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    decided = target.clone()
    decided[0, :4] = 2
    loss = Loss.build("dice", mode="multiclass")
    # Class 0: 32 of 64 found; class 1: absent, not predicted; class 2: absent, 32 predicted.
    expected = (1 - 65 / 97 + 0 + 32 / 33) / 3
    assert loss(sure(decided, 3), target).item() == pytest.approx(expected, rel=1e-5)


def test_per_image_is_the_mean_of_the_images():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 6, 6, generator=generator)
    target = torch.randint(4, (3, 6, 6), generator=generator)
    whole = Loss.build("dice", mode="multiclass")
    each = torch.stack([whole(logits[i : i + 1], target[i : i + 1]) for i in range(3)])
    per_image = Loss.build("dice", mode="multiclass", per_image=True)
    torch.testing.assert_close(per_image(logits, target), each.mean())
    assert not torch.isclose(whole(logits, target), each.mean(), rtol=1e-4)


def test_an_image_that_is_all_ignored_leaves_the_mean_per_image():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 6, 6, generator=generator)
    target = torch.randint(2, (3, 6, 6), generator=generator)
    loss = Loss.build("dice", mode="binary", per_image=True)
    expected = loss(logits[:2], target[:2])
    target[2] = 255
    torch.testing.assert_close(loss(logits, target), expected)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
def test_gradients_are_right(mode, per_image):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 3, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (2, 3, 4), generator=generator)
    stack = torch.randint(2, (2, 3, 3, 4), generator=generator).bool()
    truth = labels if mode == "multiclass" else stack
    valid = torch.rand(truth.shape, generator=generator) > 0.3
    loss = Loss.build("dice", mode=mode, per_image=per_image)
    inputs = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.compute(x, truth, valid), inputs)


@pytest.mark.parametrize("smooth", [0.0, -1.0, float("nan")])
def test_smooth_is_above_zero(smooth):
    with pytest.raises(SegkitError, match="smooth"):
        Loss.build("dice", mode="binary", smooth=smooth)
