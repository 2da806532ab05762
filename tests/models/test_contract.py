"""What every encoder, neck and head promises, for each preset in conf/ and each registered name.

By default small encoders meet some necks each; more combinations are nightly.
"""

from __future__ import annotations

import copy
import shutil
from itertools import product

import pytest
import torch
from network_parts import PRESETS, choose_options
from torch import nn

from segkit.models.encoders import Encoder
from segkit.models.heads import Head
from segkit.models.necks import Neck
from segkit.models.segmenter import Segmenter, create_model

NECKS, HEADS = Neck.names(), Head.names()
UPSAMPLES = ("nearest", "bilinear", "deconv")
NORMS = ("batch", "group", "instance", "layer")
SMALL = ("test_resnet", "test_efficientnet", "test_convnext")  # the necks take turns with them
LIGHT = (
    *("convnext_tiny", "efficientnet_b0", "efficientvit_b0", "mobilenetv2_100", "resnet18", "unet"),
    *("mobilenetv3_large_100", "mobilenetv4_conv_small", "mambaout_tiny"),
)
"""Presets that are tried by default."""
TYPICAL = ("fpn", "unet")
"""Necks that are compiled by default."""
ENCODERS = [*PRESETS, *SMALL]

# what torch's own compilers say about their innards
compilers = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def cross(*choices, by_default):
    """All combinations; those that ``by_default`` is not true of are nightly."""
    return [
        pytest.param(*case, marks=[] if by_default(*case) else pytest.mark.nightly)
        for case in product(*choices)
    ]


def is_tried(preset: str, neck: str) -> bool:
    """Small encoders meet every neck; the others U-Net, FPN and one more, by turns."""
    own = NECKS[ENCODERS.index(preset) % len(NECKS)]
    return preset in SMALL or neck in ("unet", "fpn", own)


every_preset = pytest.mark.parametrize(
    "preset",
    cross(PRESETS, by_default=lambda p: p in LIGHT),
)


def pair(necks):
    """Parametrize by a preset and a neck; by default a small encoder meets each of ``necks``."""

    def by_default(preset: str, neck: str) -> bool:
        turn = SMALL[NECKS.index(neck) % 3]
        return preset == turn and neck in necks

    cases = [c for c in cross(ENCODERS, NECKS, by_default=by_default) if is_tried(*c.values)]
    return pytest.mark.parametrize(("preset", "neck"), cases)


BUILT: dict[str, Encoder] = {}


def encoder(preset: str) -> Encoder:
    """A copy of an encoder that is built once."""
    if preset not in BUILT:
        torch.manual_seed(0)
        BUILT[preset] = Encoder.build(PRESETS.get(preset, preset), pretrained=False)
    return copy.deepcopy(BUILT[preset])


def decoder(channels, strides, neck: str, upsample: str, head: str, **options) -> tuple[Neck, Head]:
    options = choose_options(neck, upsample=upsample, **options)
    parts = Neck.build(neck, channels=channels, strides=strides, **options)
    classes = {} if head == "binary" else {"num_classes": 3}
    return parts, Head.build(head, in_channels=parts.out_channels, **classes)


def segmenter(preset: str, neck: str) -> Segmenter:
    """A network of the preset and the neck; upsampling, norms and heads take turns."""
    turn = (len(NECKS) + 1) * ENCODERS.index(preset) + NECKS.index(neck)
    torch.manual_seed(turn)
    parts = encoder(preset)
    norm, upsample, head = NORMS[turn % 4], UPSAMPLES[turn % 3], HEADS[turn // 2 % 3]
    built = decoder(parts.channels, parts.strides, neck, upsample, head, norm=norm)
    return Segmenter(parts, *built)


def without_gradient(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.grad is None]


@every_preset
def test_declared_channels_and_strides_are_the_real_ones(preset):
    model = encoder(preset).eval()
    step = model.multiple or model.strides[-1]
    assert list(model.strides) == sorted(set(model.strides))
    for height, width in ((2 * step, 2 * step), (3 * step, 5 * step)):
        with torch.no_grad():
            maps = model(torch.rand(1, 3, height, width))
        assert [tuple(m.shape) for m in maps] == [
            (1, c, height // s, width // s)
            for c, s in zip(model.channels, model.strides, strict=True)
        ]


@every_preset
@pytest.mark.parametrize(("in_channels", "depth"), [(1, 2), (4, 3)])
def test_channels_of_the_image_and_depth(preset, in_channels, depth):
    """Coarser levels are left out, and what they alone need is not computed."""
    options = {"pretrained": False, "in_channels": in_channels, "depth": depth}
    model = Encoder.build(PRESETS[preset], **options)
    assert model.in_channels == in_channels
    assert model.strides == encoder(preset).strides[:depth]
    side = 2 * (model.multiple or model.strides[-1])
    maps = model(torch.rand(2, in_channels, side, side))
    assert len(maps) == depth
    torch.stack([m.mean() for m in maps]).sum().backward()
    assert without_gradient(model) == []


@pair(NECKS)
def test_logits_of_any_size_gradients_and_state(preset, neck):
    model = segmenter(preset, neck).eval()
    for height, width in ((1, 1), (7, 5), (65, 33), (64, 96)):
        with torch.no_grad():
            logits = model(torch.rand(1, 3, height, width))
        assert logits.shape == (1, model.head.num_logits, height, width)
        assert torch.isfinite(logits).all()

    other = segmenter(preset, neck).eval()
    with torch.no_grad():
        for tensor in other.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1)
        x = torch.rand(1, 3, 33, 40)
        expected = model(x)
        assert not torch.equal(other(x), expected)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(x), expected)
    for (name, value), loaded in zip(
        model.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, loaded), name

    model.train()(torch.rand(1, 3, 1, 1)).square().sum().backward()  # one image of one pixel
    unseen = "encoder.pyramid.steps.0." if neck == "fcn" else "none"  # it takes coarse maps only
    assert [name for name in without_gradient(model) if not name.startswith(unseen)] == []


@pytest.mark.parametrize(
    ("preset", "stages"),
    cross(
        PRESETS,
        ("none", "all", 2),
        by_default=lambda preset, stages: (
            preset == "resnet18" or (preset == "mobilenetv3_large_100" and stages == 2)
        ),
    ),
)
def test_frozen_stages_stay_as_they_are_through_training(preset, stages):
    parts = encoder(preset)
    parts.freeze(stages)
    neck = Neck.build("fpn", channels=parts.channels, strides=parts.strides, width=16)
    model = Segmenter(parts, neck, Head.build("binary", in_channels=neck.out_channels)).train()
    frozen = {n: p.detach().clone() for n, p in parts.named_parameters() if not p.requires_grad}
    total = len(list(parts.parameters()))
    most = len(parts.backbone_parameters())  # without the pyramid of a plain transformer
    assert {"none": len(frozen) == 0, "all": len(frozen) == most}.get(
        stages, 0 < len(frozen) < total
    )
    still = [m for m in parts.modules() if not m.training]
    statistics = [{n: b.clone() for n, b in m.named_buffers()} for m in still]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    before = model.head.conv.weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.rand(2, 3, 64, 64)).mean().backward()
        optimizer.step()
        model.eval()
        model.train()
    assert not torch.equal(model.head.conv.weight, before)
    for name, parameter in parts.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
    assert still == [m for m in parts.modules() if not m.training]
    for module, saved in zip(still, statistics, strict=True):
        for name, buffer in module.named_buffers():
            assert torch.equal(buffer, saved[name]), name
    for module in parts.modules():  # a batch norm is in eval mode if and only if it is frozen
        if isinstance(module, nn.BatchNorm2d):
            assert module.training == any(p.requires_grad for p in module.parameters())
    x = torch.rand(1, 3, *parts.example_size)
    with torch.no_grad():
        if stages == "all":
            assert all(torch.equal(a, b) for a, b in zip(parts(x), parts(x), strict=True))
        model.eval()
        assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("neck", "upsample"),
    cross(NECKS, UPSAMPLES, by_default=lambda n, u: NECKS.index(n) % 3 == UPSAMPLES.index(u)),
)
def test_auxiliary_heads_give_logits_of_the_same_size_and_cost_nothing_else(neck, upsample):
    x = torch.rand(2, 3, 33, 47)
    levels = 0 if neck in ("fcn", "linear", "upscale") else 2
    model = create_model(
        {"name": "test_resnet", "pretrained": False},
        {"name": neck, **choose_options(neck, upsample=upsample)},
        "multiclass",
        num_classes=3,
        auxiliary=levels,
    )
    logits = model.all_logits(x)
    assert [m.shape for m in logits] == [(2, 3, 33, 47)] * (levels + 1)
    sum(m.square().mean() for m in logits).backward()
    assert without_gradient(model) == []
    called = []
    for head in model.auxiliary:
        head.register_forward_hook(lambda *_: called.append(1))
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(x), model.all_logits(x)[0])
    assert len(called) == levels  # those of all_logits alone


@pair(TYPICAL)
@pytest.mark.slow
@compilers
def test_number_types_and_one_whole_graph(preset, neck):
    model = segmenter(preset, neck).eval()
    x = torch.rand(1, 3, 65, 33)
    with torch.no_grad():
        expected = model(x)
        spread = (expected.max() - expected.min()).clamp(min=0.1)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        channels_last = last(x.to(memory_format=torch.channels_last))
        assert_close = torch.testing.assert_close
        assert_close(channels_last, expected, rtol=1e-3, atol=1e-4 + 1e-4 * float(spread))
        with torch.autocast("cpu", torch.bfloat16):
            # a few values of random networks differ by far more than the others
            assert (model(x).float() - expected).abs().mean() < 0.05 * spread
        half = last.to(torch.bfloat16)(x.to(torch.bfloat16))
        assert half.dtype == torch.bfloat16
        assert (half.float() - expected).abs().mean() < 0.05 * spread
        program = torch.export.export(model, (x,), strict=True)
        torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1e-5)
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("neck", cross(NECKS, by_default=lambda neck: neck in TYPICAL))
@compilers
def test_training_steps_compile_with_auxiliary_heads(neck):
    parts = Encoder.build("unet", depth=3, width=4, in_channels=1, dropout=0.0)
    middle, head = decoder(parts.channels, parts.strides, neck, "deconv", "binary", dropout=0.0)
    heads = [Head.build("binary", in_channels=c) for c in middle.level_channels[1:2]]
    model = Segmenter(parts, middle, head, heads)
    torch._dynamo.reset()
    compiled = torch.compile(model.all_logits, fullgraph=True, backend="aot_eager")
    x = torch.rand(2, 1, 41, 30)
    for a, b in zip(compiled(x), model.all_logits(x), strict=True):
        torch.testing.assert_close(a, b)
    sum(m.mean() for m in compiled(x)).backward()
    assert without_gradient(model) == []


@compilers
def test_the_unpadded_network_is_one_whole_graph():
    model = create_model(
        {"name": "unet", "depth": 3, "width": 4, "padding": "valid"}, "unet", in_channels=1
    ).eval()
    x = torch.rand(1, 1, 92, 108)
    with torch.no_grad():
        program = torch.export.export(model, (x,), strict=True)
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize(("neck", "upsample"), [("unet", "deconv"), ("fpn", "bilinear")])
@pytest.mark.nightly
@compilers
def test_inductor(neck, upsample):
    parts = Encoder.build("unet", width=8, depth=3)
    model = Segmenter(
        parts, *decoder(parts.channels, parts.strides, neck, upsample, "multiclass")
    ).eval()
    x = torch.rand(1, 3, 40, 33)
    torch._dynamo.reset()
    with torch.no_grad():
        actual = torch.compile(model, fullgraph=True)(x)
        torch.testing.assert_close(actual, model(x), rtol=1e-3, atol=1e-4)
