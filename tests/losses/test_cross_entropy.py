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


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
@pytest.mark.parametrize("pos_weight", [None, 3.0])
def test_smoothed_sigmoids_equal_torch_without_ignored_pixels(logits, stack, mode, pos_weight):
    if mode == "binary":
        logits, stack = logits[:, :1], stack[:, :1]
    kept = torch.rand(stack.shape, generator=torch.Generator().manual_seed(3)) > 0.3
    smooth = 0.8 * stack + 0.1
    expected = F.binary_cross_entropy_with_logits(
        logits[kept], smooth[kept], pos_weight=torch.tensor(pos_weight or 1.0)
    )
    target = stack.masked_fill(~kept, 255)
    given = target[:, 0] if mode == "binary" else target
    for name in ("bce", "cross_entropy") if pos_weight is None else ("bce",):
        options = {"label_smoothing": 0.2} | ({"pos_weight": pos_weight} if pos_weight else {})
        loss = Loss.build(name, mode=mode, **options)
        free = logits.clone().requires_grad_()
        value = loss(free, given)
        assert_close(value, expected)
        value.backward()
        assert (free.grad[~kept] == 0).all()
        assert (free.grad[kept] != 0).all()


def test_smoothing_gives_ignored_pixels_no_gradient(logits, labels):
    logits.requires_grad_()
    Loss.build("cross_entropy", mode="multiclass", label_smoothing=0.3)(logits, labels).backward()
    ignored = (labels == 255).unsqueeze(1).expand_as(logits)
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).all()


def top_k_of_nnunet(logits, labels, percent):
    """nnU-Net's TopKLoss, written from its definition: of all pixels, without class weights."""
    losses = F.cross_entropy(logits, labels, reduction="none").flatten()
    return losses.sort(descending=True).values[: int(len(losses) * percent / 100)].mean()


@pytest.mark.parametrize("percent", [10, 50, 100])
def test_the_hardest_pixels_are_those_of_nnunet(logits, percent):
    labels = torch.randint(3, (2, 5, 7), generator=torch.Generator().manual_seed(1))
    loss = Loss.build("cross_entropy", mode="multiclass", top_k=percent / 100)
    assert_close(loss(logits, labels), top_k_of_nnunet(logits, labels, percent))


@pytest.mark.parametrize("weights", [None, [0.2, 3.0, 0.5]])
@pytest.mark.parametrize("top_k", [0.01, 0.25, 0.9, 1.0])
def test_the_hardest_are_counted_and_chosen_without_ignored_pixels(logits, labels, weights, top_k):
    """By sorting, with class weights and weights of pixels; ignored pixels would cost most."""
    kept = labels != 255
    logits = torch.where(kept.unsqueeze(1), logits, logits * 50)
    pixels = torch.rand(labels.shape, generator=torch.Generator().manual_seed(4)) + 0.5
    own = torch.ones(3) if weights is None else torch.tensor(weights)
    costs = F.cross_entropy(logits, labels, own, ignore_index=255, reduction="none") * pixels
    costs, divisors = costs[kept], own[labels[kept]]
    order = costs.argsort(descending=True)[: max(1, round(top_k * len(costs)))]
    loss = Loss.build("cross_entropy", mode="multiclass", class_weights=weights, top_k=top_k)
    free = logits.clone().requires_grad_()
    value = loss(free, labels, pixels)
    assert_close(value, costs[order].sum() / divisors[order].sum())
    value.backward()
    touched = (free.grad != 0).any(1)
    assert touched.sum() == len(order)
    assert not touched[~kept].any()
    half = loss.bfloat16()(logits.bfloat16(), labels, pixels)
    assert half.dtype == torch.float32
    assert_close(half, loss(logits.bfloat16().float(), labels, pixels))


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_all_pixels_are_the_plain_cross_entropy(logits, labels, stack, mode):
    given = {
        "binary": (logits[:, :1], stack[:, 0]),
        "multiclass": (logits, labels),
        "multilabel": (logits, stack),
    }[mode]
    plain, whole, most = (
        Loss.build("cross_entropy", mode=mode, top_k=share)(*given) for share in (1.0, 0.9999, 0.5)
    )
    assert_close(whole, plain)
    assert most > plain


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
        ("cross_entropy", "multiclass", {"top_k": 0.0}, "top_k.*greater than 0"),
        ("cross_entropy", "multiclass", {"top_k": 10}, "top_k.*less than or equal to 1"),
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
