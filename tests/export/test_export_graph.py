"""The graph that is exported, run as plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.std_conv import ScaledStdConv2dSame, StdConv2dSame

from segkit.checkpoint.values import Normalization
from segkit.export.graph import (
    ExportGraph,
    crop_by_padding,
    crop_by_slicing,
    replace_same_padding,
)
from segkit.models.segmenter import create_model


@pytest.mark.parametrize("crop", [crop_by_slicing, crop_by_padding])
@pytest.mark.parametrize("size", [(1, 1), (7, 64), (64, 64), (65, 33)])
def test_it_pads_and_crops_as_the_network_does(crop, size):
    torch.manual_seed(0)
    model = create_model({"name": "resnet18", "pretrained": False}, "fcn", "binary").eval()
    x, seen = torch.rand(2, 3, *size), []
    model.register_forward_pre_hook(lambda _, given: seen.extend(given[0].shape[-2:]))
    with torch.no_grad():
        expected = model(x)
        for activates in (False, True):
            graph = ExportGraph(model, None, activates, crop)
            torch.testing.assert_close(graph(x), expected.sigmoid() if activates else expected)
    assert all(side % 32 == 0 and side >= 64 for side in seen[2:])  # it has nothing to pad


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 255),
        ("uint16", 130, 40_000),
        ("float32", -2.5, 3.0),
        ("float32", (-2.5, 0.0), (3.0, 2000.0)),
    ],
)
def test_it_normalises_as_normalization_does(dtype, low, high):
    normalization = Normalization(dtype, low, high, (0.2, 0.5), (0.1, 0.3))
    model = create_model(
        {"name": "unet", "width": 2, "depth": 2}, "unet", "binary", in_channels=2
    ).eval()
    graph = ExportGraph(model, normalization, True, crop_by_slicing)
    rng = np.random.default_rng(0)
    image = rng.uniform(np.subtract(low, 1), np.add(high, 1), (9, 11, 2)).clip(
        0 if dtype != "float32" else -4
    )
    image = image.clip(None, {"uint8": 255}.get(dtype)).astype(dtype)
    expected = normalization(image).transpose(2, 0, 1)
    given = torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1).copy())
    np.testing.assert_allclose(graph._normalize(given[None])[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (Conv2dSame(2, 3, 3, stride=2), 2),
        (Conv2dSame(2, 2, (5, 3), stride=(2, 1), dilation=(1, 2), groups=2, bias=False), 2),
        (StdConv2dSame(2, 3, 3, stride=2), 2),
        (ScaledStdConv2dSame(2, 3, 7, stride=4), 4),
        (MaxPool2dSame(3, 2), 2),
        (AvgPool2dSame(3, 2), 2),
    ],
)
def test_padding_of_tensorflow_is_constant_for_multiples_of_the_stride(layer, size):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Identity(), layer).eval()
    plain = replace_same_padding(model)
    assert type(model[1]) is type(layer)  # the model itself stays as it is
    assert not isinstance(plain[1], type(layer))
    for height, width in ((8 * size, 12 * size), (4 * size, 4 * size)):
        x = torch.randn(2, 2, height, width)
        torch.testing.assert_close(plain(x), model(x))
