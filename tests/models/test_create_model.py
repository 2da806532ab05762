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
from segkit.models.heads import Head
from segkit.models.necks import Neck

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
        ({"neck": "fcn", "auxiliary": 1}, "the neck 'fcn' has 0 other levels"),
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
@pytest.mark.parametrize(("height", "width"), [(50, 40), (20, 9), (9, 20)])
def test_the_padding_repeats_the_border(layout, height, width):
    """To two pixels at least on the coarsest level, which has a stride of 32."""
    torch.manual_seed(0)
    model = segkit.create_model(SMALL, "fpn").eval()
    x = torch.rand(1, 3, height, width).to(memory_format=layout)
    by_hand = torch.nn.functional.pad(x, (0, 64 - width, 0, 64 - height), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(model(x), model(by_hand)[..., :height, :width])


@pytest.mark.parametrize("neck", Neck.names())
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


class Given(Encoder, name="given_for_this_test"):
    """Gives maps of any shapes, whatever it declares."""

    def __init__(self, channels=(4, 8), strides=(2, 4), maps=None, in_channels: int = 3) -> None:
        super().__init__()
        self.channels, self.strides, self.maps = channels, strides, maps

    def forward(self, x):
        shapes = [(4, 2), (8, 4)] if self.maps is None else self.maps
        if isinstance(shapes, str):
            return shapes
        return [x.new_zeros(len(x), c, x.shape[2] // s, x.shape[3] // s) for c, s in shapes]


class GivenNeck(Neck, name="given_for_this_test"):
    def __init__(self, channels, strides, out_channels: int = 4, out_stride: int = 2) -> None:
        super().__init__()
        if out_channels:
            self.out_channels = out_channels
        self.out_stride = out_stride

    def forward(self, maps):
        return maps[0]


class GivenHead(Head, name="given_for_this_test"):
    mode = "binary"

    def __init__(self, in_channels, num_classes: int = 2, num_logits: int = 1) -> None:
        super().__init__()
        self.num_classes, self.num_logits = num_classes, num_logits

    def forward(self, x):
        return x[:, :1]

    def activate(self, logits):
        return logits.sigmoid()

    def decide(self, probabilities):
        return (probabilities[:, 0] > 0.5).long()


class Levels(Neck, name="levels_for_this_test"):
    """Gives the encoder's maps, whatever it declares of the first."""

    def __init__(self, channels, strides, out_channels=4, out_stride=2, shift=0.0) -> None:
        super().__init__()
        self.level_channels, self.level_strides, self.shift = channels, strides, shift
        self.out_channels, self.out_stride = out_channels, out_stride

    def forward(self, maps):
        return maps[0] + self.shift

    def levels(self, maps):
        return maps


del Neck._members["levels_for_this_test"]
GIVEN = "given_for_this_test"
MEMBERS = [(family, family._members.pop(GIVEN)) for family in (Encoder, Neck, Head)]
FOUND = r"\(1, 3, 8, 8\) into \(1, 4, 4, 4\), \(1, 8, 2, 2\)"


@pytest.fixture
def given(monkeypatch):
    """The members above, known for one test."""
    for family, member in MEMBERS:
        monkeypatch.setitem(family._members, GIVEN, member)


@pytest.mark.parametrize(
    ("encoder", "neck", "head", "message"),
    [
        ({"maps": [(4, 2)]}, {}, {}, r"into \(1, 4, 4, 4\), but .*\(1, 4, 4, 4\), \(1, 8, 2, 2\)"),
        (
            {"maps": [(8, 4), (4, 2)]},
            {},
            {},
            r"channels=\(4, 8\) and strides=\(2, 4\).* finest first",
        ),
        ({"channels": (4, 9)}, {}, {}, rf"{GIVEN}' \(Given\) turns {FOUND}.*\(1, 9, 2, 2\)"),
        ({"strides": (1, 4)}, {}, {}, rf"{FOUND}.*strides=\(1, 4\).*\(1, 4, 8, 8\)"),
        ({"maps": "none"}, {}, {}, "a str instead of a list"),
        ({"maps": [(-4, 2)]}, {}, {}, "fails for an input of the shape .*negative"),
        ({"channels": (4,)}, {}, {}, "one of each for every map"),
        ({"strides": (2, 3)}, {}, {}, "each divide the next"),
        ({"channels": 4}, {}, {}, "channels=4 and strides"),
        ({}, {"out_channels": 5}, {}, r"neck .*into \(1, 4, 4, 4\), but .* out_channels=5"),
        ({}, {"out_stride": 4}, {}, "neck .*out_stride=4"),
        ({}, {"out_channels": 0}, {}, "no attribute 'out_channels'"),
        ({}, {}, {"num_logits": 2}, r"head .*num_logits=2, which is \(1, 2, 4, 4\)"),
    ],
)
@pytest.mark.usefixtures("given")
def test_parts_that_give_other_maps_than_they_declare_are_errors(encoder, neck, head, message):
    parts = [{"name": GIVEN, **options} for options in (encoder, neck, head)]
    with pytest.raises(SegkitError, match=message):
        segkit.create_model(*parts)
    assert segkit.create_model(GIVEN, GIVEN, GIVEN)(torch.rand(1, 3, 9, 8)).shape == (1, 1, 9, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out_channels": 8}, r"out_channels=8 .* its first level has 4 channels"),
        ({"out_stride": 4}, "out_stride=4, but .* stride 2"),
        ({"shift": 1}, "another map in forward"),
        ({"shift": "abc"}, "option 'shift' is 'abc': .*number"),  # as its default is one
        ({"out_stride": True}, "option 'out_stride' is True: .*not a boolean"),
    ],
)
@pytest.mark.usefixtures("given")
def test_the_first_level_of_a_neck_is_its_map(options, message, monkeypatch):
    monkeypatch.setitem(Neck._members, "levels", Levels)
    with pytest.raises(SegkitError, match=message):
        segkit.create_model(GIVEN, {"name": "levels", **options}, GIVEN)
    assert segkit.create_model(GIVEN, "levels", GIVEN, auxiliary=1).auxiliary


@pytest.mark.usefixtures("given")
def test_nothing_is_run_for_an_encoder_that_is_already_built():
    built = Encoder.rebuild(GIVEN, {}, maps="none")
    assert segkit.create_model(built, GIVEN, GIVEN).encoder is built
