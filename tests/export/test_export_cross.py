"""Every encoder preset with every neck, heads and upsamplings in turn, as ONNX; and the others.

SEGKIT_EXPORT_CROSS=full takes every head with each of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.normalization import Normalization
from segkit.export.checking import check, sizes_to_check
from segkit.export.command import ENDINGS, Format, _of_size, describe, read
from segkit.export.images import RealImages
from segkit.export.onnx_file import onnx_model, write_onnx
from segkit.export.openvino_file import write_openvino
from segkit.export.torch_export_file import write_torch_export
from segkit.inference.runtimes.torch_network import TorchNetwork
from segkit.models.encoders import Encoder
from segkit.models.heads import Head
from segkit.models.necks import Neck
from segkit.models.segmenter import Segmenter

CONF = Path(__file__).parents[2] / "conf"
PRESETS = sorted(path.stem for path in (CONF / "encoder").glob("*.yaml") if path.stem != "timm")
UPSAMPLES = ("nearest", "bilinear", "deconv")
FULL = os.environ.get("SEGKIT_EXPORT_CROSS") == "full"

pytestmark = pytest.mark.slow
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", params=PRESETS)
def preset(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def encoder(preset) -> Encoder:
    torch.manual_seed(0)
    return Encoder.build(preset, pretrained=False)


def export_and_check(
    encoder: Encoder, neck: str, upsample: str, head: str, kind: Format, folder, size=None
):
    """Write a network of these parts, and compare the file with it at several sizes."""
    classes = {} if head == "binary" else {"num_classes": 3}
    middle = Neck.build(neck, channels=encoder.channels, strides=encoder.strides, upsample=upsample)
    model = Segmenter(
        encoder, middle, Head.build(head, in_channels=middle.out_channels, **classes)
    ).eval()
    card = ModelCard(
        encoder={"name": encoder.name},
        neck={"name": neck},
        head={"name": head},
        in_channels=3,
        num_classes=model.head.num_classes,
        auxiliary=0,
        img_size=(64, 64),
        class_names=("a", "b", "c")[: model.head.num_classes],
        class_colors=((0, 0, 0),) * model.head.num_classes,
        normalization=Normalization("uint8", 0, 255, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)),
        mask_values=(0, 1, 2)[: model.head.num_classes],
        mode=model.head.mode,
    )
    contents = describe(model, card, True, True)
    if size is not None:
        contents = _of_size(contents, size)
    sizes = sizes_to_check(contents.windows)
    path = folder / f"model{ENDINGS[kind]}"
    if kind == "torch_export":
        write_torch_export(model, contents, sizes, path)
    else:
        proto = onnx_model(model, contents, sizes)
        write_onnx(proto, path) if kind == "onnx" else write_openvino(proto, contents, path)
    image = np.random.default_rng(0).integers(0, 255, (70, 50, 3), np.uint8)
    reference = TorchNetwork(model, card, "cpu", tile=128, batch_size=1)
    real = RealImages("an image", [image])
    random, other = check(reference, read(kind, path), contents, real)
    assert random.pixels > 0
    assert other.pixels > 0


@pytest.mark.parametrize("neck", Neck.names())
def test_every_encoder_and_neck_is_the_same_as_onnx(preset, encoder, neck, tmp_path):
    turn = Neck.names().index(neck) + PRESETS.index(preset)
    heads = Head.names()
    for head in heads if FULL else [heads[turn % len(heads)]]:
        export_and_check(encoder, neck, UPSAMPLES[turn % 3], head, "onnx", tmp_path)


@pytest.mark.parametrize("kind", ["openvino", "torch_export"])
@pytest.mark.parametrize(
    ("name", "neck", "head"),
    [
        ("convnext_tiny", "unet", "multiclass"),
        ("efficientnet_b0", "fpn", "multilabel"),
        ("mobilenetv3_large_100", "fcn", "binary"),
    ],
)
def test_a_sample_as_the_other_formats(kind, name, neck, head, tmp_path):
    torch.manual_seed(0)
    encoder = Encoder.build(name, pretrained=False)
    export_and_check(encoder, neck, "bilinear", head, kind, tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "kind", "size"),
    [
        ("regnety_002", {}, "onnx", None),
        ("tf_efficientnet_lite0", {}, "onnx", None),  # pads as TensorFlow does, by the size
        ("regnety_002", {}, "openvino", None),
        ("regnety_002", {}, "torch_export", None),
        ("vit_tiny_patch16_224", {"img_size": 64}, "onnx", None),
        # of one size: it resamples its position embedding in Python
        ("vit_tiny_patch16_224", {"img_size": 64}, "torch_export", (64, 64)),
        # of one size: torch.export takes minutes over its shifted windows otherwise
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "depth": 2}, "onnx", (64, 64)),
    ],
)
def test_other_families_of_timm(name, options, kind, size, tmp_path):
    torch.manual_seed(0)
    encoder = Encoder.build(name, pretrained=False, **options)
    export_and_check(encoder, "fpn", "nearest", "multiclass", kind, tmp_path, size)
