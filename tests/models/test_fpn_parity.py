"""FPN, FCN, upsampling and the pyramid of plain transformers against written-out references."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.models.conv import Upsample
from segkit.models.encoders.pyramid import SimplePyramid, pyramid_strides
from segkit.models.necks import Neck

CHANNELS, STRIDES = (8, 12, 16, 20), (4, 8, 16, 32)


def pyramid(size: int = 64) -> list[Tensor]:
    return [torch.randn(2, c, size // s, size // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]


def build(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return Neck.build(name, channels=CHANNELS, strides=STRIDES, **options).eval()


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def convolve(x: Tensor, layer: nn.Module) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)


def written_out_pyramid(neck: nn.Module, maps: list[Tensor]) -> list[Tensor]:
    """Lin et al. 2017, figure 3: laterals, doubling, addition, 3x3 smoothing; finest first."""
    c2, c3, c4, c5 = (convolve(m, lat) for m, lat in zip(maps, neck.laterals, strict=True))
    p5 = c5
    p4 = c4 + double(p5)
    p3 = c3 + double(p4)
    p2 = c2 + double(p3)
    return [convolve(p, s) for p, s in zip((p2, p3, p4, p5), neck.smooth, strict=True)]


def written_out_merge(neck: nn.Module, levels: list[Tensor]) -> Tensor:
    """Kirillov et al. 2019, figure 3: each level convolved and doubled until 1/4, then added."""
    total = torch.zeros(())
    for level, (x, branch) in enumerate(zip(levels, neck.merge, strict=True)):
        blocks = [part for part in branch if not isinstance(part, Upsample)]
        assert len(blocks) == max(1, level)
        for block in blocks:
            x = F.relu(convolve(x, block[0]))
            if level:
                x = double(x)
        total = total + x
    return total


def test_the_fpn_is_the_written_out_network():
    neck = build("fpn", width=16, merge_width=8, norm="none")
    maps = pyramid()
    with torch.no_grad():
        levels = written_out_pyramid(neck, maps)
        merged, *coarser = neck.levels(maps)
        torch.testing.assert_close(merged, written_out_merge(neck, levels))
        for level, expected in zip(coarser, levels[1:], strict=True):
            torch.testing.assert_close(level, expected)
        assert torch.equal(neck(maps), merged)
    assert (neck.out_channels, neck.out_stride) == (8, 4)
    assert (neck.level_channels, neck.level_strides) == ((8, 16, 16, 16), STRIDES)


def test_the_fpn_of_the_papers_has_their_widths():
    neck = build("fpn")
    assert {layer.out_channels for layer in neck.laterals} == {256}
    assert neck.out_channels == 128
    expected = (
        sum(c * 256 + 256 for c in CHANNELS)  # laterals
        + 4 * (256 * 256 * 9 + 256)  # smoothing
        + 4 * 256 * 128 * 9  # the first convolution of each branch
        + (1 + 2) * 128 * 128 * 9  # one more at 1/16, two more at 1/32
        + 7 * 2 * 128  # their batch norms
    )
    assert sum(p.numel() for p in neck.parameters()) == expected


@pytest.mark.parametrize(
    ("strides", "options", "laterals", "out_stride"),
    [
        ((2, *STRIDES), {}, 4, 4),
        ((2, *STRIDES), {"out_stride": 2}, 5, 2),
        ((1, 2), {}, 2, 1),  # two remain whatever their strides
    ],
)
def test_the_fpn_leaves_out_maps_finer_than_its_stride(strides, options, laterals, out_stride):
    neck = Neck.build("fpn", channels=(4,) * len(strides), strides=strides, **options)
    assert (len(neck.laterals), neck.out_stride) == (laterals, out_stride)


def test_the_fcn_is_the_written_out_network():
    neck = build("fcn", width=8, upsample="nearest")
    _, m3, m4, m5 = maps = pyramid()
    s3, s4, s5 = neck.scores
    with torch.no_grad():
        expected = convolve(m3, s3) + double(convolve(m4, s4) + double(convolve(m5, s5)))
        torch.testing.assert_close(neck(maps), expected)
    assert (neck.out_channels, neck.out_stride) == (8, 8)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_upsampling(factor):
    x = torch.arange(12.0).reshape(1, 1, 3, 4).repeat(2, 5, 1, 1)
    nearest = Upsample(5, factor, "nearest")
    assert torch.equal(nearest(x), x.repeat_interleave(factor, -1).repeat_interleave(factor, -2))
    bilinear = Upsample(5, factor, "bilinear")
    assert bilinear(x).shape == nearest(x).shape
    # it interpolates between the centres of pixels
    assert Upsample(1, 2, "bilinear")(torch.tensor([[[[0.0, 4.0]]]]))[0, 0, 0].tolist() == [
        0,
        1,
        3,
        4,
    ]
    for fixed in (nearest, bilinear):
        assert list(fixed.parameters()) == []
        assert fixed.out_channels == 5
    deconv = Upsample(5, factor, "deconv", out_channels=3)
    y = deconv(x)
    assert y.shape == (2, 3, 3 * factor, 4 * factor)
    # each output pixel sees the one input pixel under it
    weight = deconv.deconv.weight
    expected = torch.einsum("i,io->o", x[0, :, 1, 2], weight[:, :, factor - 1, 0])
    actual = y[0, :, 2 * factor - 1, 2 * factor] - deconv.deconv.bias
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("stride", "expected"),
    [(16, (4, 8, 16, 32)), (14, (7, 14, 28)), (7, (7, 14)), (8, (2, 4, 8, 16))],
)
def test_the_simple_pyramid(stride, expected):
    torch.manual_seed(0)
    assert pyramid_strides(stride) == expected
    count = len(expected)
    several = SimplePyramid(tuple(range(4, 4 + count)), stride)
    assert several.strides == expected
    maps = [torch.rand(1, c, 6, 10) for c in several.channels]
    levels = several(maps)
    assert [tuple(m.shape) for m in levels] == [
        (1, c, 6 * stride // s, 10 * stride // s)
        for c, s in zip(several.channels, expected, strict=True)
    ]
    assert torch.equal(levels[-1], F.max_pool2d(maps[-1], 2))
    assert torch.equal(levels[-2], maps[-2])  # the level of the map itself
    single = SimplePyramid((6,), stride)
    assert single.channels == (6,) * count
    assert single([maps[2 % count][:, :1].repeat(1, 6, 1, 1)])[-2].shape == (1, 6, 6, 10)
    assert SimplePyramid((6,), stride, depth=1).strides == expected[:1]
