"""The fast convolution of upsampled maps against the plain one."""

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.testing import assert_close

from segkit.models import conv
from segkit.models.conv import JoinBlock, Upsample, plain_joins
from segkit.models.segmenter import Segmenter, create_model


def block(skip: int, norm: str = "none", padding: str = "same") -> tuple[JoinBlock, Upsample]:
    torch.manual_seed(0)
    up = Upsample(5, 2, "nearest")
    return JoinBlock(5, skip, 4, up, norm, padding).double(), up


def maps(skip: int, height: int, width: int, more: int = 0) -> list[torch.Tensor]:
    sizes = [(1, 5, height, width)]
    if skip:
        sizes.append((1, skip, 2 * height + more, 2 * width + more))
    return [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]


def outputs_and_gradients(
    join: JoinBlock, up: Upsample, inputs: list[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    y = join(inputs[0], up, *inputs[1:])
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    gradients = torch.autograd.grad((y * weights).sum(), [*inputs, *join.parameters()])
    return y, *gradients


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path also for maps that are too small to be worth it."""
    monkeypatch.setattr(conv, "WORTH_A_KERNEL", 1)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("size", [(2, 3), (7, 5)])
def test_the_fast_path_equals_the_plain_one_forward_and_backward(
    padding: str, norm: str, skip: int, size: tuple[int, int]
) -> None:
    join, up = block(skip, norm, padding)
    inputs = maps(skip, *size, more=4 if padding == "valid" else 0)
    fast = outputs_and_gradients(join, up, inputs)
    with plain_joins():
        plain = outputs_and_gradients(join, up, inputs)
    assert_close(fast, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("always")
def test_the_fast_path_passes_gradcheck() -> None:
    join, up = block(3)
    join[2] = nn.Identity()  # at a kink no difference quotient is the gradient
    inputs = maps(3, 2, 3)
    assert torch.autograd.gradcheck(lambda x, s: join(x, up, s), inputs)


def test_when_the_fast_path_is_taken() -> None:
    join, _ = block(3)
    assert join.takes_fast_path(torch.rand(1, 5, 16, 16))
    assert not join.takes_fast_path(torch.rand(1, 5, 15, 16))  # not worth a kernel
    assert not join.takes_fast_path(torch.rand(1, 5, 16, 16, device="meta"))
    with plain_joins():
        assert not join.takes_fast_path(torch.rand(1, 5, 16, 16))
    with torch.autocast("cpu", torch.bfloat16):
        assert not join.takes_fast_path(torch.rand(1, 5, 16, 16))
    for mode, factor in (("bilinear", 2), ("deconv", 2), ("nearest", 4)):
        other = JoinBlock(5, 0, 4, Upsample(5, factor, mode))
        assert not other.takes_fast_path(torch.rand(1, 5, 16, 16))


def test_the_fast_path_never_upsamples() -> None:
    join, up = block(3)
    called = []
    up.register_forward_hook(lambda *_: called.append(1))
    x, skip = maps(3, 16, 16)
    join(x, up, skip)
    assert not called
    with plain_joins():
        join(x, up, skip)
    assert called


def network(neck: str) -> Segmenter:
    torch.manual_seed(0)
    return create_model({"name": "test_resnet", "pretrained": False}, neck).eval()


@pytest.mark.parametrize(("neck", "strict"), [("unet", True), ("fpn", False)])
def test_an_export_has_the_plain_convolutions_and_takes_any_batch(neck: str, strict: bool) -> None:
    program = torch.export.export(
        network(neck),
        (torch.rand(2, 3, 64, 64),),
        dynamic_shapes=({0: Dim.AUTO},),
        strict=strict,
    )
    assert program.module()(torch.rand(70, 3, 64, 64)).shape == (70, 1, 64, 64)
    operators = {str(node.target) for node in program.graph.nodes}
    assert not any("transpose" in name for name in operators)
    assert any("conv2d" in name for name in operators)
