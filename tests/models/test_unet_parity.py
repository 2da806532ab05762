"""The U-Net against the paper's figures and against a network that is written out plainly."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.models.segmenter import Segmenter, create_model


def paper(padding: str = "valid", width: int = 64, **options) -> Segmenter:
    """The network of Ronneberger et al. 2015, figure 1."""
    return create_model(
        {"name": "unet", "padding": padding, "width": width, **options},
        {"name": "unet", "upsample": "deconv"},
        "multiclass",
        num_classes=2,
        in_channels=1,
    )


def written_out(model: Segmenter, x: Tensor, pad: int) -> Tensor:
    """Figure 1 line by line with the model's weights, without any of its code."""

    def two_convolutions(x: Tensor, block: nn.Module) -> Tensor:
        first, second = (part[0] for part in block)
        x = F.relu(F.conv2d(x, first.weight, first.bias, padding=pad))
        return F.relu(F.conv2d(x, second.weight, second.bias, padding=pad))

    def up(x: Tensor, skip: Tensor, step: int) -> Tensor:
        deconv = model.neck.ups[step].deconv
        x = F.conv_transpose2d(x, deconv.weight, deconv.bias, stride=2)
        margin = (skip.shape[-1] - x.shape[-1]) // 2
        inner = skip[:, :, margin : margin + x.shape[-2], margin : margin + x.shape[-1]]
        return two_convolutions(torch.cat((inner, x), 1), model.neck.convs[step])

    levels = model.encoder.levels
    a = two_convolutions(x, levels[0])
    b = two_convolutions(F.max_pool2d(a, 2), levels[1])
    c = two_convolutions(F.max_pool2d(b, 2), levels[2])
    d = two_convolutions(F.max_pool2d(c, 2), levels[3])
    e = two_convolutions(F.max_pool2d(d, 2), levels[4])
    x = up(up(up(up(e, d, 0), c, 1), b, 2), a, 3)
    return F.conv2d(x, model.head.conv.weight, model.head.conv.bias)


def test_the_paper_has_31_030_658_parameters():
    assert sum(p.numel() for p in paper().parameters()) == 31_030_658
    assert sum(p.numel() for p in paper("same").parameters()) == 31_030_658


def test_572_pixels_give_388():
    model = paper(width=2).eval()
    assert model.output_size(572, 572) == (388, 388)
    with torch.no_grad():
        assert model(torch.rand(1, 1, 572, 572)).shape == (1, 2, 388, 388)


@pytest.mark.parametrize(("padding", "size"), [("valid", (188, 204)), ("same", (48, 64))])
def test_the_unet_is_the_written_out_network(padding, size):
    torch.manual_seed(0)
    model = paper(padding, width=8).eval()
    x = torch.rand(2, 1, *size)
    with torch.no_grad():
        expected = written_out(model, x, 1 if padding == "same" else 0)
        torch.testing.assert_close(model(x), expected)
    assert tuple(expected.shape[-2:]) == model.output_size(*size)


def test_the_paper_initialises_with_the_square_root_of_2_over_n():
    torch.manual_seed(0)
    model = paper()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and not name.startswith("head"):
            # of a 2x2 deconvolution of stride 2, one input pixel reaches each output
            incoming = layer.in_channels * (9 if isinstance(layer, nn.Conv2d) else 1)
            if layer.weight.numel() > 10_000:
                expected = pytest.approx(math.sqrt(2 / incoming), rel=0.03)
                assert layer.weight.std().item() == expected, name
            assert layer.bias is not None
            assert (layer.bias == 0).all()


def test_dropout_is_at_the_bottom_alone():
    model = paper(width=4, dropout=0.9)
    x = torch.rand(1, 1, 188, 188)
    with torch.no_grad():
        first, second = model.encoder(x), model.encoder(x)
    assert [torch.equal(a, b) for a, b in zip(first, second, strict=True)] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("depth", "norm", "kind"),
    [
        (2, "none", "Identity"),
        (3, "batch", "BatchNorm2d"),
        (4, "group", "GroupNorm"),
        (2, "instance", "InstanceNorm2d"),
        (6, "layer", "LayerNorm"),
    ],
)
def test_depths_and_norms(depth, norm, kind):
    model = create_model({"name": "unet", "depth": depth, "norm": norm, "width": 4}, "unet")
    assert model.encoder.strides == tuple(2**i for i in range(depth))
    assert model.encoder.channels == tuple(4 * 2**i for i in range(depth))
    assert model(torch.rand(1, 3, 19, 23)).shape == (1, 1, 19, 23)
    kinds = {type(part).__name__ for part in model.neck.modules()}  # the neck follows the encoder
    assert {name for name in kinds if "Norm2d" in name or name.endswith("Norm")} - {
        "ChannelLayerNorm"
    } == ({kind} - {"Identity"})


@pytest.mark.parametrize(
    ("encoder", "neck", "message"),
    [
        *(({"depth": depth}, "unet", "option 'depth'") for depth in (1, 7, "deep", True)),
        ({"padding": "valid"}, "fpn", "use neck=unet"),
        ({"padding": "valid"}, "fcn", "use neck=unet"),
        ({"padding": "valid"}, {"name": "unet", "out_stride": 2}, r"use neck\.out_stride=1"),
    ],
)
def test_parts_that_do_not_fit_are_errors(encoder, neck, message):
    with pytest.raises(SegkitError, match=message):
        create_model({"name": "unet", **encoder}, neck)


def test_auxiliary_logits_of_an_unpadded_network_are_cropped_about_the_centre():
    model = create_model(
        {"name": "unet", "padding": "valid", "width": 2, "depth": 3},
        {"name": "unet", "upsample": "nearest"},
        in_channels=1,
        auxiliary=1,
    ).eval()
    x = torch.rand(1, 1, 92, 92)
    with torch.no_grad():
        fine, coarse = model.all_logits(x)
        assert fine.shape == coarse.shape == (1, 1, 52, 52)
        level = model.neck.levels(model.encoder(x))[1]
        whole = F.interpolate(model.auxiliary[0](level), scale_factor=2.0, mode="bilinear")
    assert whole.shape[-2:] == (56, 56)  # its last two convolutions would take two pixels per side
    torch.testing.assert_close(coarse, whole[..., 2:-2, 2:-2])


def test_skips_are_missing_only_where_the_encoder_has_no_map():
    model = create_model({"name": "convnext_atto", "pretrained": False}, {"name": "unet"})
    first = [block[0].convolution.in_channels for block in model.neck.convs]
    # strides 16, 8, 4 join a skip; 2 and 1 have none
    assert first == [320 + 160, 256 + 80, 128 + 40, 64, 32]
    assert model.neck.level_strides == (1, 2, 4, 8, 16)


@pytest.mark.parametrize(("depth", "out_stride"), [(5, 4), (1, 1)])
def test_fewer_levels_keep_the_size_of_the_logits(depth, out_stride):
    encoder = {"name": "test_resnet", "pretrained": False, "depth": depth}
    model = create_model(encoder, {"name": "unet", "out_stride": out_stride})
    assert model.neck.out_stride == out_stride
    assert model(torch.rand(2, 3, 37, 41)).shape == (2, 1, 37, 41)
