"""The fast convolution of upsampled maps against the plain one."""

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.testing import assert_close

from segkit.models.necks import joining
from segkit.models.necks.joining import JoinBlock, plain_joins
from segkit.models.necks.upsample import Upsample
from segkit.models.segmenter import Segmenter, create_model


def block(skip: int, norm: str = "none", padding: str = "same") -> tuple[JoinBlock, Upsample]:
    torch.manual_seed(0)
    up = Upsample(5, 2, "nearest")
    return JoinBlock(5, skip, 4, up, norm, padding).double(), up  # type: ignore[arg-type]


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
    """The fast way also for maps that are too small to be worth it."""
    monkeypatch.setattr(joining, "WORTH_A_KERNEL", 1)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("size", [(2, 3), (3, 4), (7, 5)])
def test_the_fast_way_equals_the_plain_one_forward_and_backward(
    padding: str, norm: str, skip: int, size: tuple[int, int]
) -> None:
    join, up = block(skip, norm, padding)
    inputs = maps(skip, *size, more=4 if padding == "valid" else 0)
    fast = outputs_and_gradients(join, up, inputs)
    with plain_joins():
        plain = outputs_and_gradients(join, up, inputs)
    assert_close(fast, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("always")
def test_the_fast_way_passes_gradcheck() -> None:
    join, up = block(3)
    join[2] = nn.Identity()  # at a kink no difference quotient is the gradient
    inputs = maps(3, 2, 3)
    assert torch.autograd.gradcheck(lambda x, s: join(x, up, s), inputs)


def test_it_is_the_fast_way_that_is_taken_and_plain_joins_turns_it_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    join, up = block(3)
    ways: list[str] = []
    kernels = JoinBlock.kernels

    def noted(self: JoinBlock) -> tuple[torch.Tensor, torch.Tensor]:
        ways.append("fast")
        return kernels(self)

    monkeypatch.setattr(JoinBlock, "kernels", noted)
    inputs = maps(3, 16, 16)
    join(inputs[0], up, inputs[1])
    assert ways == ["fast"]
    small = maps(3, 15, 16)  # too few pixels to be worth a kernel
    join(small[0], up, small[1])
    with plain_joins():
        join(inputs[0], up, inputs[1])
    with torch.autocast("cpu", torch.bfloat16):
        join.float()(inputs[0].float(), up, inputs[1].float())
    assert ways == ["fast"]


@pytest.mark.parametrize("mode", ["bilinear", "deconv"])
def test_other_ways_of_upsampling_are_plain(mode: str) -> None:
    up = Upsample(5, 2, mode)  # type: ignore[arg-type]
    assert not JoinBlock(5, 0, 4, up).doubles
    assert not JoinBlock(5, 0, 4, Upsample(5, 4, "nearest")).doubles


def network(neck: str) -> Segmenter:
    torch.manual_seed(0)
    return create_model({"name": "resnet18", "pretrained": False}, neck).eval()


@pytest.mark.parametrize("neck", ["unet", "fpn"])
@pytest.mark.parametrize("strict", [True, False])
def test_an_export_has_the_plain_convolutions(neck: str, strict: bool) -> None:
    model = network(neck)
    program = torch.export.export(model, (torch.rand(1, 3, 64, 64),), strict=strict)
    operators = {str(node.target) for node in program.graph.nodes}
    assert not any("transpose" in name for name in operators)
    assert any("conv2d" in name for name in operators)


def test_an_export_takes_batches_of_any_size() -> None:
    free = {0: Dim.AUTO}
    program = torch.export.export(
        network("unet"), (torch.rand(2, 3, 64, 64),), dynamic_shapes=(free,), strict=True
    )
    assert program.module()(torch.rand(70, 3, 64, 64)).shape == (70, 1, 64, 64)


@pytest.mark.parametrize("neck", ["unet", "fpn"])
def test_checkpoints_hold_plain_kernels(neck: str) -> None:
    state = network(neck).state_dict()
    assert all(v.shape[-2:] in {(1, 1), (3, 3), (7, 7)} for v in state.values() if v.ndim == 4)
