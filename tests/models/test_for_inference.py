"""The copy of a network that predicts against the trained network."""

import copy
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from segkit.models import fast
from segkit.models.conv import JoinBlock
from segkit.models.encoders import Encoder
from segkit.models.fast import SlowPredictionWarning, for_inference, to_channels_last
from segkit.models.necks import Neck
from segkit.models.segmenter import Segmenter, create_model


def trained(encoder: str, neck: object = "unet", **options: object) -> Segmenter:
    """A network whose batch norms have statistics and weights of their own."""
    torch.manual_seed(0)
    own = encoder in {"unet", "odd_to_fold"}
    parts = {"name": encoder, **({} if own else {"pretrained": False}), **options}
    model = create_model(parts, neck)
    found = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in found:
        nn.init.uniform_(module.weight, 0.8, 1.2)
        nn.init.normal_(module.bias, std=0.1)
        module.momentum = 1.0  # the statistics are those of the images: others let maps explode
    with torch.no_grad():
        takes_any = model.encoder.fixed_size is None and model.encoder.padding != "valid"
        height, width = ((1 + takes_any) * side for side in model.example_size)
        coarse = torch.randn(4, model.encoder.in_channels, height // 8, width // 8)
        smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        model.train()(smooth + torch.rand(smooth.shape))
    for module in found:
        module.momentum = 0.1
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def check(model: Segmenter, size: tuple[int, int] = (75, 50)) -> Segmenter:
    size = model.encoder.fixed_size or size
    quick = for_inference(model)
    x = torch.rand(2, model.encoder.in_channels, *size)
    with torch.inference_mode():
        expected = model.eval()(x)
        scale = float(expected.abs().max())
        assert_close(quick(x), expected, rtol=1e-3, atol=1e-4 * scale)
        nhwc = x.contiguous(memory_format=torch.channels_last)
        assert_close(quick(nhwc), expected, rtol=1e-3, atol=1e-4 * scale)
    return quick


@pytest.mark.parametrize("channels", [1, 3])
def test_all_maps_have_the_channels_last(channels: int) -> None:
    """A contiguous map of one channel fits that layout as well, and torch would take the other."""
    model = create_model({"name": "resnet18", "pretrained": False}, "unet", in_channels=channels)
    quick, kept = for_inference(model), []
    for module in quick.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: kept.append(output))
    quick(torch.rand(1, channels, 64, 64))
    assert len(kept) > 20
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in kept if m.shape[1] > 1)


@pytest.mark.parametrize("neck", Neck.names())
@pytest.mark.parametrize("encoder", ["resnet18", "mobilenetv2_100", "convnext_atto"])
def test_all_maps_of_a_training_have_the_channels_last(encoder: str, neck: str) -> None:
    model, kept = create_model({"name": encoder, "pretrained": False}, neck).train(), []
    to_channels_last(model)

    def keep(_: nn.Module, __: object, output: object) -> None:
        maps = output if isinstance(output, list | tuple) else [output]
        kept.extend(m for m in maps if isinstance(m, Tensor) and m.ndim == 4 and m.shape[1] > 1)

    for module in model.modules():
        if not isinstance(module, nn.LayerNorm):  # it is given pixels
            module.register_forward_hook(keep)
    model(torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last))
    assert len(kept) > 20
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in kept)


def test_kernels_of_joins_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = check(trained("unet"))
    monkeypatch.setattr(JoinBlock, "_make_kernels", None)
    quick(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("encoder", "neck"),
    [
        ("resnet18", "fpn"),
        ("mobilenetv3_small_050", "fcn"),
        ("unet", "unet"),
        ("test_resnet", {"name": "unet", "upsample": "bilinear"}),
    ],
)
def test_it_gives_the_same(encoder: str, neck: object) -> None:
    assert norms(check(trained(encoder, neck))) == 0


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("encoder", "left"),
    [
        ("resnet50", 0),
        ("efficientnet_b0", 0),
        ("tf_efficientnet_lite0", 0),
        ("vgg16_bn", 0),
        ("convnext_atto", 0),
        ("regnety_002", 0),
        ("densenet121", 62),  # before their convolutions, with an activation between them
        ("res2net50_14w_8s", 0),
        ("resnetv2_18d", None),
        ("nf_regnet_b0", 0),
        ("repvgg_a0", None),
        ("hrnet_w18_small", None),
        ("fastvit_t8", None),
        ("davit_tiny", 0),
        ("xcit_nano_12_p16_224", None),
        ("edgenext_xx_small", 0),
        ("ghostnet_050", 1),  # a map is the output of a convolution before its norm
        ("maxvit_rmlp_pico_rw_256", None),
    ],
)
def test_it_gives_the_same_for_many_backbones(encoder: str, left: int | None) -> None:
    quick = check(trained(encoder))
    assert left is None or norms(quick) == left


def test_it_is_made_in_any_context_and_precision_and_can_be_pickled() -> None:
    model = trained("test_resnet").double()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        quick = for_inference(model)
    assert norms(quick) == 0
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected = quick(x)
        assert_close(expected, model.eval()(x), rtol=1e-8, atol=1e-10)
        assert_close(pickle.loads(pickle.dumps(quick))(x), expected, rtol=0, atol=0)
        assert_close(copy.deepcopy(quick)(x), expected, rtol=0, atol=0)


def test_one_channel_and_an_unpadded_network() -> None:
    check(trained("test_resnet", in_channels=1))
    check(trained("unet", padding="valid", norm="batch"), (188, 188))


def test_the_network_itself_stays_as_it_was() -> None:
    model = trained("test_resnet").train()
    before = copy.deepcopy(model.state_dict())
    for_inference(model)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Odd(Encoder, name="odd_to_fold"):
    """What must not be folded: an output used twice, an activation in between, a shared norm."""

    channels, strides = (4, 4), (1, 2)

    def __init__(self, in_channels: int = 3, kind: str = "twice") -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1, stride=2)
        self.shared = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.first(x)
        if self.kind == "twice":
            fine = fine + self.shared(fine)
        elif self.kind == "between":
            fine = self.shared(self.relu(fine))
        elif self.kind == "reads":
            fine = self.shared(fine) + self.first.weight.sum()
        else:
            fine = self.shared(fine)
        coarse = self.second(fine)
        return [fine, self.shared(coarse) if self.kind == "shared" else coarse]


def test_a_network_without_a_faster_copy_is_returned_itself_with_a_warning() -> None:
    odd = trained("odd_to_fold", kind="reads")  # a convolution's weights, which folding changes
    with pytest.warns(SlowPredictionWarning, match="with folded batch norms its results differ by"):
        assert for_inference(odd) is odd
    assert not odd.training
    keeping = trained("test_resnet")
    keeping.last = torch.ones(1, requires_grad=True) * 2
    with pytest.warns(SlowPredictionWarning, match="no faster copy"):
        assert for_inference(keeping) is keeping  # torch copies no such tensor


def test_what_differs_by_more_than_a_thousandth_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, fuse = trained("test_resnet"), fast.fuse_conv_bn_eval

    def fuse_roughly(conv: Any, norm: Any) -> Any:
        fused = fuse(conv, norm)
        fused.weight.data *= 1.01
        return fused

    monkeypatch.setattr(fast, "fuse_conv_bn_eval", fuse_roughly)
    with pytest.warns(SlowPredictionWarning, match="of the largest"):
        assert for_inference(model) is model


@pytest.mark.parametrize("kind", ["between", "shared", "twice"])
def test_what_cannot_be_folded_is_left(kind: str) -> None:
    model = trained("odd_to_fold", kind=kind)
    assert norms(model.encoder) == 1
    assert norms(check(model).encoder) == 1


def test_strided_convolutions_of_few_channels_pick_their_pixels() -> None:
    """As they are, their backward pass writes beside its memory on a CPU."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 1, (2, 3)), nn.Conv2d(8, 4, 3, 2), nn.Conv2d(4, 2, 1))
    laid = copy.deepcopy(plain)
    to_channels_last(laid)
    assert [type(conv) is nn.Conv2d for conv in laid] == [False, True, True]
    image = torch.randn(2, 3, 31, 46)
    last = image.clone().contiguous(memory_format=torch.channels_last)
    image.requires_grad_(), last.requires_grad_()
    expected, found = plain(image), laid(last)
    assert_close(found, expected)
    expected.square().sum().backward(), found.square().sum().backward()
    assert_close(last.grad, image.grad)
    for one, other in zip(laid.parameters(), plain.parameters(), strict=True):
        assert_close(one.grad, other.grad)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["fastvit_t8", "mobileone_s0", "repvgg_a0"])
def test_a_training_step_of_usual_size_does_not_end_the_process(name: str) -> None:
    code = (
        "import torch; from segkit.models.segmenter import create_model;"
        "from segkit.models.fast import to_channels_last;"
        f"model = create_model(dict(name={name!r}, pretrained=False), 'linear').train();"
        "to_channels_last(model);"
        "image = torch.rand(2, 3, 256, 256).contiguous(memory_format=torch.channels_last);"
        "model(image).mean().backward()"
    )
    command, checked = [sys.executable, "-c", code], {**os.environ, "MALLOC_CHECK_": "3"}
    subprocess.run(command, check=True, env=checked)
