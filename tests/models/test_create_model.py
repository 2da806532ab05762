"""Building by name, its errors, and the examples of the docstrings."""

from __future__ import annotations

import copy
import doctest
import importlib
import pkgutil

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import segkit
import segkit.models
from segkit.core.errors import SegkitError
from segkit.models.encoders import Encoder

SMALL = {"name": "test_resnet", "pretrained": False}
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(segkit.models.__path__, "segkit.models.")
    if name.partition("segkit.models.")[2]
]


@pytest.mark.parametrize(
    "name", [*MODULES, "segkit.core.registry", "segkit.core.errors", "segkit.core.plugins"]
)
def test_the_examples_run(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0


def test_nulls_of_a_config_mean_that_it_is_wired():
    head = {"name": "multiclass", "num_classes": None, "dropout": 0.0}
    neck = {"name": "unet", "norm": None, "width": None}
    model = segkit.create_model(
        {**SMALL, "depth": None, "img_size": None}, neck, head, num_classes=3, in_channels=2
    )
    assert model(torch.rand(1, 2, 9, 9)).shape == (1, 3, 9, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": {"pretrained": False}}, "encoder: a mapping needs the key 'name'"),
        ({"neck": "unnet"}, r"neck 'unnet' is not known\. Did you mean 'unet'"),
        ({"neck": {"name": "unet", "upsampel": 1}}, r"Did you mean 'upsample'"),
        ({"neck": {"name": "unet", "upsample": "near"}}, r"option 'upsample' is 'near'"),
        ({"head": "multiclass"}, "option 'num_classes' is missing"),
        ({"head": {"name": "binary", "threshold": 1.5}}, "option 'threshold' is 1.5"),
        ({"auxiliary": 9}, "9 auxiliary heads were asked for"),
        ({"auxiliary": -1}, "-1 auxiliary heads were asked for"),
        ({"neck": "fcn", "auxiliary": 1}, "the neck 'fcn' has 0 coarser levels"),
        ({"in_channels": 0}, "option 'in_channels' is 0"),
        ({"in_channels": True}, "not a boolean"),
    ],
)
def test_parts_that_do_not_fit_are_errors(options, message):
    with pytest.raises(SegkitError, match=message):
        segkit.create_model(**{"encoder": SMALL, **options})


def test_unknown_names_are_reported_before_weights_are_downloaded(monkeypatch):
    monkeypatch.setattr(Encoder, "build", lambda *_, **__: pytest.fail("built an encoder"))
    for parts in (["unnet"], ["unet", "binry"]):
        with pytest.raises(SegkitError, match="is not known"):
            segkit.create_model(SMALL, *parts)


def test_binary_takes_one_class_or_two():
    for num_classes in (None, 1, 2):
        model = segkit.create_model(SMALL, head="binary", num_classes=num_classes)
        assert model(torch.rand(1, 3, 8, 8)).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_padding_repeats_the_border(layout):
    torch.manual_seed(0)
    model = segkit.create_model(SMALL, "fpn").eval()
    x = torch.rand(1, 3, 50, 40).to(memory_format=layout)
    by_hand = torch.nn.functional.pad(x, (0, 24, 0, 14), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(model(x), model(by_hand)[..., :50, :40])


@pytest.mark.parametrize("neck", ["unet", "fpn", "fcn"])
def test_recomputing_changes_nothing_but_what_is_kept(neck):
    """Gradients, statistics and the draws of dropout are equal to the bit."""
    encoder = {"name": "unet", "depth": 3, "width": 4, "norm": "batch"}
    model = segkit.create_model(encoder, neck, {"name": "binary", "dropout": 0.5})
    start = copy.deepcopy(model.state_dict())
    maps = []  # of the first convolution
    model.encoder.levels[0][0][0].register_forward_hook(
        lambda _, __, y: maps.append(StorageWeakRef(y.untyped_storage()))
    )
    x = torch.rand(2, 3, 24, 32)
    results = []
    for recompute in (False, True):
        model.load_state_dict(start)
        model.zero_grad()
        torch.manual_seed(0)
        (logits,) = model.all_logits(x, recompute)
        assert maps[-1].expired() == recompute
        logits.square().sum().backward()
        tensors = [logits, *(p.grad for p in model.parameters()), *model.buffers()]
        results.append([tensor.detach().clone() for tensor in tensors])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_third_party_encoder_neck_and_head_meet_the_same_contract():
    class Half(Encoder, name="half_for_this_test"):
        def __init__(self, in_channels: int = 3, depth: int = 1, pretrained: bool = False) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(in_channels, 6, 2, stride=2)
            self.channels, self.strides = (6,), (2,)

        def forward(self, x):
            return [self.conv(x)]

    try:
        for neck in ("unet", "fpn", "fcn"):
            model = segkit.create_model("half_for_this_test", neck, in_channels=5)
            assert model(torch.rand(1, 5, 7, 9)).shape == (1, 1, 7, 9)
    finally:
        del Encoder._members["half_for_this_test"]
