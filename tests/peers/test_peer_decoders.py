"""The necks next to the decoders of segmentation_models.pytorch (SMP) and transformers.

With their weights, the necks give their maps. What is changed in theirs first, and why:

- Bilinear interpolation is between the centres of pixels, theirs between the corner pixels
  (``align_corners``), where a pixel of the result depends on the size of the image, or tile.
- Group norm of the FPN has 16 channels a group, theirs 32 groups of any size.
- MA-Net: the attention between pixels has weights that sum to 1 for each pixel, and its result is
  put back to the pixels that it came from. Theirs sum to 1 over the whole image, and their result
  is reshaped without being transposed.
- DPT: the coarsest level has one residual block, as the authors' code has; SMP gives it two. A
  level's 1x1 projection, which nothing but a 3x3 convolution follows, is part of that.
- PSPNet ends with a 3x3 convolution, as the authors' code does; SMP has a 1x1. SMP does not
  normalise the mean of the map.
- SegFormer takes strides 4 to 32; SMP takes stride 2 too where the encoder has it.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.models.necks import Neck

pytestmark = pytest.mark.peers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their own, at import
    smp = pytest.importorskip(
        "segmentation_models_pytorch", reason="the extra peers is not installed"
    )

CHANNELS, STRIDES = (16, 32, 48, 64, 80), (2, 4, 8, 16, 32)
WIDTHS = (256, 128, 64, 32, 16)


@pytest.fixture(autouse=True)
def between_centres(monkeypatch):
    plain = F.interpolate

    def interpolate(x, size=None, scale_factor=None, mode="nearest", align_corners=None, **options):
        centres = None if align_corners is None else False
        return plain(x, size, scale_factor, mode, centres, **options)

    monkeypatch.setattr(F, "interpolate", interpolate)


def get(name: str, **options) -> nn.Module:
    """A decoder of SMP with random weights and statistics."""
    torch.manual_seed(0)
    room = {"DeepLabV3Plus": "deeplabv3", "PSP": "pspnet"}.get(name, name.lower())
    module = importlib.import_module(f"segmentation_models_pytorch.decoders.{room}.decoder")
    return randomise(getattr(module, f"{name}Decoder")(**options))


def randomise(model: nn.Module) -> nn.Module:
    for key, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point():
            with torch.no_grad():
                value.uniform_(0.5, 1.5) if "running_var" in key else value.normal_(std=0.1)
    return model.eval().double()


def make_maps(strides=STRIDES, channels=CHANNELS, side=256) -> list[Tensor]:
    torch.manual_seed(1)
    return [
        torch.randn(2, c, side // s, side // s, dtype=torch.float64)
        for c, s in zip(channels, strides, strict=True)
    ]


def give(mine: nn.Module, theirs: nn.Module | Iterable[nn.Module], order=None) -> None:
    """Copy a convolution and its norm; ``order`` lists its input channels in ours."""
    theirs = theirs if isinstance(theirs, nn.Module) else nn.Sequential(*theirs)
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    convs = [[m for m in part.modules() if isinstance(m, kinds)] for part in (mine, theirs)]
    norms = [
        [m for m in part.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
        for part in (mine, theirs)
    ]
    with torch.no_grad():
        for i, (own, other) in enumerate(zip(*convs, strict=True)):
            weight = other.weight if order is None else other.weight[:, order]
            if own.weight.shape[2:] != weight.shape[2:] and weight.ndim == 4:  # 1x1 in 3x3
                weight = F.pad(weight, (1, 1, 1, 1))
            own.weight.copy_(weight.reshape(own.weight.shape))
            if own.bias is not None:
                own.bias.copy_(other.bias)
            elif other.bias is not None and norms[0]:
                norm = norms[1][i] if norms[1] else None
                if norm is None:
                    identity = {"weight": 1.0, "bias": other.bias, "running_mean": 0.0}
                    identity["running_var"] = 1 - norms[0][i].eps
                    for key, value in identity.items():
                        getattr(norms[0][i], key).copy_(torch.as_tensor(value))
                else:
                    norm.running_mean -= other.bias
                    other.bias.zero_()
        if norms[1]:
            for own, other in zip(*norms, strict=True):
                own.load_state_dict(other.state_dict())


def roll(first: int, *others: int) -> list[int]:
    """The input channels of "coarser map, skips" in the order "skips backwards, coarser map"."""
    starts = torch.tensor([0, first, *others]).cumsum(0).tolist()
    parts = [range(a, b) for a, b in pairwise(starts)]
    return [channel for part in reversed(parts) for channel in part]


def give_scse(mine: nn.Module, theirs: nn.Module, order=None) -> None:
    own, other = mine.channel, theirs.attention.cSE
    with torch.no_grad():
        order = list(range(own[1].in_channels)) if order is None else order
        own[1].weight.copy_(other[1].weight[:, order])
        own[1].bias.copy_(other[1].bias)
        own[3].weight.copy_(other[3].weight[order])
        own[3].bias.copy_(other[3].bias[order])
        mine.pixel.weight.copy_(theirs.attention.sSE[0].weight[:, order])
        mine.pixel.bias.copy_(theirs.attention.sSE[0].bias)


def give_step(mine, theirs, order, attention="none") -> None:
    give(mine[0], theirs.conv1, order)
    give(mine[1], theirs.conv2)
    if attention == "scse":
        give_scse(mine.scse[0], theirs.attention2)
        if len(mine.scse) > 1:
            give_scse(mine.scse[1], theirs.attention1, order)


def build(name: str, strides=STRIDES, channels=CHANNELS, **options) -> Neck:
    return Neck.build(name, channels=channels, strides=strides, **options).eval().double()


@torch.no_grad()
def compare(mine: Neck, theirs: nn.Module, maps: list[Tensor]) -> None:
    expected = theirs([torch.zeros(2, 3, 256, 256), *maps])
    assert expected.std() > 1e-3
    torch.testing.assert_close(mine(maps), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("attention", ["none", "scse"])
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_unet(attention, upsample):
    theirs = get(
        "Unet",
        encoder_channels=(3, *CHANNELS),
        decoder_channels=WIDTHS,
        attention_type=None if attention == "none" else attention,
        interpolation_mode=upsample,
    )
    mine = build("unet", attention=attention, upsample=upsample)
    below = (CHANNELS[-1], *WIDTHS[:-1])
    skips = (*CHANNELS[-2::-1], 0)
    for step, block, b, s in zip(mine.convs, theirs.blocks, below, skips, strict=True):
        give_step(step, block, roll(b, s), attention)
    compare(mine, theirs, make_maps())


@pytest.mark.parametrize("attention", ["none", "scse"])
def test_unetplusplus(attention):
    theirs = get(
        "UnetPlusPlus",
        encoder_channels=(3, *CHANNELS),
        decoder_channels=WIDTHS,
        attention_type=None if attention == "none" else attention,
    )
    mine = build("unetplusplus", attention=attention)
    for name, node in mine.nodes.items():
        if name == "to_1":
            give_step(node, theirs.blocks["x_0_4"], None, attention)
            continue
        i, j = map(int, name.split("_"))
        layer = 3 - i
        skips = [CHANNELS[i]] * j
        total = theirs.blocks[f"x_{layer - j + 1}_{layer}"].conv1[0].in_channels
        block = theirs.blocks[f"x_{layer - j + 1}_{layer}"]
        give_step(node, block, roll(total - sum(skips), *skips), attention)
    compare(mine, theirs, make_maps())


def test_linknet():
    theirs = get("Linknet", encoder_channels=[3, *CHANNELS])
    mine = build("linknet")
    for own, other in zip(mine.steps, theirs.blocks, strict=True):
        with torch.no_grad():  # theirs has a bias before the norm
            deconv, norm = other.block[1][0], other.block[1][1]
            norm.running_mean -= deconv.bias
            own[1][0].bias.zero_(), deconv.bias.zero_()
        give(own, other)
    compare(mine, theirs, make_maps())


class Rows(nn.Module):
    """SMP's attention of MA-Net with the two changes, by its own layers."""

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        self.theirs = theirs

    def forward(self, x: Tensor) -> Tensor:
        t = self.theirs
        scores = torch.einsum("bci,bcj->bij", t.center_conv(x).flatten(2), t.top_conv(x).flatten(2))
        attended = torch.einsum("bij,bcj->bci", scores.softmax(-1), t.bottom_conv(x).flatten(2))
        return t.out_conv(x + attended.view_as(x))


def test_manet():
    theirs = get("MAnet", encoder_channels=[3, *CHANNELS], decoder_channels=list(WIDTHS))
    mine = build("manet")
    for own, other in (("query", "center"), ("key", "top"), ("value", "bottom"), ("out", "out")):
        give(getattr(mine.center, own), getattr(theirs.center, f"{other}_conv"))
    theirs.center = Rows(theirs.center)
    for fuse, step, block, skip in zip(
        mine.fuse, mine.steps, theirs.blocks, (*CHANNELS[-2::-1], 0), strict=True
    ):
        if skip:
            give(fuse.reduce, block.hl_conv)
            give(fuse.excite, block.SE_hl)
            give(fuse.excite_skip, block.SE_ll)
        give(step[0], block.conv1, roll(skip, skip) if skip else None)
        give(step[1], block.conv2)
    compare(mine, theirs, make_maps())


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_pan(upsample):
    theirs = get(
        "PAN",
        encoder_channels=(3, *CHANNELS),
        encoder_depth=5,
        decoder_channels=32,
        interpolation_mode=upsample,
    )
    mine = build("pan", upsample=upsample)
    own, other = mine.pyramid, theirs.fpa
    give(own.mean, other.branch1)
    give(own.direct, other.mid)
    for down, theirs_down in zip(
        own.down, (other.down1, other.down2, other.down3[:2]), strict=True
    ):
        give(down, theirs_down)
    for across, block in zip(own.across, (other.conv1, other.conv2, other.down3[2]), strict=True):
        give(across, block)
    for step, block in zip(mine.steps, (theirs.gau1, theirs.gau2, theirs.gau3), strict=True):
        give(step.skip, block.conv2)
        give(step.weight, block.conv1)
    compare(mine, theirs, make_maps())


def test_pspnet():
    theirs = get("PSP", encoder_channels=[3, *CHANNELS[:3]], out_channels=64)
    mine = build("pspnet", STRIDES[:3], CHANNELS[:3], width=64)
    for own, other in zip(mine.pool.convs, theirs.psp.blocks, strict=True):
        give(own, other)
    give(mine.project, theirs.conv, [*range(48, 96), *range(48)])
    compare(mine, theirs, make_maps()[:3])


def give_dilated(mine: nn.Module, theirs: nn.Module) -> None:
    *convs, average = theirs.convs
    for own, other in zip(mine.convs, convs, strict=True):
        give(own, other)
    give(mine.average, average)
    give(mine.project, theirs.project)


def test_deeplabv3():
    theirs = get(
        "DeepLabV3",
        in_channels=48,
        out_channels=32,
        atrous_rates=(12, 24, 36),
        aspp_separable=False,
        aspp_dropout=0.5,
    )
    mine = build("deeplabv3", STRIDES[:3], CHANNELS[:3], width=32)
    give_dilated(mine.pyramid, theirs.aspp)
    give(mine.conv, [theirs.conv, theirs.bn])
    compare(mine, theirs, make_maps()[:3])


def test_deeplabv3plus():
    theirs = get(
        "DeepLabV3Plus",
        encoder_channels=(3, *CHANNELS[:4]),
        encoder_depth=5,
        out_channels=32,
        atrous_rates=(6, 12, 18),
        output_stride=16,
        aspp_separable=True,
        aspp_dropout=0.5,
    )
    mine = build("deeplabv3plus", STRIDES[:4], CHANNELS[:4], width=32)
    give_dilated(mine.pyramid[0], theirs.aspp[0])
    give(mine.pyramid[1], theirs.aspp[1:3])
    give(mine.skip, theirs.block1)
    own, other = mine.join, theirs.block2
    order = [*range(32, 80), *range(32)]  # theirs joins the skip behind the rest
    with torch.no_grad():
        own[0].weight.copy_(other[0][0].weight[order])
        own[1].weight.copy_(other[0][1].weight[:, order])
        own[2].load_state_dict(other[1].state_dict())
    compare(mine, theirs, make_maps()[:4])


def test_upernet():
    theirs = get("UPerNet", encoder_channels=(3, *CHANNELS), decoder_channels=32)
    mine = build("upernet", width=32)
    for own, other in zip(mine.norms, theirs.feature_norms, strict=True):
        own.norm.load_state_dict(other.state_dict())
    for own, other in zip(mine.pool[0].convs, theirs.psp.blocks, strict=True):
        give(own, other)
    give(mine.pool[1], theirs.psp.out_conv)
    for own, other in zip(mine.laterals[::-1], theirs.fpn_lateral_blocks, strict=True):
        give(own, other)
    for own, other in zip(mine.smooth[::-1], theirs.fpn_conv_blocks, strict=True):
        give(own, other)
    give(mine.join, theirs.fusion_block)
    compare(mine, theirs, make_maps())


def test_fpn():
    theirs = get("FPN", encoder_channels=[3, *CHANNELS])
    for module in theirs.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = module.num_channels // 16
    mine = build("fpn", norm="group", smooth=False, upsample="nearest")
    laterals = (theirs.p2.skip_conv, theirs.p3.skip_conv, theirs.p4.skip_conv, theirs.p5)
    for own, other in zip(mine.laterals, laterals, strict=True):
        give(own, other)
    for own, other in zip(mine.merge, reversed(theirs.seg_blocks), strict=True):
        give(own, other)
    for branch in mine.merge:  # their branches are bilinear, their laterals nearest
        for part in branch:
            if hasattr(part, "factor"):
                part.mode = "bilinear"
            elif hasattr(part, "doubles"):
                part.doubles = False
    compare(mine, theirs, make_maps())


def test_segformer():
    theirs = get("Segformer", encoder_channels=[3, 0, *CHANNELS[1:]])
    mine = build("segformer", STRIDES[1:], CHANNELS[1:])
    for own, other in zip(mine.project, reversed(theirs.mlp_stage), strict=True):
        give(own, other.linear)
    parts = theirs.fuse_stage[0].weight.split(256, dim=1)
    with torch.no_grad():
        for own, part in zip(mine.fuse, reversed(parts), strict=True):
            own.weight.copy_(part)
    mine.act[0].load_state_dict(theirs.fuse_stage[1].state_dict())
    maps = make_maps()[1:]
    compare(mine, lambda given: theirs([given[0], torch.empty(2, 0, 128, 128), *given[1:]]), maps)


def test_dpt():
    theirs = get(
        "DPT",
        encoder_out_channels=CHANNELS[1:],
        encoder_output_strides=STRIDES[1:],
        encoder_has_prefix_tokens=False,
        readout="ignore",
        intermediate_channels=(32, 48, 64, 80),
        fusion_channels=32,
    )
    head = importlib.import_module(
        "segmentation_models_pytorch.decoders.dpt.decoder"
    ).DPTSegmentationHead(32, 3)
    randomise(head)
    mine = build("dpt", STRIDES[1:], CHANNELS[1:], width=32)
    with torch.no_grad():
        for own, other in zip(mine.reassemble, theirs.reassemble_blocks, strict=True):
            first, second = other.project_to_out_channel, other.project_to_feature_dim
            first.bias.zero_()
            own.weight.copy_(torch.einsum("omhw,mi->oihw", second.weight, first.weight[:, :, 0, 0]))
    theirs.fusion_blocks[0].residual_conv_block1 = nn.Identity()
    for own, other in zip(reversed(mine.fuse), theirs.fusion_blocks, strict=True):
        if isinstance(own.level, nn.Identity):
            assert isinstance(other.residual_conv_block1, nn.Identity)
        else:
            give(own.level, other.residual_conv_block1)
        give(own.sum, other.residual_conv_block2)
        give(own.project, other.project)
    give(mine.last, head.head[:3])
    maps = make_maps()[1:]
    with torch.no_grad():
        logits = head.head[4](mine(maps))
        logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
        expected = head(theirs(maps, [None] * 4))
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-9)


def test_segformer_of_transformers():
    transformers = pytest.importorskip("transformers", reason="the extra peers is not installed")
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

    config = transformers.SegformerConfig(
        hidden_sizes=list(CHANNELS[1:]), decoder_hidden_size=32, num_labels=5
    )
    theirs = randomise(SegformerDecodeHead(config))
    mine = build("segformer", STRIDES[1:], CHANNELS[1:], width=32)
    projections = next(theirs.children())  # named otherwise in earlier versions
    for own, other in zip(mine.project, projections, strict=True):
        give(own, other.proj)
    parts = theirs.linear_fuse.weight.split(32, dim=1)
    with torch.no_grad():
        for own, part in zip(mine.fuse, reversed(parts), strict=True):
            own.weight.copy_(part)
        mine.act[0].load_state_dict(theirs.batch_norm.state_dict())
        maps = make_maps()[1:]
        logits = theirs.classifier(mine(maps))
        torch.testing.assert_close(logits, theirs(maps), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_fusion_of_dpt_of_transformers(norm):
    transformers = pytest.importorskip("transformers", reason="the extra peers is not installed")
    from transformers.models.dpt.modeling_dpt import DPTFeatureFusionStage

    is_normed = norm == "batch"
    config = transformers.DPTConfig(
        fusion_hidden_size=32,
        use_batch_norm_in_fusion_residual=is_normed,
        use_bias_in_fusion_residual=not is_normed,
    )
    theirs = randomise(DPTFeatureFusionStage(config))
    mine = build("dpt", STRIDES[1:], CHANNELS[1:], width=32, norm=norm)
    for own, other in zip(reversed(mine.fuse), theirs.layers, strict=True):
        if not isinstance(own.level, nn.Identity):  # theirs is not used for the coarsest level
            give(own.level, other.residual_layer1)
        give(own.sum, other.residual_layer2)
        give(own.project, other.projection)
    maps = make_maps()[1:]
    with torch.no_grad():
        levels = [conv(m) for conv, m in zip(mine.reassemble, maps, strict=True)]
        expected = theirs(levels)[::-1]
        actual = mine.levels(maps)
        torch.testing.assert_close(actual[0], mine.last(expected[0]), rtol=1e-6, atol=1e-9)
        for own, other in zip(actual[1:], expected[1:], strict=True):
            torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-9)
