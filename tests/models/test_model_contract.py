"""What every encoder, neck and head promises, checked for each preset in conf/ and each name."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segkit.models.encoders import Encoder
from segkit.models.heads import Head
from segkit.models.necks import Neck
from segkit.models.segmenter import Segmenter, create_model

CONF = Path(__file__).parents[2] / "conf"
PRESETS = sorted(path.stem for path in (CONF / "encoder").glob("*.yaml") if path.stem != "timm")
NECKS = Neck.names()
UPSAMPLES = ("nearest", "bilinear", "deconv")
SIZES = ((1, 1), (7, 5), (65, 33), (64, 96))
PAIRS = [(preset, neck) for preset in PRESETS for neck in NECKS]

every_preset = pytest.mark.parametrize("preset", PRESETS)
every_pair = pytest.mark.parametrize(("preset", "neck"), PAIRS)
BUILT: dict[str, Encoder] = {}


def encoder(preset: str) -> Encoder:
    """A copy of an encoder that is built once."""
    if preset not in BUILT:
        torch.manual_seed(0)
        BUILT[preset] = Encoder.build(preset, pretrained=False)
    return copy.deepcopy(BUILT[preset])


def segmenter(preset: str, neck: str) -> Segmenter:
    """A network of the preset and the neck; modes of upsampling and heads take turns."""
    turn = PAIRS.index((preset, neck)) + PRESETS.index(preset)
    head = ("binary", "multiclass", "multilabel")[turn % 3]
    torch.manual_seed(turn)
    parts = encoder(preset)
    options = {} if neck == "fcn" else {"norm": ("batch", "group", "instance", "layer")[turn % 4]}
    middle = Neck.build(
        neck,
        channels=parts.channels,
        strides=parts.strides,
        upsample=UPSAMPLES[turn % 3],
        **options,
    )
    classes = {} if head == "binary" else {"num_classes": 3}
    return Segmenter(parts, middle, Head.build(head, in_channels=middle.out_channels, **classes))


def normalisations(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all buffers: the statistics of the batch norms."""
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def test_the_presets_and_the_registry_are_there():
    assert len(PRESETS) >= 10
    assert set(NECKS) >= {"fcn", "fpn", "unet"}
    assert set(Head.names()) >= {"binary", "multiclass", "multilabel"}


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
@pytest.mark.parametrize("in_channels", [1, 4])
def test_any_number_of_image_channels(preset, in_channels):
    model = Encoder.build(preset, pretrained=False, in_channels=in_channels, depth=2).eval()
    assert model.in_channels == in_channels
    side = 4 * (model.multiple or model.strides[-1])
    assert len(model(torch.rand(1, in_channels, side, side))) == 2


@every_preset
@pytest.mark.parametrize("depth", [2, 3])
def test_depth_leaves_the_coarser_levels_out_and_nothing_to_compute_for_nothing(preset, depth):
    model = Encoder.build(preset, pretrained=False, depth=depth)
    assert model.strides == encoder(preset).strides[:depth]
    side = 2 * (model.multiple or model.strides[-1])
    torch.stack([m.mean() for m in model(torch.rand(2, 3, side, side))]).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@every_pair
def test_logits_have_the_size_of_the_image(preset, neck):
    model = segmenter(preset, neck).eval()
    for height, width in SIZES:
        with torch.no_grad():
            logits = model(torch.rand(1, 3, height, width))
        assert logits.shape == (1, model.head.num_logits, height, width)
        assert torch.isfinite(logits).all()


@every_pair
def test_one_image_of_one_pixel_trains_every_parameter(preset, neck):
    model = segmenter(preset, neck).train()
    logits = model(torch.rand(1, 3, 1, 1))
    logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@every_pair
def test_a_state_dict_brings_back_values_and_outputs(preset, neck):
    model, other = segmenter(preset, neck).eval(), segmenter(preset, neck).eval()
    with torch.no_grad():
        for tensor in [*other.parameters(), *(b for b in other.buffers() if b.is_floating_point())]:
            tensor.add_(0.1)
    x = torch.rand(1, 3, 33, 40)
    with torch.no_grad():
        expected = model(x)
        assert not torch.equal(other(x), expected)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(x), expected)
    for (name, value), loaded in zip(
        model.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, loaded), name


@every_preset
@pytest.mark.parametrize("stages", ["none", "all", 2])
def test_frozen_stages_stay_as_they_are_through_training(preset, stages):
    parts = encoder(preset)
    parts.freeze(stages)
    neck = Neck.build("fpn", channels=parts.channels, strides=parts.strides, width=16)
    model = Segmenter(parts, neck, Head.build("binary", in_channels=neck.out_channels)).train()
    frozen = {n: p.detach().clone() for n, p in parts.named_parameters() if not p.requires_grad}
    total = len(list(parts.parameters()))
    assert {"none": len(frozen) == 0, "all": len(frozen) == total}.get(
        stages, 0 < len(frozen) < total
    )
    still = [m for m in parts.modules() if not m.training]
    statistics = [normalisations(m) for m in still]
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
    model.eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
    if stages == "all":
        model.train()
        with torch.no_grad():
            assert all(torch.equal(a, b) for a, b in zip(parts(x), parts(x), strict=True))


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("upsample", UPSAMPLES)
def test_auxiliary_heads_give_logits_of_the_same_size_and_cost_nothing_else(neck, upsample):
    x = torch.rand(2, 3, 33, 47)
    levels = 0 if neck == "fcn" else 2
    model = create_model(
        {"name": "resnet18", "pretrained": False},
        {"name": neck, "upsample": upsample},
        "multiclass",
        num_classes=3,
        auxiliary=levels,
    )
    logits = model.all_logits(x)
    assert [m.shape for m in logits] == [(2, 3, 33, 47)] * (levels + 1)
    sum(m.square().mean() for m in logits).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    called = []
    for head in model.auxiliary:
        head.register_forward_hook(lambda *_: called.append(1))
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(x), model.all_logits(x)[0])
    assert len(called) == levels  # those of all_logits alone
