"""Focal loss against its formula and against cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch

from segkit.core.errors import SegkitError
from segkit.losses import Loss


@pytest.fixture
def logits():
    return torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    target = torch.randint(3, (2, 5, 7), generator=torch.Generator().manual_seed(1))
    target[0, 1:3, 2:6] = 255
    return target


@pytest.fixture
def stack():
    target = torch.randint(2, (2, 3, 5, 7), generator=torch.Generator().manual_seed(2))
    target[1, 2, :3] = 255
    return target


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_gamma_zero_is_cross_entropy(logits, labels, stack, mode):
    if mode == "binary":
        logits, target = logits[:, :1], stack[:, 0]
    else:
        target = labels if mode == "multiclass" else stack
    focal = Loss.build("focal", mode=mode, gamma=0.0)
    cross_entropy = Loss.build("cross_entropy", mode=mode)
    torch.testing.assert_close(focal(logits, target), cross_entropy(logits, target))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_multiclass_follows_the_formula(logits, labels, gamma):
    alpha = [0.2, 1.0, 3.0]
    kept = labels != 255
    p = logits.softmax(1).movedim(1, -1)[kept]
    p = p[torch.arange(len(p)), labels[kept]]
    expected = (-torch.tensor(alpha)[labels[kept]] * (1 - p) ** gamma * p.log()).mean()
    loss = Loss.build("focal", mode="multiclass", gamma=gamma, alpha=alpha)
    torch.testing.assert_close(loss(logits, labels), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_multilabel_follows_the_formula(logits, stack, gamma):
    kept = stack != 255
    positive = stack[kept] == 1
    p = torch.where(positive, logits.sigmoid()[kept], 1 - logits.sigmoid()[kept])
    alpha = torch.where(positive, 0.25, 0.75)
    expected = (-alpha * (1 - p) ** gamma * p.log()).mean()
    loss = Loss.build("focal", mode="multilabel", gamma=gamma, alpha=0.25)
    torch.testing.assert_close(loss(logits, stack), expected)


def test_by_hand():
    # One pixel with p(truth) = 3/4, gamma 2: (1/4)^2 log(4/3), times alpha 1/4.
    loss = Loss.build("focal", mode="binary", alpha=0.25)
    value = loss(torch.full((1, 1, 1, 1), math.log(3)), torch.ones(1, 1, 1, dtype=torch.int64))
    assert value.item() == pytest.approx(0.25 * math.log(4 / 3) / 16, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("mode", ["binary", "multiclass"])
@pytest.mark.parametrize("scale", [40.0, 1e4])
def test_gradients_are_finite_where_a_probability_rounds_to_one(gamma, mode, scale):
    channels = 1 if mode == "binary" else 3
    logits = torch.full((1, channels, 2, 2), -scale)
    logits[:, -1] = scale
    logits.requires_grad_()
    target = torch.tensor([[[channels - 1, 0], [1, 0]]])
    Loss.build("focal", mode=mode, gamma=gamma)(logits, target).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
def test_gradients_are_right(logits, labels, stack, mode):
    target = labels if mode == "multiclass" else stack
    valid = target != 255
    truth = target.where(valid, 0) if mode == "multiclass" else target == 1
    loss = Loss.build("focal", mode=mode, gamma=1.5)
    inputs = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.compute(x, truth, valid), inputs)


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("binary", {"gamma": -1.0}, "gamma"),
        ("binary", {"gamma": math.inf}, "gamma"),
        ("binary", {"alpha": 1.5}, "from 0 to 1"),
        ("multilabel", {"alpha": [0.2, 0.3, 0.5]}, "one number"),
        ("multiclass", {"alpha": 0.25}, "one per class"),
        ("multiclass", {"alpha": [1.0, -1.0, 1.0]}, "zero or more"),
    ],
)
def test_options_out_of_range_are_refused(mode, options, message):
    with pytest.raises(SegkitError, match=message):
        Loss.build("focal", mode=mode, **options)


def test_the_number_of_alphas_is_checked(logits, labels):
    with pytest.raises(SegkitError, match=r"2 weight.*3 are needed"):
        Loss.build("focal", mode="multiclass", alpha=[1.0, 2.0])(logits, labels)
