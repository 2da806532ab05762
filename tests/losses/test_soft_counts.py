"""The counts of label maps against the plain sums over one map for each class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segkit.losses.regions import region_dims, regions, soft_counts


def plain(
    logits: Tensor, labels: Tensor, valid: Tensor, per_image: bool
) -> tuple[list[Tensor], Tensor]:
    p, t, counts = regions(logits, labels, valid, "multiclass")
    dims = region_dims(per_image)
    sums = [torch.where(t, p, 0), torch.where(t, 0, p), torch.where(t, 1 - p, 0)]
    return [values.sum(dims) for values in sums], counts.any(dims)


def batch(size: tuple[int, ...], classes: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(size[0], classes, *size[1:], generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, size, generator=generator)
    return logits, labels, torch.rand(size, generator=generator) > 0.3


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("size", [(3, 7, 5), (1, 1, 1), (0, 4, 4), (2, 1, 9)])
@pytest.mark.parametrize("counted", ["some", "all", "none", "one image"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_the_plain_sums(
    per_image, classes, size, counted, layout
):
    logits, labels, valid = batch(size, classes)
    if counted in ("all", "none"):
        valid[:] = counted == "all"
    elif counted == "one image":
        valid[1:] = False
    logits = logits.contiguous(memory_format=layout)
    found, expected = [], []
    for counts, given in ((soft_counts, found), (plain, expected)):
        x = logits.clone().requires_grad_()
        rest = (per_image,) if counts is plain else ("multiclass", per_image)
        sums, any_counted = counts(x, labels, valid, *rest)
        weights = [torch.linspace(1, 2, s.numel(), dtype=s.dtype).view_as(s) for s in sums]
        sum((w * s.square()).sum() for w, s in zip(weights, sums, strict=True)).backward()
        given += [*sums, any_counted, x.grad]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_second_derivatives_are_right():
    logits, labels, valid = batch((2, 3, 2), 3)
    assert torch.autograd.gradgradcheck(
        lambda x: soft_counts(x, labels, valid, "multiclass", True)[0], logits.requires_grad_()
    )


def test_few_pixels_are_not_lost_among_many():
    """Float32 sums of four million numbers near 1, of which one is 1e-3 off."""
    labels = torch.zeros(1, 2048, 2048, dtype=torch.int64)
    logits = torch.tensor([30.0, 0.0]).view(1, 2, 1, 1).repeat(1, 1, 2048, 2048)
    logits[0, 0, 5, 5] = 6.9067547786  # p = 0.999
    (tp, fp, fn), _ = soft_counts(logits, labels, labels == 0, "multiclass", False)
    assert tp[0] == pytest.approx(2048**2, rel=1e-6)
    assert fn[0].item() == pytest.approx(1e-3, rel=1e-3)
    assert fp[1].item() == pytest.approx(1e-3, rel=1e-3)


def test_the_truth_of_no_class_becomes_a_map():
    """What the backward pass holds: the probabilities for the softmax, and the labels."""
    logits, labels, valid = batch((2, 32, 32), 20)
    held: dict[int, int] = {}

    def hold(x: Tensor) -> Tensor:
        held[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda x: x):
        soft_counts(logits.requires_grad_(), labels, valid, "multiclass", False)
    assert sum(held.values()) <= logits.nbytes + labels.nbytes + valid.nbytes
