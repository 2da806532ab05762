"""Cross-entropy, binary cross-entropy and focal loss against PyTorch and their formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from segkit.core.errors import SegkitError
from segkit.losses import Loss

SHAPE = (2, 3, 5, 7)
assert_close = torch.testing.assert_close


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


@pytest.mark.parametrize("weights", [None, [0.2, 3.0, 0.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_multiclass_equals_torch(logits, labels, weights, smoothing):
    loss = Loss.build(
        "cross_entropy", mode="multiclass", class_weights=weights, label_smoothing=smoothing
    )
    weight = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(logits, labels, weight, ignore_index=255, label_smoothing=smoothing)
    assert_close(loss(logits, labels), expected)


@pytest.mark.parametrize("name", ["bce", "cross_entropy"])
def test_sigmoids_equal_torch(name, logits, stack):
    expected = F.binary_cross_entropy_with_logits(logits, stack.float())
    assert_close(Loss.build(name, mode="multilabel")(logits, stack), expected)
    logits, target = logits[:, :1], stack[:, 0]
    kept = torch.ones_like(target, dtype=torch.bool)
    kept[:, 2] = False
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][kept], target[kept].float())
    value = Loss.build(name, mode="binary")(logits, target.masked_fill(~kept, 255))
    assert_close(value, expected)


@pytest.mark.parametrize("pos_weight", [0.25, [2.0, 1.0, 0.5]])
def test_pos_weight_equals_torch(logits, stack, pos_weight):
    loss = Loss.build("bce", mode="multilabel", pos_weight=pos_weight)
    weight = torch.tensor(pos_weight).view(-1, 1, 1)
    expected = F.binary_cross_entropy_with_logits(logits, stack.float(), pos_weight=weight)
    assert_close(loss(logits, stack), expected)


@pytest.mark.parametrize("weights", [None, [0.3, 2.0], [0.0, 1.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_equals_multiclass_with_two_classes(logits, stack, weights, smoothing):
    """softmax([0, x]) is (1 - sigmoid(x), sigmoid(x)): weights and smoothing mean the same too."""
    options = {"class_weights": weights, "label_smoothing": smoothing}
    one, target = logits[:, :1], stack[:, 0]
    target[0, 0] = 255
    two = torch.cat([torch.zeros_like(one), one], dim=1)
    binary = Loss.build("cross_entropy", mode="binary", **options)
    multiclass = Loss.build("cross_entropy", mode="multiclass", **options)
    assert_close(binary(one, target), multiclass(two, target))


def test_multilabel_weights_are_a_weighted_mean_over_classes(logits, stack):
    loss = Loss.build("cross_entropy", mode="multilabel", class_weights=[1.0, 2.0, 5.0])
    per_class = F.binary_cross_entropy_with_logits(logits, stack.float(), reduction="none")
    expected = (per_class.mean((0, 2, 3)) * torch.tensor([1.0, 2.0, 5.0])).sum() / 8
    assert_close(loss(logits, stack), expected)


def test_by_hand():
    # two pixels with p(truth) = 1/2 and 3/4
    logits, target = torch.tensor([[[[0.0, math.log(3)]]]]), torch.tensor([[[1, 1]]])
    expected = (math.log(2) + math.log(4 / 3)) / 2
    for name in ("bce", "cross_entropy"):
        value = Loss.build(name, mode="binary")(logits, target)
        assert value.item() == pytest.approx(expected, rel=1e-6)
    # focal, gamma 2 and alpha 1/4, on the second: (1/4)^2 log(4/3) / 4
    focal = Loss.build("focal", mode="binary", alpha=0.25)(logits[..., 1:], target[..., 1:])
    assert focal.item() == pytest.approx(math.log(4 / 3) / 64, rel=1e-5)
    # 1 - sigmoid(30) is 0 in float32; the loss of a wrong pixel there is 30
    wrong = Loss.build("bce", mode="binary")(torch.full((1, 1, 1, 1), 30.0), 0 * target[..., 1:])
    assert wrong.item() == pytest.approx(30.0)


def test_if_all_pixels_have_weight_zero_the_loss_is_zero():
    loss = Loss.build("cross_entropy", mode="multiclass", class_weights=[0.0, 1.0])
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    value = loss(logits, torch.zeros(1, 3, 3, dtype=torch.int64))
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("cross_entropy", "multilabel", {"class_weights": [1.0, 2.0, 0.5]}),
        ("cross_entropy", "multiclass", {"class_weights": [1.0, 2.0, 0.5]}),
        ("bce", "multilabel", {"pos_weight": 2.0}),
        ("focal", "multilabel", {"alpha": 0.25}),
        ("focal", "multiclass", {"alpha": [1.0, 2.0, 0.5]}),
    ],
)
def test_weights_follow_the_logits_where_the_module_is_cast(
    logits, labels, stack, name, mode, options
):
    loss = Loss.build(name, mode=mode, **options)
    target = labels if mode == "multiclass" else stack
    expected = loss(logits, target)
    value = loss.bfloat16()(logits, target)
    assert value.dtype == torch.float32
    assert_close(value, expected)


@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
def test_gradients_with_weights_and_smoothing_are_right(logits, labels, stack, mode):
    valid = labels != 255 if mode == "multiclass" else (labels != 255).unsqueeze(1).expand(SHAPE)
    truth = labels.where(labels != 255, 0) if mode == "multiclass" else stack.bool()
    for name, options in (
        ("cross_entropy", {"class_weights": [1.0, 2.0, 0.5], "label_smoothing": 0.1}),
        ("focal", {"gamma": 1.5}),
    ):
        loss = Loss.build(name, mode=mode, **options).double()
        inputs = logits[:1, :, :2].double().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x, loss=loss: loss.compute(x, truth[:1, ..., :2, :], valid[:1, ..., :2, :]),
            inputs,
        )


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_focal_with_gamma_zero_is_cross_entropy(logits, labels, stack, mode):
    target = {"binary": stack[:, 0], "multiclass": labels, "multilabel": stack}[mode]
    logits = logits[:, :1] if mode == "binary" else logits
    focal = Loss.build("focal", mode=mode, gamma=0.0)
    assert_close(focal(logits, target), Loss.build("cross_entropy", mode=mode)(logits, target))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_follows_the_formula(logits, labels, stack, gamma):
    alpha = [0.2, 1.0, 3.0]
    kept = labels != 255
    p = logits.softmax(1).movedim(1, -1)[kept]
    p = p[torch.arange(len(p)), labels[kept]]
    expected = (-torch.tensor(alpha)[labels[kept]] * (1 - p) ** gamma * p.log()).mean()
    loss = Loss.build("focal", mode="multiclass", gamma=gamma, alpha=alpha)
    assert_close(loss(logits, labels), expected)

    stack[1, 2, :3] = 255
    kept = stack != 255
    positive = stack[kept] == 1
    p = torch.where(positive, logits.sigmoid()[kept], 1 - logits.sigmoid()[kept])
    expected = (-torch.where(positive, 0.25, 0.75) * (1 - p) ** gamma * p.log()).mean()
    loss = Loss.build("focal", mode="multilabel", gamma=gamma, alpha=0.25)
    assert_close(loss(logits, stack), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("scale", [40.0, 1e4])
def test_focal_gradients_are_finite_where_a_probability_rounds_to_one(gamma, scale):
    for mode, channels in (("binary", 1), ("multiclass", 3)):
        logits = torch.full((1, channels, 2, 2), -scale)
        logits[:, -1] = scale
        logits.requires_grad_()
        target = torch.tensor([[[channels - 1, 0], [1, 0]]])
        Loss.build("focal", mode=mode, gamma=gamma)(logits, target).backward()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "mode", "options", "message"),
    [
        ("cross_entropy", "multiclass", {"class_weights": [1.0, -1.0, 1.0]}, "zero or more"),
        ("cross_entropy", "multiclass", {"class_weights": [0.0, 0.0, 0.0]}, "above zero"),
        ("cross_entropy", "multiclass", {"class_weights": []}, "above zero"),
        ("cross_entropy", "multiclass", {"class_weights": [1.0, math.nan]}, "zero or more"),
        ("cross_entropy", "binary", {"class_weights": [1.0]}, "background, foreground"),
        ("cross_entropy", "multiclass", {"label_smoothing": 1.0}, "label_smoothing.*less than 1"),
        ("cross_entropy", "multiclass", {"label_smoothing": -0.1}, "label_smoothing"),
        ("bce", "multilabel", {"pos_weight": 0.0}, "pos_weight"),
        ("bce", "multilabel", {"pos_weight": math.inf}, "pos_weight"),
        ("bce", "multilabel", {"pos_weight": [1.0, -2.0]}, "pos_weight"),
        ("focal", "binary", {"gamma": -1.0}, "gamma"),
        ("focal", "binary", {"gamma": math.nan}, "gamma"),
        ("focal", "binary", {"alpha": 1.5}, "from 0 to 1"),
        ("focal", "multilabel", {"alpha": [0.5, 0.5]}, "one number"),
        ("focal", "multiclass", {"alpha": 0.25}, "a list, one per class"),
        ("focal", "multiclass", {"alpha": [1.0, -1.0]}, "zero or more"),
    ],
)
def test_options_out_of_range_are_refused(name, mode, options, message):
    with pytest.raises(SegkitError, match=message):
        Loss.build(name, mode=mode, **options)


def test_the_number_of_weights_is_checked(logits, labels, stack):
    two = [1.0, 2.0]
    for name, mode, options, target in (
        ("cross_entropy", "multiclass", {"class_weights": two}, labels),
        ("focal", "multiclass", {"alpha": two}, labels),
        ("bce", "multilabel", {"pos_weight": two}, stack),
    ):
        with pytest.raises(SegkitError, match=r"2 weight.*3 are needed"):
            Loss.build(name, mode=mode, **options)(logits, target)
