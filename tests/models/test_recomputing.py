"""Activations computed again for the backward pass: equal to the bit, and less is kept."""

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from segkit.models.conv import ConvBlock
from segkit.models.recomputing import recomputed_activations
from segkit.models.segmenter import create_model


def gradients(model: nn.Module, image: Tensor, recompute: bool) -> list[Tensor]:
    model.zero_grad()
    if recompute:
        with recomputed_activations(model):
            y = model(image)
    else:
        y = model(image)
    y.square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_equal(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b) > 1
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("neck", "how"),
    [
        ({"name": "fcn"}, "plain"),
        ({"name": "unet", "norm": "batch"}, "plain"),
        ({"name": "fpn", "norm": "group"}, "plain"),
        ({"name": "fpn", "norm": "batch"}, "channels_last"),
        ({"name": "unet", "norm": "group"}, "channels_last"),
        ({"name": "unet", "norm": "instance"}, "plain"),
        ({"name": "fpn", "norm": "layer"}, "plain"),
        ({"name": "unet", "norm": "none"}, "plain"),
        ({"name": "unet"}, "autocast"),
        ({"name": "unet"}, "frozen"),
    ],
)
def test_gradients_and_statistics_are_equal_to_the_bit(neck: dict[str, str], how: str) -> None:
    torch.manual_seed(0)
    model = create_model({"name": "test_resnet", "pretrained": False}, neck).train()
    layout = torch.channels_last if how == "channels_last" else torch.contiguous_format
    model = model.to(memory_format=layout)
    if how == "frozen":
        model.encoder.eval()
    image = torch.rand(2, 3, 64, 96).contiguous(memory_format=layout)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        plain = gradients(model, image, recompute=False)
        statistics = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(start)
        assert_equal(plain, gradients(model, image, recompute=True))
    for name, value in model.state_dict().items():
        assert torch.equal(value, statistics[name]), name


class Odd(nn.Module):
    """What a norm gives, used in ways that a table of addresses could take for something else."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.again = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        turned = z.transpose(2, 3)
        y = turned * turned  # a view of the same place, shape and version
        del z, turned
        y = y * x  # may lie where the norm's result was
        y = y * y
        z = self.again(y)
        z += x  # no ReLU, but in place as well
        return self.relu(z) * x


def test_views_and_memory_that_is_used_again_are_told_apart() -> None:
    torch.manual_seed(0)
    model, image = Odd(), torch.randn(2, 3, 64, 64)
    assert_equal(gradients(model, image, recompute=False), gradients(model, image, recompute=True))


def test_the_output_of_a_norm_that_was_used_before_the_relu_stays_as_it_was() -> None:
    torch.manual_seed(0)
    norm, relu = nn.BatchNorm2d(3), nn.ReLU(inplace=True)
    image = torch.randn(2, 3, 4, 4, requires_grad=True)
    z = norm(image)
    (plain,) = torch.autograd.grad((z * z * torch.relu(z)).sum(), image)
    with recomputed_activations(nn.Sequential(norm, relu)):
        z = norm(image)
        y = z * z  # torch itself would say that it was changed in place
        loss = (y * relu(z)).sum()
    (again,) = torch.autograd.grad(loss, image)
    torch.testing.assert_close(again, plain)


@pytest.mark.parametrize("late", ["given", "other"])
def test_what_is_changed_too_late_is_an_error_as_without_it(late: str) -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = ConvBlock(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            given = self.block[0](x)
            rectified = self.block[2](self.block[1](given))
            other = rectified * 2
            y = rectified * rectified + other * other
            {"given": given, "other": other}[late].mul_(2)
            return y

    for recompute in (False, True):
        with pytest.raises(RuntimeError, match=r"in-?place"):
            gradients(Late(), torch.rand(1, 3, 4, 4), recompute)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_output_of_a_relu_is_not_kept_and_the_input_of_its_norm_only_until_it_was_used(
    recompute: bool,
) -> None:
    model = nn.Sequential(ConvBlock(3, 4), ConvBlock(4, 4))
    seen: dict[str, StorageWeakRef] = {}
    watched = {"given": model[0][0], "rectified": model[0][2]}
    for name, module in watched.items():
        module.register_forward_hook(
            lambda _, __, y, name=name: seen.update({name: StorageWeakRef(y.untyped_storage())})
        )
    if recompute:
        with recomputed_activations(model):
            loss = model(torch.rand(1, 3, 8, 8)).sum()
    else:
        loss = model(torch.rand(1, 3, 8, 8)).sum()
    assert seen["rectified"].expired() == recompute
    assert not seen["given"].expired()
    loss.backward()
    assert seen["given"].expired()
    assert all(len(m._forward_hooks) == (m in watched.values()) for m in model.modules())


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_first_and_second_derivatives(norm: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(ConvBlock(2, 2, norm=norm), nn.Conv2d(2, 1, 1)).double()  # type: ignore[arg-type]

    def run(x: Tensor) -> Tensor:
        with recomputed_activations(model):
            return model(x).square()

    image = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, image)
    assert torch.autograd.gradgradcheck(run, image)
