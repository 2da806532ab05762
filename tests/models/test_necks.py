"""What the necks share, and the blocks that they are made of, against written-out references."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from network_parts import choose_options
from torch import Tensor, nn

from segkit.models.context import PyramidPooling, choose_rates, pool_to_grid
from segkit.models.conv import PooledBatchNorm, Upsample, init_he
from segkit.models.joining import AttentionGate, JoinStep, SqueezeExcite
from segkit.models.necks import Neck
from segkit.models.segmenter import create_model

CHANNELS, STRIDES = (8, 12, 16, 20), (4, 8, 16, 32)
UPSAMPLES = ("nearest", "bilinear", "deconv")


def make_maps(channels=CHANNELS, strides=STRIDES, side=64) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, c, side // s, side // s) for c, s in zip(channels, strides, strict=True)]


def build(name: str, **options) -> Neck:
    torch.manual_seed(0)
    return Neck.build(name, channels=CHANNELS, strides=STRIDES, **options).eval()


@pytest.mark.parametrize("strides", [(7, 14), (16,), (4, 16), (2, 4, 16), (1, 2, 4)])
@pytest.mark.parametrize("name", Neck.names())
def test_pyramids_of_few_levels_and_uneven_steps(name, strides):
    channels = tuple(range(8, 8 + len(strides)))
    side = 2 * strides[-1]
    maps = make_maps(channels, strides, side)
    for upsample in UPSAMPLES:
        options = choose_options(name, upsample=upsample)
        neck = Neck.build(name, channels=channels, strides=strides, **options)
        levels = neck.levels(maps)
        assert [m.shape[1] for m in levels] == list(neck.level_channels)
        assert [side / m.shape[2] for m in levels] == list(neck.level_strides)
        out = side // neck.out_stride
        assert neck(maps).shape == (2, neck.out_channels, out, out)
        assert (neck.out_channels, neck.out_stride) == (
            neck.level_channels[0],
            neck.level_strides[0],
        )
        sum(m.square().mean() for m in levels).backward()
        assert [n for n, p in neck.named_parameters() if p.grad is None] == []
        if not options:
            break


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "layer", "none"])
@pytest.mark.parametrize("name", [n for n in Neck.names() if n not in ("fcn", "linear", "upscale")])
def test_one_image_trains_with_every_norm(name, norm):
    """Also where a pooled map has a single value a channel."""
    torch.manual_seed(0)
    channels = tuple(4 * c + 1 for c in CHANNELS)
    neck = Neck.build(name, channels=channels, strides=STRIDES, norm=norm)
    maps = [m[:1] for m in make_maps(channels)]
    before = {n: p.detach().clone() for n, p in neck.named_parameters()}
    optimizer = torch.optim.SGD(neck.parameters(), lr=0.1)
    neck(maps).square().mean().backward()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in neck.parameters())
    assert any(not torch.equal(p, before[n]) for n, p in neck.named_parameters())
    with torch.no_grad():
        assert torch.isfinite(neck.eval()(maps)).all()


@pytest.mark.parametrize(
    ("name", "in_channels", "classes"), [("unetplusplus", 13, 150), ("pspnet", 1, 2), ("pan", 4, 9)]
)
def test_channels_of_images_and_classes(name, in_channels, classes):
    model = create_model(
        {"name": "test_resnet", "pretrained": False},
        name,
        "multiclass",
        num_classes=classes,
        in_channels=in_channels,
    )
    assert model(torch.rand(1, in_channels, 37, 70)).shape == (1, classes, 37, 70)


@pytest.mark.parametrize("side", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(2, 2), (1, 7), (16, 16), (13, 29), (64, 5)])
def test_pooling_to_a_grid_is_adaptive_average_pooling(side, size):
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(pool_to_grid(x, side), F.adaptive_avg_pool2d(x, side))


def test_pyramid_pooling_keeps_the_map_and_adds_its_averages():
    pooling = PyramidPooling(4, 2, "none", sides=(1, 2)).eval()
    x = torch.rand(1, 4, 6, 6)
    result = pooling(x)
    assert result.shape == (1, pooling.out_channels, 6, 6) == (1, 8, 6, 6)
    assert torch.equal(result[:, :4], x)
    mean = F.relu(pooling.convs[0][0](x.mean((2, 3), keepdim=True)))
    torch.testing.assert_close(result[:, 4:6], mean.expand(-1, -1, 6, 6))


def test_a_batch_norm_of_single_values_takes_the_running_statistics():
    norm, plain = PooledBatchNorm(3), nn.BatchNorm2d(3)
    for layer in (norm, plain):
        layer.running_mean.fill_(2.0)
        layer.running_var.fill_(4.0)
    one = torch.tensor([4.0, 2.0, 0.0]).reshape(1, 3, 1, 1)
    expected = torch.tensor([1.0, 0.0, -1.0])
    torch.testing.assert_close(norm(one).flatten(), expected, rtol=1e-5, atol=1e-5)
    assert norm.running_mean.eq(2).all()
    with pytest.raises(ValueError, match="more than 1 value"):
        plain(one)
    several = torch.rand(2, 3, 1, 1)
    torch.testing.assert_close(norm(several), plain(several))
    torch.testing.assert_close(norm.running_mean, plain.running_mean)


def test_dilations_of_the_papers():
    assert choose_rates(16) == (6, 12, 18)
    assert choose_rates(8) == (12, 24, 36)
    assert choose_rates(32) == (3, 6, 9)
    assert choose_rates(256) == (1, 1, 1)
    neck = build("deeplabv3", rates=[2, 4, 8])
    assert [block[0].dilation for block in neck.pyramid.convs[1:]] == [(2, 2), (4, 4), (8, 8)]


def test_the_segformer_sum_is_its_concatenation():
    neck = build("segformer", width=6)
    maps = make_maps()
    with torch.no_grad():
        levels = [
            F.interpolate(conv(m), size=maps[0].shape[2:], mode="bilinear")
            for conv, m in zip(neck.project, maps, strict=True)
        ]
        weight = torch.cat([conv.weight for conv in neck.fuse], dim=1)
        expected = neck.act(F.conv2d(torch.cat(levels, dim=1), weight))
        torch.testing.assert_close(neck(maps), expected)


def test_unetplusplus_is_equation_1_and_supervises_its_finest_nodes():
    neck = build("unetplusplus", width=2)
    maps = make_maps()
    x = {(i, 0): m for i, m in enumerate(maps)}
    with torch.no_grad():
        for j in (1, 2, 3):
            for i in range(4 - j):
                node = neck.nodes[f"{i}_{j}"]
                skips = torch.cat([x[i, k] for k in range(j)], dim=1)
                x[i, j] = node(x[i + 1, j - 1], neck.ups[f"{i}_{j}"], skips)
        levels = neck.levels(maps)
    assert [m.shape[1] for m in levels] == [2, 8, 8, 8]  # stride 1, then x[0][3], [2] and [1]
    assert list(neck.level_strides) == [1, 4, 4, 4]
    for level, j in zip(levels[1:], (3, 2, 1), strict=True):
        assert torch.equal(level, x[0, j])


@pytest.mark.parametrize("out_stride", [1, 8])
def test_unet3plus_joins_every_scale_in_each_level(out_stride):
    neck = build("unet3plus", width=2, norm="none", out_stride=out_stride)
    maps = make_maps()

    def convolve(x: Tensor, block: nn.Sequential) -> Tensor:
        return F.relu(F.conv2d(x, block[0].weight, block[0].bias, padding=1))

    decoded = {3: maps[3]}  # X_De of the paper, by level, finest 0
    with torch.no_grad():
        for i in (2, 1, 0) if out_stride == 1 else (2, 1):
            step, parts = neck.steps[2 - i], []
            for k in range(i + 1):  # finer maps of the encoder, then that of the level
                small = F.max_pool2d(maps[k], STRIDES[i] // STRIDES[k])
                parts.append(convolve(small, step.skips[k]))
            for k in range(i + 1, 4):
                large = F.interpolate(decoded[k], size=maps[i].shape[2:], mode="bilinear")
                parts.append(convolve(large, step.joins[k - i - 1]))
            assert [p.shape[1] for p in parts] == [2] * 4
            decoded[i] = convolve(torch.cat(parts, dim=1), step.fuse)
        levels = neck.levels(maps)
        if out_stride == 1:  # stride 4 to 2, and to 1
            x = decoded[0]
            for step in neck.beyond:
                doubled = F.interpolate(x, scale_factor=2, mode="bilinear")
                x = convolve(convolve(doubled, step[0]), step[1])
            torch.testing.assert_close(levels.pop(0), x)
    finest_first = [decoded[i] for i in sorted(decoded)]
    for level, expected in zip(levels, finest_first, strict=True):
        torch.testing.assert_close(level, expected)
    strides = {1: (1, 4, 8, 16, 32), 8: (8, 16, 32)}
    assert neck.level_strides == strides[out_stride]


def test_the_linear_probe_has_no_parameters_but_those_of_its_norm():
    maps = make_maps()
    last = build("linear", norm="none")
    assert torch.equal(last(maps), maps[-1])
    assert (last.out_channels, last.out_stride) == (20, 32)
    everything = build("linear", maps="all", norm="none")
    result = everything(maps)
    assert torch.equal(result[:, :8], maps[0])
    doubled = F.interpolate(maps[1], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(result[:, 8:20], doubled)
    assert list(everything.parameters()) == []
    assert build("linear", hidden=5)(maps).shape == (2, 5, 2, 2)


def test_squeeze_and_excitation_is_the_sum_of_both():
    block = SqueezeExcite(32)
    x = torch.rand(2, 32, 5, 7)
    pooled = x.mean((2, 3))
    first, second = block.channel[1], block.channel[3]
    hidden = F.relu(F.linear(pooled, first.weight[..., 0, 0], first.bias))
    channel = torch.sigmoid(F.linear(hidden, second.weight[..., 0, 0], second.bias))
    pixel = torch.sigmoid(F.conv2d(x, block.pixel.weight, block.pixel.bias))
    expected = x * channel[:, :, None, None] + x * pixel
    torch.testing.assert_close(block(x), expected)


def test_the_attention_gate_is_that_of_the_paper():
    gate = AttentionGate(6, 10, factor=2)
    skip, x = torch.rand(2, 6, 8, 8), torch.rand(2, 10, 4, 4)
    theta = F.conv2d(skip, gate.theta.weight, stride=2)
    phi = F.conv2d(x, gate.phi.weight, gate.phi.bias)
    scores = F.conv2d(F.relu(theta + phi), gate.psi.weight, gate.psi.bias)
    alpha = torch.sigmoid(F.interpolate(scores, scale_factor=2, mode="bilinear"))
    torch.testing.assert_close(gate(skip, x), alpha * skip)
    with torch.no_grad():
        gate.psi.weight.zero_()
        gate.psi.bias.fill_(100.0)
    assert torch.equal(gate(skip, x), skip)  # it lets everything pass


@pytest.mark.parametrize("name", ["unet", "unetplusplus"])
@pytest.mark.parametrize("attention", ["none", "scse", "gate"])
def test_attention_trains_and_adds_little(name, attention):
    plain = sum(p.numel() for p in build(name).parameters())
    neck = build(name, attention=attention).train()
    added = sum(p.numel() for p in neck.parameters()) / plain - 1
    assert (added == 0) if attention == "none" else (0 < added < 0.2)
    sum(m.square().mean() for m in neck.levels(make_maps())).backward()
    assert [n for n, p in neck.named_parameters() if p.grad is None] == []


def test_attention_of_an_unpadded_network():
    model = create_model(
        {"name": "unet", "depth": 3, "width": 4, "padding": "valid"},
        {"name": "unet", "attention": "gate"},
        in_channels=1,
    ).eval()
    assert model(torch.rand(1, 1, 92, 108)).shape[2:] == model.output_size(92, 108)


def test_a_step_attends_before_and_after_joining():
    up = Upsample(6, 2, "nearest")
    step = JoinStep(6, 4, 8, up, attention="scse").eval()
    x, skip = torch.rand(1, 6, 16, 16), torch.rand(1, 4, 32, 32)
    after, before = step.scse
    joined = before(torch.cat([skip, up(x)], dim=1))
    convolve, norm, act = step[0]
    expected = after(step[1](act(norm(convolve(joined)))))
    torch.testing.assert_close(step(x, up, skip), expected)


def test_the_start_weights_of_overlapping_deconvolutions():
    """Each output pixel of a 4x4 kernel of stride 2 sees four input pixels."""
    torch.manual_seed(0)
    deconv = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1)
    init_he(deconv)
    assert deconv.weight.std().item() == pytest.approx((2 / (64 * 4)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("table", ["necks", pytest.param("encoders", marks=pytest.mark.nightly)])
def test_the_page_that_helps_to_choose_is_up_to_date(table):
    """Run `make docs` after changing a neck or its description."""
    script = Path(__file__).parents[2] / "docs" / "write_choosing.py"
    code = {"__file__": str(script), "__name__": "write_choosing"}
    exec(compile(script.read_text(), str(script), "exec"), code)
    page = script.with_name("choosing.md").read_text()
    assert page == code["replace"](page, table, code[f"list_{table}"]())


def test_the_readme_names_every_neck():
    """In the table "What goes together"."""
    rows = (Path(__file__).parents[2] / "README.md").read_text().splitlines()
    named = {name for row in rows if row.startswith("| ") for name in re.findall(r"`(\w+)`", row)}
    assert set(Neck.names()) <= named
