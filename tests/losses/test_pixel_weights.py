"""Maps of pixel weights: which losses take them, their effect, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from segkit.core.errors import SegkitError
from segkit.losses import Loss

CHANNELS = {"binary": 1, "multiclass": 3, "multilabel": 3}
TERMS = {"dice": {"weight": 2.0}, "cross_entropy": {"weight": 0.5}}
TAKERS = [
    (name, mode)
    for name in Loss.names()
    if Loss.resolve(name, {})[0].takes_weight
    for mode in Loss.resolve(name, {})[0].modes
]
every_taker = pytest.mark.parametrize(("name", "mode"), TAKERS)


def batch(mode):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, CHANNELS[mode], 5, 7, generator=generator)
    target = torch.randint(max(2, CHANNELS[mode]), (2, 5, 7), generator=generator)
    target[0, 1:3, 2:6] = 255
    return logits, target, torch.rand(2, 5, 7, generator=generator) * 10


@every_taker
def test_equals_the_weighted_sum_over_the_number_of_pixels(name, mode):
    """Each weight multiplies the loss that its pixel would have alone."""
    logits, target, weight = batch(mode)
    loss = Loss.build(name, mode=mode)
    total, count = 0.0, 0
    for b, y, x in (target != 255).nonzero().tolist():
        pixel = (b, slice(None), slice(y, y + 1), slice(x, x + 1))
        alone = loss(logits[pixel].unsqueeze(0), target[b, y, x].view(1, 1, 1))
        total, count = total + weight[b, y, x].item() * alone.item(), count + 1
    assert loss(logits, target, weight).item() == pytest.approx(total / count, rel=1e-5)
    assert loss(logits, target, torch.ones_like(weight)) == loss(logits, target)
    assert loss(logits, target, weight.double()) == loss(logits, target, weight)


@every_taker
def test_weights_at_ignored_pixels_do_not_matter(name, mode):
    logits, target, weight = batch(mode)
    logits.requires_grad_()
    loss = Loss.build(name, mode=mode)
    expected = loss(logits, target, weight)
    for nothing in (math.nan, math.inf, -1.0):
        value = loss(logits, target, weight.masked_fill(target == 255, nothing))
        (gradient,) = torch.autograd.grad(value, logits)
        assert value == expected
        assert gradient.isfinite().all()
        assert (gradient.movedim(1, -1)[target == 255] == 0).all()
    value = loss(logits, target, torch.zeros_like(weight))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_and_pixel_weights_together(smoothing):
    """The map is in the numerator only, class weights are in both."""
    logits, target, weight = batch("multiclass")
    options = {"class_weights": [0.5, 1.0, 4.0], "label_smoothing": smoothing}
    kept = target != 255
    classes = torch.tensor(options["class_weights"])
    own = target.where(kept, 0)
    losses = F.cross_entropy(logits, own, classes, reduction="none", label_smoothing=smoothing)
    expected = (losses * weight)[kept].sum() / classes[own][kept].sum()
    loss = Loss.build("cross_entropy", mode="multiclass", **options)
    torch.testing.assert_close(loss(logits, target, weight), expected)


def test_a_pixel_ignored_in_one_class_has_its_weight_in_the_others():
    logits, _, weight = batch("multilabel")
    stack = torch.randint(2, logits.shape, generator=torch.Generator().manual_seed(1))
    stack[0, 1, 2, 3] = 255
    kept = stack != 255
    truth = stack.clamp(max=1).float()
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    expected = (losses * weight.unsqueeze(1))[kept].mean()
    torch.testing.assert_close(
        Loss.build("bce", mode="multilabel")(logits, stack, weight), expected
    )


@pytest.mark.slow
def test_compiles_into_one_graph_with_weights():
    torch.compiler.reset()
    loss = Loss.build("cross_entropy", mode="multilabel")
    inputs = batch("multilabel")
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), loss(*inputs))


@pytest.mark.parametrize("mode", CHANNELS)
def test_a_sum_passes_weights_to_the_terms_that_take_them(mode):
    logits, target, weight = batch(mode)
    nested = {"name": "sum", "terms": {"focal": {}, "jaccard": {}}}
    loss = Loss.build("sum", mode=mode, terms=TERMS | {"inner": nested})
    expected = (
        2 * Loss.build("dice", mode=mode)(logits, target)
        + 0.5 * Loss.build("cross_entropy", mode=mode)(logits, target, weight)
        + Loss.build("focal", mode=mode)(logits, target, weight)
        + Loss.build("jaccard", mode=mode)(logits, target)
    )
    assert loss.takes_weight
    torch.testing.assert_close(loss(logits, target, weight), expected)


def test_losses_without_weights_list_those_that_take_them():
    for name, options in (("dice", {}), ("sum", {"terms": {"dice": {}, "tversky": {}}})):
        loss = Loss.build(name, mode="binary", **options)
        with pytest.raises(
            SegkitError,
            match=f"'{name}' takes no pixel weights.* bce, cross_entropy, focal, and a sum",
        ):
            loss(*batch("binary"))


def test_wrong_weights_are_refused_with_a_remedy():
    logits, target, weight = batch("multiclass")
    wrong = [
        (weight[..., :6], r"\(2, 5, 6\), but \(2, 5, 7\) is needed"),
        (weight.unsqueeze(1), r"\(2, 1, 5, 7\), but \(2, 5, 7\) is needed"),
        (weight.long(), r"weight\.float\(\)"),
    ]
    for value in (-0.5, math.nan, math.inf):
        wrong.append((weight.clone(), f"contains {value}: weights must be finite"))
        wrong[-1][0][1, 4, 6] = value
    for weight, message in wrong:
        with pytest.raises(SegkitError, match=message):
            Loss.build("focal", mode="multiclass")(logits, target, weight)
