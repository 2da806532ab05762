"""Lovasz losses against the definition of the extension, with sets of pixels in float64."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torchmetrics.functional.classification import multiclass_jaccard_index

from segkit.losses import Loss
from segkit.losses.lovasz import compute_jaccard_steps


def jaccard_of(wrong: set[int], truth: set[int]) -> float:
    """The Jaccard loss of the region that is wrong exactly at these pixels."""
    region = truth ^ wrong
    union = truth | region
    return 1 - len(truth & region) / len(union) if union else 0.0


def extension(errors: list[float], truth: set[int]) -> float:
    """Definition 1 of the paper: the errors from the worst on, times the steps of the set."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    total, wrong = 0.0, set()
    for i in order:
        before = jaccard_of(wrong, truth)
        wrong = wrong | {i}
        total += errors[i] * (jaccard_of(wrong, truth) - before)
    return total


def compute_plainly(logits, stack, mode, per_image):
    """The mean over the classes (and images) that count, by sets of pixels in float64."""
    x = logits.double()
    errors = x.softmax(1) if mode == "multiclass" else (1 + x)
    flipped = 1 - x.softmax(1) if mode == "multiclass" else (1 - x)
    errors = torch.where(stack == 1, flipped, errors).clamp(min=0)
    losses = []
    for images in [[b] for b in range(len(x))] if per_image else [list(range(len(x)))]:
        for c in range(x.shape[1]):
            kept = stack[images, c] != 255
            truth = set((stack[images, c][kept] == 1).nonzero().flatten().tolist())
            if truth if mode == "multiclass" else kept.any():
                losses.append(extension(errors[images, c][kept].tolist(), truth))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("per_image", [False, True])
def test_is_the_extension_by_its_definition(mode, per_image):
    generator = torch.Generator().manual_seed(0)
    channels = 1 if mode == "binary" else 4
    logits = torch.randn(2, channels, 5, 6, generator=generator)
    labels = torch.randint(3, (2, 5, 6), generator=generator)
    labels[1] %= 2  # class 3 is absent, class 2 only from the second image
    stack = torch.stack([labels == c for c in range(channels)], 1).long()
    if mode == "binary":
        stack, labels = (labels == 1).long().unsqueeze(1), (labels == 1).long()
    labels[1, 2:, :4] = 255
    stack[1, :, 2:, :4] = 255
    target = stack if mode == "multilabel" else labels
    value = Loss.build("lovasz", mode=mode, per_image=per_image)(logits, target)
    assert value.item() == pytest.approx(compute_plainly(logits, stack, mode, per_image), rel=1e-5)


def test_sure_predictions_cost_one_minus_the_iou():
    """With no smoothing at all, which no other loss of regions can say."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (2, 9, 8), generator=generator)
    decided = torch.randint(3, (2, 9, 8), generator=generator)
    target[0, :2] = 255
    logits = torch.stack([torch.where(decided == c, 100.0, -100.0) for c in range(3)], 1)
    iou = multiclass_jaccard_index(decided, target, num_classes=3, average="none", ignore_index=255)
    value = Loss.build("lovasz", mode="multiclass")(logits, target)
    torch.testing.assert_close(value, (1 - iou).mean())


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
def test_an_empty_mask_costs_the_worst_false_positive(mode):
    channels = 1 if mode == "binary" else 2
    logits = torch.full((1, channels, 4, 4), -3.0)
    target = torch.zeros(1, channels, 4, 4, dtype=torch.int64)
    target = target[:, 0] if mode == "binary" else target
    loss = Loss.build("lovasz", mode=mode)
    assert loss(logits, target) == 0
    logits[0, 0, 1, 2], logits[0, 0, 3, 3] = 1.5, 0.5
    logits.requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert value.item() == pytest.approx(2.5 / channels)
    assert logits.grad.nonzero().tolist() == [[0, 0, 1, 2]]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_the_steps_lead_from_nothing_wrong_to_all_wrong(pixels):
    errors, truth, valid = (torch.tensor(column) for column in zip(*pixels, strict=True))
    steps = compute_jaccard_steps(errors, truth & valid, valid)
    assert (steps >= 0).all()
    assert (steps[~valid] == 0).all()
    assert steps.sum().item() == pytest.approx(1.0 if valid.any() else 0.0, abs=1e-5)


def test_the_steps_are_as_exact_in_float32_as_in_float64():
    """Of a million pixels: each step is about 1e-6, which a difference of two J could not give."""
    generator = torch.Generator().manual_seed(0)
    errors = torch.rand(1 << 20, generator=generator)
    truth = torch.rand(1 << 20, generator=generator) < 0.3
    valid = torch.ones_like(truth)
    exact = compute_jaccard_steps(errors.double(), truth, valid)
    torch.testing.assert_close(
        compute_jaccard_steps(errors, truth, valid).double(), exact, rtol=1e-5, atol=0
    )
