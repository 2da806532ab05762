"""What every loss promises, checked for each name and mode in the registry."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import segkit.losses.base
import segkit.losses.sum
from segkit.core.errors import SegkitError
from segkit.losses import Loss

# What a loss cannot be built without. Every other loss is built with its defaults.
NEEDED: dict[str, dict[str, Any]] = {"sum": {"terms": {"dice": {}, "cross_entropy": {}}}}
BUILTIN = {"bce", "boundary", "cldice", "cross_entropy", "dice", "focal", "jaccard", "lovasz"}
BUILTIN |= {"sum", "tversky"}
# What is another loss by its options.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{name} per image": (name, {"per_image": True})
    for name in Loss.names()
    if "per_image" in inspect.signature(Loss.resolve(name, {})[0]).parameters
}
VARIANTS["focal tversky"] = ("tversky", {"gamma": 0.75})
CHANNELS = {"binary": 1, "multiclass": 4, "multilabel": 3}
CASES = [
    (name, mode)
    for name in [*Loss.names(), *VARIANTS]
    for mode in CHANNELS
    if mode in Loss.resolve(VARIANTS.get(name, (name, {}))[0], {})[0].modes
]
UNSERVED = [(name, mode) for name in Loss.names() for mode in CHANNELS if (name, mode) not in CASES]

every_loss = pytest.mark.parametrize(("name", "mode"), CASES)


def build(name: str, mode: str, **options: Any) -> Loss:
    name, given = VARIANTS.get(name, (name, NEEDED.get(name, {})))
    return Loss.build(name, mode=mode, **given, **options)


def batch(mode: str, size: tuple[int, int] = (6, 8), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random logits (2, C, H, W) and labels (2, H, W), none of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    channels = CHANNELS[mode]
    logits = torch.randn(2, channels, *size, generator=generator)
    return logits, torch.randint(max(2, channels), (2, *size), generator=generator)


def confident(mode: str, target: Tensor, logit: float) -> Tensor:
    """Logits of +-logit that decide for the target everywhere."""
    if mode == "binary":
        truth = target.unsqueeze(1) == 1
    else:
        truth = torch.stack([target == c for c in range(CHANNELS[mode])], dim=1)
    return torch.where(truth, logit, -logit)


def test_the_builtin_losses_are_there():
    assert set(Loss.names()) >= BUILTIN


def test_importing_the_base_alone_registers_every_builtin_loss():
    code = "from segkit.losses.base import Loss; print(*Loss.names())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(out.stdout.split()) >= BUILTIN


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Loss("binary")


@pytest.mark.parametrize("module", [segkit.losses.base, segkit.losses.sum])
def test_the_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", Loss.names())
def test_the_docstring_describes_every_option(name):
    loss = Loss.resolve(name, {})[0]
    for option in inspect.signature(loss).parameters:
        assert f"\n    {option}: " in inspect.getdoc(loss)


@every_loss
def test_is_a_float32_scalar_with_a_gradient(name, mode):
    logits, target = batch(mode)
    value = build(name, mode)(logits.requires_grad_(), target)
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value > 0
    value.backward()
    assert logits.grad.abs().sum() > 0


@every_loss
def test_a_right_prediction_costs_nothing_and_a_wrong_one_most(name, mode):
    loss = build(name, mode)
    logits, target = batch(mode)
    right = confident(mode, target, 20.0)
    assert loss(right, target) < 1e-4
    assert loss(right, target) < loss(logits, target) < loss(-right, target)


@every_loss
def test_a_step_down_the_gradient_lowers_it(name, mode):
    loss = build(name, mode)
    logits, target = batch(mode)
    before = loss(logits.requires_grad_(), target)
    (gradient,) = torch.autograd.grad(before, logits)
    assert loss(logits - 0.1 * gradient / gradient.norm(), target) < before


@every_loss
def test_gradients_are_right(name, mode):
    generator = torch.Generator().manual_seed(0)
    loss = build(name, mode).double()
    labels, stack = (torch.randint(n, (2, 4, 5), generator=generator) for n in (4, 2))
    if mode != "multiclass":
        labels = stack.unsqueeze(1).repeat(1, CHANNELS[mode], 1, 1) == 1  # (B, C, H, W)
    valid = torch.rand(labels.shape, generator=generator) > 0.3
    logits = torch.randn(2, CHANNELS[mode], 4, 5, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: loss.compute(x, labels, valid), logits.requires_grad_()
    )


@every_loss
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (2, 2)])
def test_images_of_any_size_have_a_loss(name, mode, size):
    loss = build(name, mode)
    logits, target = batch(mode, size)
    value = loss(logits.requires_grad_(), target)
    value.backward()
    assert value > 0
    assert logits.grad.isfinite().all()
    assert loss(confident(mode, target, 30.0), target) < 1e-4


@every_loss
def test_a_batch_without_images_costs_nothing(name, mode):
    logits, target = (tensor[:0] for tensor in batch(mode))
    assert build(name, mode)(logits, target) == 0


@every_loss
@pytest.mark.parametrize("rows", [1, 3, 6])
def test_false_positives_on_an_empty_mask_cost_something(name, mode, rows):
    """All of class 0 (multilabel: no class at all), and a few, half or all rows say otherwise."""
    loss = build(name, mode)
    empty = torch.zeros(2, 6, 8, dtype=torch.int64)
    truth = torch.zeros(2, 3, 6, 8, dtype=torch.int64) if mode == "multilabel" else empty
    absent = {"binary": 1, "multiclass": 3, "multilabel": 2}[mode]
    decided = empty.clone()
    if mode == "multilabel":
        decided -= 1  # of no class
    right = confident(mode, decided, 6.0)
    decided[1, :rows] = absent
    assert loss(confident(mode, decided, 6.0), truth) > loss(right, truth) + 0.02

    undecided = torch.zeros_like(right).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(undecided, truth), undecided)
    assert (gradient * right).sum() < 0  # it falls on the way to the right prediction


@every_loss
@pytest.mark.parametrize("ignore_index", [255, -100, 7])
def test_ignored_pixels_do_not_exist(name, mode, ignore_index):
    loss = build(name, mode, ignore_index=ignore_index)
    logits, target = batch(mode, (6, 8))
    cropped = logits[..., :5].clone().requires_grad_()
    expected = loss(cropped, target[..., :5])
    expected.backward()

    logits[..., 5:] = 30.0  # whatever is predicted there
    target[..., 5:] = ignore_index
    value = loss(logits.requires_grad_(), target)
    value.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(logits.grad[..., :5], cropped.grad)
    assert (logits.grad[..., 5:] == 0).all()


@every_loss
def test_a_class_can_be_the_one_that_is_ignored(name, mode):
    logits, target = batch(mode)
    ignored = target == 0
    expected = build(name, mode)(logits, target.masked_fill(ignored, 255))
    torch.testing.assert_close(build(name, mode, ignore_index=0)(logits, target), expected)


@every_loss
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_batch_that_is_all_ignored_costs_exactly_nothing(name, mode, scale):
    logits, target = batch(mode)
    logits = (logits * scale).requires_grad_()
    value = build(name, mode)(logits, torch.full_like(target, 255))
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


@every_loss
@pytest.mark.parametrize("sign", [1, -1])
def test_gradients_are_finite_at_extreme_logits(name, mode, sign):
    _, target = batch(mode)
    logits = confident(mode, target, sign * 1e4).requires_grad_()
    value = build(name, mode)(logits, target)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_do_not_overflow(name, mode, dtype):
    loss = build(name, mode)
    logits, target = batch(mode, (512, 512))
    logits = logits.to(dtype).requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.detach().float(), target))
    assert logits.grad.isfinite().all()


@every_loss
def test_autocast_changes_nothing(name, mode):
    loss = build(name, mode)
    logits, target = batch(mode)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits, target)
    assert inside == loss(logits, target)


def test_autocast_is_off_inside(monkeypatch):
    """No loss of today has an operation that autocast changes on the CPU: one is put in."""
    loss = build("dice", "binary")
    logits, target = batch("binary")
    monkeypatch.setattr(
        type(loss), "compute", lambda self, logits, *rest: (logits @ logits.mT).sum()
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits, target)
    assert inside == (logits @ logits.mT).sum()


@every_loss
def test_a_module_in_half_precision_still_computes_in_float32(name, mode):
    logits, target = batch(mode)
    value = build(name, mode).bfloat16()(logits, target)
    torch.testing.assert_close(value, build(name, mode)(logits, target))


@every_loss
def test_the_order_of_the_batch_does_not_matter(name, mode):
    loss = build(name, mode)
    logits, target = batch(mode)
    torch.testing.assert_close(loss(logits.flip(0), target.flip(0)), loss(logits, target))


@every_loss
@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64],
    ids=str,
)
def test_every_integer_dtype_is_taken(name, mode, dtype):
    loss = build(name, mode, ignore_index=100)
    logits, target = batch(mode)
    target[0, :2] = 100
    assert loss(logits, target.to(dtype)) == loss(logits, target)


@every_loss
def test_compiles_into_one_graph(name, mode):
    torch.compiler.reset()
    loss = build(name, mode)
    logits, target = batch(mode)
    target[0, :2] = 255
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits, target), loss(logits, target))


@every_loss
def test_holds_nothing_to_save(name, mode):
    loss = build(name, mode)
    assert not loss.state_dict()
    assert not list(loss.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("name", "mode"), [case for case in CASES if case[0] != "boundary"])
def test_does_not_wait_for_the_device(name, mode):
    """All but the boundary loss, which says so: its distances come from the CPU."""
    loss = build(name, mode).cuda()
    logits, target = (tensor.cuda() for tensor in batch(mode))
    expected = loss(logits, target)
    torch.cuda.set_sync_debug_mode("error")
    try:
        value = loss(logits, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert value == expected


@every_loss
def test_labels_that_are_no_class_are_named(name, mode):
    logits, target = batch(mode)
    target[0, 0, :2] = torch.tensor([9, -1])
    classes = max(2, CHANNELS[mode])
    with pytest.raises(SegkitError, match=rf"-1, 9, but the {classes} classes are 0 to"):
        build(name, mode)(logits, target)


@every_loss
def test_wrong_shapes_are_told_with_a_remedy(name, mode):
    loss = build(name, mode)
    logits, target = batch(mode)
    with pytest.raises(SegkitError, match=r"\(B, C, H, W\), not \(2, 6, 8\)"):
        loss(logits[:, 0], target)
    with pytest.raises(SegkitError, match=r"\(2, 6, 7\).* needs \(2, 6, 8\)"):
        loss(logits, target[..., :7])
    with pytest.raises(SegkitError, match=r"needs \(1, 6, 8\)"):
        loss(logits[:1], target)  # it would broadcast
    if mode != "binary":
        with pytest.raises(SegkitError, match=r"squeeze\(1\)"):
            loss(logits, target.unsqueeze(1))


@every_loss
def test_wrong_dtypes_are_told_with_a_remedy(name, mode):
    loss = build(name, mode)
    logits, target = batch(mode)
    with pytest.raises(SegkitError, match=r"target\.long\(\)"):
        loss(logits, target.float())
    with pytest.raises(SegkitError, match=r"float logits, not .*int64"):
        loss(logits.long(), target)


@every_loss
def test_wrong_options_are_refused(name, mode):
    with pytest.raises(SegkitError, match="'smoooth' is not known"):
        build(name, mode, smoooth=1.0)
    with pytest.raises(SegkitError, match="ignore_index"):
        build(name, mode, ignore_index="none")


@pytest.mark.parametrize("name", Loss.names())
def test_an_unknown_mode_is_refused(name):
    with pytest.raises(SegkitError, match="multiclass"):
        build(name, "multi")
    with pytest.raises(SegkitError, match="no mode 'multi'"):
        Loss.resolve(name, {})[0]("multi", **NEEDED.get(name, {}))


@pytest.mark.parametrize(("name", "mode"), UNSERVED)
def test_an_unserved_mode_names_the_alternatives(name, mode):
    with pytest.raises(SegkitError, match=f"no mode '{mode}'.*served by .*cross_entropy"):
        build(name, mode)


@pytest.mark.parametrize("name", [name for name, mode in CASES if mode == "binary"])
def test_binary_takes_one_channel(name):
    logits, target = torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(SegkitError, match=r"1 channel.*\(2, 2, 4, 4\).*multiclass"):
        build(name, "binary")(logits, target)


@pytest.mark.parametrize("name", [name for name, mode in CASES if mode == "multiclass"])
def test_multiclass_takes_two_channels_or_more(name):
    logits, target = torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(SegkitError, match=r"2 channels or more.*binary"):
        build(name, "multiclass")(logits, target)


multilabel_losses = pytest.mark.parametrize(
    "name", [name for name, mode in CASES if mode == "multilabel"]
)


@multilabel_losses
def test_a_label_map_is_one_class_per_pixel_in_multilabel(name):
    loss = build(name, "multilabel")
    logits, target = batch("multilabel")
    target[0, 0] = 255
    stack = torch.stack([target == c for c in range(3)], dim=1).long()
    stack[0, :, 0] = 255
    assert loss(logits, target) == loss(logits, stack)


@multilabel_losses
def test_one_class_of_a_pixel_can_be_ignored_in_multilabel(name):
    loss = build(name, "multilabel")
    logits, _ = batch("multilabel")
    stack = torch.randint(2, logits.shape, generator=torch.Generator().manual_seed(1))
    stack[0, 1, 2, 3] = 255
    value = loss(logits.requires_grad_(), stack)
    value.backward()
    assert logits.grad[0, 1, 2, 3] == 0
    moved = logits.detach().clone()
    moved[0, 1, 2, 3] += 50
    assert loss(moved, stack) == value
    moved[0, 2, 2, 3] += 50 if stack[0, 2, 2, 3] == 0 else -50  # another class of that pixel
    assert loss(moved, stack) > value


@multilabel_losses
def test_a_class_that_nobody_labelled_does_not_count_in_multilabel(name):
    loss = build(name, "multilabel")
    logits, _ = batch("multilabel")
    stack = torch.randint(2, logits.shape, generator=torch.Generator().manual_seed(1))
    expected = loss(logits[:, :2], stack[:, :2])
    stack[:, 2] = 255
    torch.testing.assert_close(loss(logits, stack), expected)


@multilabel_losses
def test_a_multilabel_stack_holds_zeros_and_ones(name):
    logits, _ = batch("multilabel")
    stack = torch.full(logits.shape, 2)
    with pytest.raises(SegkitError, match="2, but the 2 classes are 0 to 1"):
        build(name, "multilabel")(logits, stack)
