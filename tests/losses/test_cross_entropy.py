"""Cross-entropy and binary cross-entropy against PyTorch and against each other."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from segkit.core.errors import SegkitError
from segkit.losses import Loss

SHAPE = (2, 3, 5, 7)


@pytest.fixture
def logits():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    target = torch.randint(3, (2, 5, 7), generator=torch.Generator().manual_seed(1))
    target[0, 1:3, 2:6] = 255
    return target


@pytest.fixture
def stack():
    return torch.randint(2, SHAPE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 1.0], [0.2, 3.0, 0.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_multiclass_equals_torch(logits, labels, weights, smoothing):
    loss = Loss.build(
        "cross_entropy", mode="multiclass", class_weights=weights, label_smoothing=smoothing
    )
    weight = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(logits, labels, weight, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, labels), expected)


@pytest.mark.parametrize("name", ["bce", "cross_entropy"])
def test_multilabel_equals_torch(name, logits, stack):
    expected = F.binary_cross_entropy_with_logits(logits, stack.float())
    torch.testing.assert_close(Loss.build(name, mode="multilabel")(logits, stack), expected)


@pytest.mark.parametrize("name", ["bce", "cross_entropy"])
def test_binary_equals_torch_without_the_ignored_pixels(name, logits, stack):
    logits, target = logits[:, :1], stack[:, 0]
    kept = torch.ones_like(target, dtype=torch.bool)
    kept[:, 2] = False
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][kept], target[kept].float())
    loss = Loss.build(name, mode="binary")
    torch.testing.assert_close(loss(logits, target.masked_fill(~kept, 255)), expected)


@pytest.mark.parametrize("pos_weight", [0.25, 4.0, [2.0, 1.0, 0.5]])
def test_pos_weight_equals_torch(logits, stack, pos_weight):
    loss = Loss.build("bce", mode="multilabel", pos_weight=pos_weight)
    weight = torch.tensor(pos_weight).view(-1, 1, 1)
    expected = F.binary_cross_entropy_with_logits(logits, stack.float(), pos_weight=weight)
    torch.testing.assert_close(loss(logits, stack), expected)


@pytest.mark.parametrize("weights", [None, [0.3, 2.0], [0.0, 1.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_equals_the_multiclass_one_of_two_classes(logits, stack, weights, smoothing):
    """softmax([0, x]) is (1 - sigmoid(x), sigmoid(x)): weights and smoothing mean the same too."""
    options = {"class_weights": weights, "label_smoothing": smoothing}
    one, target = logits[:, :1], stack[:, 0]
    target[0, 0] = 255
    two = torch.cat([torch.zeros_like(one), one], dim=1)
    binary = Loss.build("cross_entropy", mode="binary", **options)
    multiclass = Loss.build("cross_entropy", mode="multiclass", **options)
    torch.testing.assert_close(binary(one, target), multiclass(two, target))


def test_multilabel_weights_are_a_weighted_mean_over_classes(logits, stack):
    loss = Loss.build("cross_entropy", mode="multilabel", class_weights=[1.0, 2.0, 5.0])
    per_class = F.binary_cross_entropy_with_logits(logits, stack.float(), reduction="none")
    expected = (per_class.mean((0, 2, 3)) * torch.tensor([1.0, 2.0, 5.0])).sum() / 8
    torch.testing.assert_close(loss(logits, stack), expected)


def test_by_hand():
    # Two pixels: p(truth) = 1/2 and 3/4.
    logits = torch.tensor([[[[0.0, math.log(3)]]]])
    target = torch.tensor([[[1, 1]]])
    expected = (math.log(2) + math.log(4 / 3)) / 2
    for name in ("bce", "cross_entropy"):
        value = Loss.build(name, mode="binary")(logits, target)
        assert value.item() == pytest.approx(expected, rel=1e-6)


def test_pixels_of_weight_zero_alone_cost_nothing():
    loss = Loss.build("cross_entropy", mode="multiclass", class_weights=[0.0, 1.0])
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    value = loss(logits, torch.zeros(1, 3, 3, dtype=torch.int64))
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cross_entropy", {"class_weights": [1.0, 2.0, 0.5]}),
        ("bce", {"pos_weight": 2.0}),
        ("focal", {"alpha": 0.25}),
    ],
)
def test_weights_follow_the_logits_where_the_module_is_cast(logits, stack, name, options):
    loss = Loss.build(name, mode="multilabel", **options)
    expected = loss(logits, stack)
    value = loss.bfloat16()(logits, stack)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)


def test_multiclass_weights_follow_the_logits_where_the_module_is_cast(logits, labels):
    for name, option in [("cross_entropy", "class_weights"), ("focal", "alpha")]:
        loss = Loss.build(name, mode="multiclass", **{option: [1.0, 2.0, 0.5]})
        expected = loss(logits, labels)
        torch.testing.assert_close(loss.bfloat16()(logits, labels), expected)


def test_no_precision_is_lost_where_the_sigmoid_rounds_to_one():
    """1 - sigmoid(30) is 0 in float32; the loss of a wrong pixel there is 30."""
    loss = Loss.build("bce", mode="binary")
    value = loss(torch.full((1, 1, 1, 1), 30.0), torch.zeros(1, 1, 1, dtype=torch.int64))
    assert value.item() == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("multiclass", {"class_weights": [1.0, 2.0, 0.5], "label_smoothing": 0.1}),
        ("multilabel", {"class_weights": [1.0, 2.0, 0.5], "label_smoothing": 0.1}),
        ("multilabel", {}),
    ],
)
def test_gradients_are_right(logits, labels, stack, mode, options):
    loss = Loss.build("cross_entropy", mode=mode, **options).double()
    valid = labels != 255 if mode == "multiclass" else (labels != 255).unsqueeze(1).expand(SHAPE)
    truth = labels.where(labels != 255, 0) if mode == "multiclass" else stack.bool()
    inputs = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.compute(x, truth, valid), inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": [1.0, -1.0, 1.0]}, "zero or more"),
        ({"class_weights": [0.0, 0.0, 0.0]}, "above zero"),
        ({"class_weights": []}, "above zero"),
        ({"class_weights": [1.0, math.nan, 1.0]}, "zero or more"),
        ({"label_smoothing": 1.0}, "below 1"),
        ({"label_smoothing": -0.1}, "0 or more"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(SegkitError, match=message):
        Loss.build("cross_entropy", mode="multiclass", **options)


@pytest.mark.parametrize("pos_weight", [0.0, -1.0, math.inf, [1.0, -2.0]])
def test_a_pos_weight_out_of_range_is_refused(pos_weight):
    with pytest.raises(SegkitError, match="pos_weight"):
        Loss.build("bce", mode="multilabel", pos_weight=pos_weight)


def test_the_number_of_weights_is_checked(logits, labels, stack):
    with pytest.raises(SegkitError, match=r"2 weight.*3 are needed"):
        Loss.build("cross_entropy", mode="multiclass", class_weights=[1.0, 2.0])(logits, labels)
    with pytest.raises(SegkitError, match="background, foreground"):
        Loss.build("cross_entropy", mode="binary", class_weights=[1.0])
    with pytest.raises(SegkitError, match=r"2 weight.*3 are needed"):
        Loss.build("bce", mode="multilabel", pos_weight=[1.0, 2.0])(logits, stack)
