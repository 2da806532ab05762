"""Encoders, necks, heads and ways of upsampling, exported and compared with the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_parts import PRESETS, choose_options

from segkit.benchmark.networks import make_bare_card
from segkit.export.checking import check
from segkit.export.command import describe_model, fix_size
from segkit.export.formats import ENDINGS, write_network
from segkit.export.images import RealImages
from segkit.inference.predictor import load
from segkit.inference.runtimes.torch_network import TorchNetwork
from segkit.models.encoders import Encoder
from segkit.models.heads import Head
from segkit.models.necks import Neck
from segkit.models.segmenter import create_model

UPSAMPLES = ("nearest", "bilinear", "deconv")
VIT = {"name": "test_vit.r160_in1k", "img_size": 64}

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


def export_and_check(encoder, neck, upsample, head, kind, folder, size=None):
    """Write a network of these parts, and compare the file with it at several sizes."""
    torch.manual_seed(0)
    options = {"name": encoder} if isinstance(encoder, str) else dict(encoder)
    built = Encoder.build(options.pop("name"), **options, pretrained=False)
    classes = None if head == "binary" else 3
    options = {"name": neck, **choose_options(neck, upsample=upsample)}
    model = create_model(built, options, head, num_classes=classes)
    card = make_bare_card(model.eval(), 64, "uint8", 255.0)
    contents = describe_model(model, card, True, True)
    contents = contents if size is None else fix_size(contents, size)
    path = folder / f"model{ENDINGS[kind]}"
    write_network([model], contents, kind, path)
    image = np.random.default_rng(0).integers(0, 255, (70, 50, 3), np.uint8)
    reference = TorchNetwork(model, card, "cpu", tile=128, batch_size=1)
    network = load(path, device="cpu").networks[0]
    noise, other = check(reference, network, contents, RealImages("an image", [image]))
    assert noise.pixels > 0
    assert other.pixels > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "neck", "upsample", "head", "kind", "size"),
    [
        ({"name": "unet", "width": 8, "depth": 3}, "unet", "deconv", "binary", "onnx", None),
        pytest.param(
            *("resnet18", "unet", "nearest", "multiclass", "openvino", None),
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            *("mobilenetv3_large_100", "fpn", "bilinear", "multilabel", "torch_export", None),
            marks=pytest.mark.nightly,
        ),
        # of one size: it resamples its position embedding in Python
        pytest.param(
            *(VIT, "unet", "nearest", "multiclass", "torch_export", (64, 64)),
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_parts_of_every_kind(encoder, neck, upsample, head, kind, size, tmp_path):
    export_and_check(encoder, neck, upsample, head, kind, tmp_path, size)


@pytest.mark.nightly
@pytest.mark.parametrize("preset", PRESETS)
def test_every_encoder_as_onnx(preset, tmp_path):
    """The necks, the heads and the ways to upsample take turns.

    Of random queries the smallest difference becomes a large one, at the thresholds of their masks.
    """
    turn, heads = list(PRESETS).index(preset), [name for name in Head.names() if name != "queries"]
    neck, head, upsample = (
        ("fcn", "fpn", "unet")[turn % 3],
        heads[turn % 3],
        UPSAMPLES[turn // 3 % 3],
    )
    # for all sizes torch.export takes longer over these than the command waits
    size = (64, 64) if preset in ("swin_tiny", "sam2_hiera_tiny") else None
    export_and_check(PRESETS[preset], neck, upsample, head, "onnx", tmp_path, size)


@pytest.mark.nightly
@pytest.mark.parametrize("neck", Neck.names())
@pytest.mark.parametrize("kind", ENDINGS)
def test_every_neck_in_every_format(neck, kind, tmp_path):
    upsample = UPSAMPLES[Neck.names().index(neck) % 3]
    export_and_check("test_resnet", neck, upsample, "binary", kind, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "options", "kind", "size"),
    [
        ("convnext_tiny", {}, "openvino", None),
        ("convnext_tiny", {}, "torch_export", None),
        ("efficientnet_b0", {}, "openvino", None),
        ("efficientnet_b0", {}, "torch_export", None),
        ("tf_efficientnet_lite0", {}, "onnx", None),  # pads like TensorFlow, depending on the size
        ("regnety_002", {}, "onnx", None),
        ("regnety_002", {}, "openvino", None),
        ("regnety_002", {}, "torch_export", None),
        ("vit_tiny_patch16_224", {"img_size": 64}, "onnx", None),
        ("vit_tiny_patch16_224", {"img_size": 64}, "torch_export", (64, 64)),
        # of one size: torch.export takes minutes over its shifted windows otherwise
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "depth": 2}, "onnx", (64, 64)),
    ],
)
def test_other_families_of_timm(name, options, kind, size, tmp_path):
    export_and_check(
        {"name": name, **options}, "fpn", "nearest", "multiclass", kind, tmp_path, size
    )
