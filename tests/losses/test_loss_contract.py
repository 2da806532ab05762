"""What every loss guarantees, for each name and mode; what the base class does, on one of them."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import Tensor

import segkit.losses.base
import segkit.losses.sum
from segkit.core.errors import SegkitError
from segkit.losses import Loss

OPTIONS = {
    "sum": {"terms": {"dice": {}, "cross_entropy": {}}},  # has no default
    "dice per image": {"per_image": True},
    "lovasz per image": {"per_image": True},
    "cldice per image": {"per_image": True},
    "cross_entropy hardest": {"top_k": 0.3},
    "focal tversky": {"name": "tversky", "gamma": 0.75},
}
CHANNELS = {"binary": 1, "multiclass": 4, "multilabel": 3}


def build(name: str, mode: str, **options) -> Loss:
    given = {"name": name.split()[0], **OPTIONS.get(name, {}), **options}
    return Loss.build(given.pop("name"), mode=mode, **given)


CASES = [
    (name, mode)
    for name in {**dict.fromkeys(Loss.names()), **OPTIONS}
    if name not in Loss.names() or not Loss.resolve(name, {})[0].takes_queries
    for mode in CHANNELS
    if (name, mode) != ("bce", "multiclass")
]
every_loss = pytest.mark.parametrize(("name", "mode"), CASES)
every_mode = pytest.mark.parametrize("mode", CHANNELS)


def batch(mode: str, size: tuple[int, int] = (6, 8)) -> tuple[Tensor, Tensor]:
    """Random logits (2, C, H, W) and labels (2, H, W), none of them ignored."""
    generator = torch.Generator().manual_seed(0)
    channels = CHANNELS[mode]
    logits = torch.randn(2, channels, *size, generator=generator)
    return logits, torch.randint(max(2, channels), (2, *size), generator=generator)


def confident(mode: str, target: Tensor, logit: float) -> Tensor:
    """Logits of +-logit that decide for the target everywhere."""
    classes = [1] if mode == "binary" else range(CHANNELS[mode])
    return torch.where(torch.stack([target == c for c in classes], 1), logit, -logit)


def backward(loss: Loss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the gradient of the logits."""
    logits = logits.detach().requires_grad_()
    value = loss(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("module", [segkit.losses.base, segkit.losses.sum])
def test_the_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@every_loss
def test_falls_along_its_gradient_to_zero_where_all_is_right(name, mode):
    loss = build(name, mode)
    logits, target = batch(mode)
    value, gradient = backward(loss, logits, target)
    assert (value.shape, value.dtype) == ((), torch.float32)
    assert loss(logits - 0.1 * gradient / gradient.norm(), target) < value
    right = confident(mode, target, 20.0)
    assert loss(right, target) < 1e-4
    assert loss(right, target) < value < loss(-right, target)
    assert not loss.state_dict()  # options come from the config


@every_loss
def test_gradients_are_right(name, mode):
    generator = torch.Generator().manual_seed(0)
    loss = build(name, mode).double()
    labels, stack = (torch.randint(n, (2, 3, 4), generator=generator) for n in (4, 2))
    if mode != "multiclass":
        labels = stack.unsqueeze(1).repeat(1, CHANNELS[mode], 1, 1) == 1  # (B, C, H, W)
    valid = torch.rand(labels.shape, generator=generator) > 0.3
    logits = torch.randn(2, CHANNELS[mode], 3, 4, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.compute(x, labels, valid), logits)


@every_loss
def test_images_of_any_size_have_a_loss(name, mode):
    loss = build(name, mode)
    for size in ((1, 1), (1, 7), (5, 1)):
        logits, target = batch(mode, size)
        value, gradient = backward(loss, logits, target)
        assert value > 0
        assert gradient.isfinite().all()
        assert loss(confident(mode, target, 30.0), target) < 1e-4
    assert loss(logits[:0], target[:0]) == 0


@every_loss
def test_false_positives_on_an_empty_mask_cost_something(name, mode):
    """All of class 0 (multilabel: no class at all), and a few, half or all rows say otherwise."""
    loss = build(name, mode)
    decided = torch.zeros(2, 6, 8, dtype=torch.int64)
    truth = torch.zeros(2, 3, 6, 8, dtype=torch.int64) if mode == "multilabel" else decided.clone()
    if mode == "multilabel":
        decided -= 1  # no class
    right = confident(mode, decided, 6.0)
    for rows in (1, 3, 6):
        decided[1, :rows] = {"binary": 1, "multiclass": 3, "multilabel": 2}[mode]
        assert loss(confident(mode, decided, 6.0), truth) > loss(right, truth) + 0.02
    _, gradient = backward(loss, torch.zeros_like(right), truth)
    assert (gradient * right).sum() < 0  # falls towards the correct prediction


@every_loss
def test_ignored_pixels_change_nothing(name, mode):
    logits, target = batch(mode)
    expected, cropped = backward(build(name, mode), logits[..., :5], target[..., :5])
    logits[..., 5:] = 30.0  # whatever is predicted there
    for ignore_index in (255, -100):
        target[..., 5:] = ignore_index
        loss = build(name, mode, ignore_index=ignore_index)
        value, gradient = backward(loss, logits, target)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient[..., :5], cropped)
        assert (gradient[..., 5:] == 0).all()
    for scale in (1.0, 1e4):
        value, gradient = backward(loss, logits * scale, torch.full_like(target, ignore_index))
        assert value.item() == 0
        assert (gradient == 0).all()


@every_loss
def test_gradients_are_finite_at_extreme_logits(name, mode):
    _, target = batch(mode)
    for logit in (1e4, -1e4):
        value, gradient = backward(build(name, mode), confident(mode, target, logit), target)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name, mode in CASES if mode == "multilabel"])
def test_classes_of_a_pixel_are_apart_in_multilabel(name):
    loss = build(name, "multilabel")
    logits, target = batch("multilabel")
    target[0, 0] = 255
    stack = torch.stack([target == c for c in range(3)], dim=1).long()
    stack[0, :, 0] = 255
    assert loss(logits, target) == loss(logits, stack)  # a label map: one class per pixel

    stack = torch.randint(2, logits.shape, generator=torch.Generator().manual_seed(1))
    stack[0, 1, 2, 3] = 255  # only one class of this pixel is ignored
    value, gradient = backward(loss, logits, stack)
    assert gradient[0, 1, 2, 3] == 0
    moved = logits.clone()
    moved[0, 1, 2, 3] += 50
    assert loss(moved, stack) == value
    moved[0, 2, 2, 3] += 50 if stack[0, 2, 2, 3] == 0 else -50
    assert loss(moved, stack) > value

    expected = loss(logits[:, :2], stack[:, :2])
    stack[:, 2] = 255  # a class that is labelled nowhere is left out of the mean
    torch.testing.assert_close(loss(logits, stack), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), [c for c in CASES if c[1] == "multiclass"] + CASES[:1])
def test_compiles_into_one_graph(name, mode):
    torch.compiler.reset()
    loss = build(name, mode)
    logits, target = batch(mode)
    target[0, :2] = 255
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits, target), loss(logits, target))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # as asked
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(c for c in CASES if c[0] != "boundary"),
        ("focal points", "multiclass"),
        ("dice points", "binary"),
    ],
)
def test_does_not_wait_for_the_device(name, mode):
    """All but the boundary loss, whose docstring says so: its distances come from the CPU."""
    loss = build(name, mode, **({"points": 20} if "points" in name else {})).cuda()
    logits, target = (tensor.cuda() for tensor in batch(mode))
    expected = loss(logits, target)
    try:
        torch.cuda.set_sync_debug_mode("error")
        value = loss(logits, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert value == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["dice", "cross_entropy"])
def test_half_precision_logits_do_not_overflow(name, dtype):
    """The base converts them, before any sum over more than 65504 pixels."""
    loss = build(name, "multilabel")
    logits, target = batch("multilabel", (300, 300))
    logits = logits.to(dtype)
    value, gradient = backward(loss, logits, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.float(), target))
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("result", "found"), [(torch.ones(2, 1), r"\(2, 1\)"), (0.5, "float"), (None, "NoneType")]
)
def test_a_loss_that_is_no_scalar_is_an_error(result, found):
    loss = build("dice", "binary")
    loss.compute = lambda *_: result
    with pytest.raises(
        SegkitError, match=rf"Dice\.compute returned {found}, but a loss is a scalar"
    ):
        loss(*batch("binary"))


def test_autocast_is_off_inside():
    loss = build("dice", "binary")
    logits, target = batch("binary")
    loss.compute = lambda logits, *rest: (logits @ logits.mT).sum()  # autocast would change it
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits, target)
    assert inside == (logits @ logits.mT).sum()


@every_mode
def test_every_integer_dtype_is_accepted(mode):
    loss = build("cross_entropy", mode, ignore_index=100)
    logits, target = batch(mode)
    target[0, :2] = 100
    expected = loss(logits, target)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32):
        assert loss(logits, target.to(dtype)) == expected


def test_invalid_inputs_are_refused_with_a_remedy():
    logits, target = batch("multilabel")
    wrong = target.clone()
    wrong[0, 0, :2] = torch.tensor([9, -1])
    for x, y, message in [
        (logits[:, 0], target, r"\(B, C, H, W\), not \(2, 6, 8\)"),
        (logits, target[..., :7], r"\(2, 6, 7\).* needs \(2, 6, 8\)"),
        (logits[:1], target, r"needs \(1, 6, 8\)"),  # it would broadcast
        (logits, target.float(), r"target\.long\(\)"),
        (logits.long(), target, r"float logits, not .*int64"),
        (logits, wrong, "-1, 9, but the 3 classes are 0 to 2"),
        (logits, target.unsqueeze(1), r"squeeze\(1\)"),
        (logits, torch.full(logits.shape, 2), "2, but the 2 classes are 0 to 1"),
    ]:
        with pytest.raises(SegkitError, match=message):
            build("dice", "multilabel")(x, y)


def test_wrong_options_modes_and_channels_are_refused():
    with pytest.raises(SegkitError, match="no mode 'multi'"):
        Loss.resolve("dice", {})[0]("multi")
    with pytest.raises(SegkitError, match=r"no mode 'multiclass'.*supported by .*cross_entropy"):
        build("bce", "multiclass")
    target = torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(SegkitError, match=r"1 channel.*\(2, 2, 4, 4\).*multiclass"):
        build("dice", "binary")(torch.zeros(2, 2, 4, 4), target)
    with pytest.raises(SegkitError, match=r"2 channels or more.*binary"):
        build("dice", "multiclass")(torch.zeros(2, 1, 4, 4), target)
