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


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("cross_entropy", "multilabel", {"class_weights": [1.0, 2.0, 0.5]}),
        ("bce", "multilabel", {"pos_weight": 2.0}),
        ("focal", "multiclass", {"alpha": [1.0, 2.0, 0.5]}),
    ],
)
def test_weights_are_float32_where_the_module_is_cast(logits, labels, name, mode, options):
    loss = Loss.build(name, mode=mode, **options)
    expected = loss(logits, labels)
    value = loss.bfloat16()(logits, labels)
    assert value.dtype == torch.float32
    assert_close(value, expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
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
        ("cross_entropy", "multiclass", {"class_weights": [1.0, math.nan]}, "zero or more"),
        ("cross_entropy", "multiclass", {"class_weights": [0.0, 0.0, 0.0]}, "above zero"),
        ("cross_entropy", "multiclass", {"class_weights": [1.0, 2.0]}, "2 weight.*3 are needed"),
        ("cross_entropy", "binary", {"class_weights": [1.0]}, "background, foreground"),
        ("cross_entropy", "multiclass", {"label_smoothing": 1.0}, "label_smoothing.*less than 1"),
        ("bce", "multilabel", {"pos_weight": math.inf}, "pos_weight"),
        ("bce", "multilabel", {"pos_weight": [1.0, 2.0]}, "2 weight.*3 are needed"),
        ("focal", "binary", {"gamma": math.nan}, "gamma"),
        ("focal", "binary", {"alpha": 1.5}, "from 0 to 1"),
        ("focal", "multilabel", {"alpha": [0.5, 0.5]}, "one number"),
        ("focal", "multiclass", {"alpha": 0.25}, "a list, one per class"),
        ("focal", "multiclass", {"alpha": [1.0, 2.0]}, "2 weight.*3 are needed"),
    ],
)
def test_wrong_options_are_refused(logits, labels, name, mode, options, message):
    with pytest.raises(SegkitError, match=message):
        Loss.build(name, mode=mode, **options)(logits, labels)
